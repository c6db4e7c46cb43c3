package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestMain lets the test binary be the program itself.
func TestMain(m *testing.M) {
	if os.Getenv("CLEARWAY_TEST_RUN_MAIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func program(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "CLEARWAY_TEST_RUN_MAIN=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// running is one clearway-ipamd process.
type running struct {
	*exec.Cmd
	conn *grpc.ClientConn
	done chan struct{}
}

func startProgram(t testing.TB, dataDir, listen string, more ...string) *running {
	t.Helper()
	r := &running{
		Cmd:  program(append(more, "--data-dir", dataDir, "--listen", listen, "--metrics-listen", "127.0.0.1:0", "--insecure")...),
		done: make(chan struct{}),
	}
	log, err := r.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		for lines := bufio.NewScanner(log); lines.Scan(); {
		}
		_ = r.Wait()
	}()
	t.Cleanup(func() { r.end(syscall.SIGKILL) })
	r.conn, err = grpc.NewClient(listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.conn.Close() })
	deadline := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		answer, err := healthv1.NewHealthClient(r.conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.WaitForReady(true))
		cancel()
		if err == nil && answer.GetStatus() == healthv1.HealthCheckResponse_SERVING {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not serve: %v %v", answer, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (r *running) end(signal syscall.Signal) {
	_ = r.Process.Signal(signal)
	<-r.done
}

// freePort finds a port that a process can be restarted at.
func freePort(t testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

func register(ctx context.Context, conn *grpc.ClientConn, node string) (string, error) {
	answer, err := clearwayv1.NewNodeServiceClient(conn).Register(ctx, &clearwayv1.RegisterRequest{
		Node: node, MachineId: "m", BootId: "b", JournalId: "j-" + node, ProcessId: "p-" + node,
	})
	return answer.GetSessionId(), err
}

func applyPool(ctx context.Context, t testing.TB, conn *grpc.ClientConn, name, cidr string) {
	t.Helper()
	_, err := clearwayv1.NewResourceServiceClient(conn).Apply(ctx, &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{
		clearwayv1.Wrap(&clearwayv1.IPPool{Metadata: &clearwayv1.ObjectMeta{Name: name}, Spec: &clearwayv1.IPPoolSpec{Cidr: cidr}}),
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// TestIdempotentThroughKills kills ipamd in the middle of claims, again and again: what was answered stays, and a
// repeated request gets what it got or would have got.
func TestIdempotentThroughKills(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir, listen := filepath.Join(t.TempDir(), "data"), freePort(t)
	r := startProgram(t, dir, listen)
	applyPool(ctx, t, r.conn, "pods", "10.0.0.0/8")
	const nodes, rounds = 4, 3
	var mu sync.Mutex
	answered := map[string]string{} // request to block
	for round := range rounds {
		var group sync.WaitGroup
		killed := make(chan struct{})
		sessions := registerAll(ctx, t, r.conn, nodes)
		for n := range nodes {
			group.Go(func() {
				node := fmt.Sprint("n", n)
				session := sessions[node]
				var err error
				for i := 0; err == nil; i++ {
					var got *clearwayv1.ClaimBlockResponse
					key := fmt.Sprintf("%d-%d", round, i)
					got, err = clearwayv1.NewNodeServiceClient(r.conn).ClaimBlock(ctx, &clearwayv1.ClaimBlockRequest{
						Node: node, SessionId: session, RequestKey: key, Pool: "pods",
					})
					mu.Lock()
					if err == nil {
						answered[node+" "+key] = got.GetBlock().GetCidr()
					} else {
						answered[node+" "+key] = "" // asked, and not answered
					}
					enough := len(answered) > 200*(round+1)
					mu.Unlock()
					if enough {
						select {
						case <-killed:
						default:
							_ = r.Process.Signal(syscall.SIGKILL)
						}
					}
				}
			})
		}
		group.Wait()
		close(killed)
		<-r.done
		r = startProgram(t, dir, listen)
	}
	sessions := registerAll(ctx, t, r.conn, nodes)
	owner := map[string]string{}
	for request, block := range answered {
		node, key, _ := strings.Cut(request, " ")
		got, err := clearwayv1.NewNodeServiceClient(r.conn).ClaimBlock(ctx, &clearwayv1.ClaimBlockRequest{
			Node: node, SessionId: sessions[node], RequestKey: key, Pool: "pods",
		})
		if err != nil || (block != "" && got.GetBlock().GetCidr() != block) {
			t.Fatalf("%s had %q and has %v, %v", request, block, got.GetBlock(), err)
		}
		if other, twice := owner[got.GetBlock().GetCidr()]; twice {
			t.Fatalf("%s is %s's and %s's", got.GetBlock().GetCidr(), other, request)
		}
		owner[got.GetBlock().GetCidr()] = request
	}
	t.Logf("%d requests through %d kills", len(answered), rounds)
	start := time.Now()
	r.end(syscall.SIGTERM)
	if took := time.Since(start); took > 6*time.Second || r.ProcessState.ExitCode() != 0 {
		t.Errorf("SIGTERM: exit %d after %s", r.ProcessState.ExitCode(), took)
	}
}

// registerAll registers nodes n0 and on, for an ipamd that has just started gives no block before all are back.
func registerAll(ctx context.Context, t *testing.T, conn *grpc.ClientConn, nodes int) map[string]string {
	t.Helper()
	sessions := map[string]string{}
	for n := range nodes {
		node := fmt.Sprint("n", n)
		session, err := register(ctx, conn, node)
		if err != nil {
			t.Fatal(err)
		}
		sessions[node] = session
	}
	return sessions
}

func TestUsageErrorsSayBothWays(t *testing.T) {
	for _, test := range []struct {
		args  []string
		words string
	}{
		{[]string{"--insecure"}, "--data-dir DIR for an embedded etcd, or --etcd-endpoints"},
		{[]string{"--insecure", "--data-dir", "x", "--etcd-endpoints", "http://127.0.0.1:1"}, "exclude each other"},
		{[]string{"--data-dir", "x"}, "--insecure"},
		{[]string{"--insecure", "--data-dir", "x", "--kubeconfig", "y", "--in-cluster"}, "--in-cluster exclude each other"},
		{[]string{"--insecure", "--etcd-endpoints", "127.0.0.1:2379"}, "is not a URL"},
		{[]string{"--insecure", "--data-dir", "x", "--listen", "7470"}, "ADDR:PORT"},
		{[]string{"--insecure", "--data-dir", "x", "--etcd-prefix", "clearway"}, "/clearway/v1"},
	} {
		out, err := program(test.args...).CombinedOutput()
		code := -1
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		}
		if code != 2 || !strings.Contains(string(out), test.words) {
			t.Errorf("%q: exit %d: %s", test.args, code, out)
		}
	}
}

func TestSecondProcessOnOneFolderIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	startProgram(t, dir, freePort(t))
	out, err := program("--data-dir", dir, "--listen", "127.0.0.1:0", "--metrics-listen", "", "--insecure").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "in use by another process") {
		t.Errorf("%v: %s", err, out)
	}
}

// BenchmarkClaims measures durable block claims at 64 callers over the embedded etcd.
func BenchmarkClaims(b *testing.B) {
	const callers = 64
	ctx := context.Background()
	r := startProgram(b, filepath.Join(b.TempDir(), "data"), freePort(b),
		"--limit-node-claims", "0", "--limit-node-calls", "0", "--limit-client-calls", "0")
	applyPool(ctx, b, r.conn, "pods", "fd00::/48")
	var sessions [callers]string
	for i := range sessions {
		var err error
		if sessions[i], err = register(ctx, r.conn, fmt.Sprint("n", i)); err != nil {
			b.Fatal(err)
		}
	}
	work := make(chan int)
	b.ResetTimer()
	var group sync.WaitGroup
	for c := range callers {
		group.Go(func() {
			for i := range work {
				_, err := clearwayv1.NewNodeServiceClient(r.conn).ClaimBlock(ctx, &clearwayv1.ClaimBlockRequest{
					Node: fmt.Sprint("n", c), SessionId: sessions[c], RequestKey: fmt.Sprint(i), Pool: "pods",
				})
				if err != nil && status.Code(err) != codes.Canceled {
					b.Error(err)
				}
			}
		})
	}
	for i := range b.N {
		work <- i
	}
	close(work)
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "claims/s")
}
