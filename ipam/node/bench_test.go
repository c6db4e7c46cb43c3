package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/clearway/clearway/ipam/node/nodetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// BenchmarkAddThroughSocket is ADD through a unix socket, every answer durable; each is followed by its DEL, which is not
// counted. The bare disk is measured by BenchmarkAppend/raw of the journal.
func BenchmarkAddThroughSocket(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			client := benchAgent(b)
			took := make([][]time.Duration, callers)
			began := time.Now()
			b.ResetTimer()
			var all sync.WaitGroup
			for c := range callers {
				all.Go(func() {
					for i := range b.N / callers {
						one, err := addAndDel(client, fmt.Sprintf("c%d-%d", c, i))
						if err != nil {
							b.Error(err)
							return
						}
						took[c] = append(took[c], one)
					}
				})
			}
			all.Wait()
			b.StopTimer()
			every := slices.Concat(took...)
			if slices.Sort(every); len(every) == 0 {
				return
			}
			b.ReportMetric(float64(2*len(every))/time.Since(began).Seconds(), "calls/s")
			b.ReportMetric(float64(every[len(every)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(every[len(every)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func addAndDel(client clearwayv1.AddressServiceClient, name string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	began := time.Now()
	_, err := client.Add(ctx, &clearwayv1.AddRequest{
		Attachment: attachment(name), Pod: &clearwayv1.Pod{Namespace: "default", Name: name, Uid: "4b1b5e0e-5f0a-4d6e-9c39-" + name},
	})
	took := time.Since(began)
	if err == nil {
		_, err = client.Del(ctx, &clearwayv1.DelRequest{Attachment: attachment(name)})
	}
	return took, err
}

func benchAgent(b *testing.B) clearwayv1.AddressServiceClient {
	d := nodetest.New(b)
	d.Pool("v4", &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/16", BlockSize: 24})
	d.Pool("v6", &clearwayv1.IPPoolSpec{Cidr: "fd00:1::/48", BlockSize: 120})
	d.Configure(&clearwayv1.IPAMConfigurationSpec{Cooldown: "0s"})
	a := run(b, d, b.TempDir(), func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil)) })
	nodetest.Eventually(b, "the node has its blocks", func() bool { return len(a.book.advertised()) == 2 })
	listener, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	clearwayv1.RegisterAddressServiceServer(server, a.api)
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("unix:"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close(); server.Stop() })
	return clearwayv1.NewAddressServiceClient(conn)
}
