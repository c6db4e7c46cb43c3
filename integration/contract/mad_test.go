package contract

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	rpc "google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestMadNode: a node that claims, registers and watches as fast as it can, over many connections, does not keep a sane
// one beside it from its blocks, and an operator from reading.
func TestMadNode(t *testing.T) {
	ours := newAuthority(t, "ours")
	files := ours.issue(t, server)
	i := startIpamd(t, append(files.flags("tls"), "--data-dir", t.TempDir(), "--limit-node-claims", "10", "--limit-host-connections", "64")...)
	ready(t, i.process, i.metrics)
	alice := ours.issue(t, operator)
	secureCtl(t, pool("pods", "10.0.0.0/12"), i.address, alice, "apply", "-f", "-").shows(t, "ippool/pods created")

	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	sane := registered(ctx, t, ours, i.address, "sane")
	var mad sync.WaitGroup
	defer mad.Wait()
	quiet := make(chan struct{})
	defer close(quiet)
	var refused atomic.Int64
	node := registered(ctx, t, ours, i.address, "mad")
	for caller := range 8 {
		mad.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-quiet:
					return
				default:
				}
				if _, err := node.claim(ctx, fmt.Sprintf("mad-%d-%d", caller, n)); rpc.Code(err) == codes.ResourceExhausted {
					refused.Add(1)
				}
				if stream, err := node.client.WatchOwnership(ctx, &clearwayv1.WatchOwnershipRequest{Node: "mad"}); err == nil {
					_, _ = stream.Recv()
				}
			}
		})
	}
	for n := range 20 {
		if _, err := sane.claim(ctx, fmt.Sprint("sane-", n)); err != nil {
			t.Fatalf("the sane node's claim %d: %v", n, err)
		}
	}
	secureCtl(t, "", i.address, alice, "get", "nodes").shows(t, "sane", "mad")
	eventually(t, "the mad node to be refused", func() error {
		if refused.Load() == 0 {
			return fmt.Errorf("it has not been")
		}
		return nil
	})
	i.logs(t, "a call is refused", "reason=rate", "CN=mad", "makes more than 10 calls a second; try again in")
	if text := scrape(t, i.metrics); !strings.Contains(text, `clearway_ipamd_refusals_total{method="/clearway.v1.NodeService/ClaimBlock",reason="rate"}`) {
		t.Error("the refusals are not counted")
	}
}

// TestTooManyConnections: one host cannot take all there are.
func TestTooManyConnections(t *testing.T) {
	i := startIpamd(t, "--insecure", "--data-dir", t.TempDir(), "--limit-host-connections", "4")
	ready(t, i.process, i.metrics)
	var held []net.Conn
	for range 4 {
		conn, err := net.Dial("tcp", i.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		held = append(held, conn)
	}
	eventually(t, "a further one to be refused", func() error {
		if got := ctl(t, i.address, "--timeout=2s", "get", "nodes"); got.code == 0 {
			return fmt.Errorf("it is let in")
		}
		return nil
	})
	i.logs(t, "its host has too many", "host=127.0.0.1", "limit=4")
	held[0].Close()
	eventually(t, "a place to be free", func() error {
		if got := ctl(t, i.address, "--timeout=2s", "get", "nodes"); got.code != 0 {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
}

// nodeClient is a registered node that a test calls as.
type nodeClient struct {
	name, session string
	client        clearwayv1.NodeServiceClient
}

func registered(ctx context.Context, t testing.TB, a *authority, address, name string) *nodeClient {
	t.Helper()
	files := a.issue(t, named(name))
	pair, err := tls.LoadX509KeyPair(files.cert, files.key)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(a.certificate)
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: trusted,
	})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	made := &nodeClient{name: name, client: clearwayv1.NewNodeServiceClient(conn)}
	answer, err := made.client.Register(ctx, &clearwayv1.RegisterRequest{
		Node: name, MachineId: name, BootId: name, JournalId: name, ProcessId: name,
	})
	if err != nil {
		t.Fatal(err)
	}
	made.session = answer.GetSessionId()
	return made
}

func (n *nodeClient) claim(ctx context.Context, key string) (*clearwayv1.ClaimBlockResponse, error) {
	return n.client.ClaimBlock(ctx, &clearwayv1.ClaimBlockRequest{
		Node: n.name, SessionId: n.session, RequestKey: key, Pool: "pods",
	})
}
