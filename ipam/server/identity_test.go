package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/clearway/clearway/ipam/identity"
	"github.com/clearway/clearway/ipam/server"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// certify makes certificates of one authority.
func certify(t testing.TB) (issue func(pkix.Name, ...string) tls.Certificate, authorities *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	make := func(template *x509.Certificate) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, authority, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	root, err := x509.ParseCertificate(make(authority))
	if err != nil {
		t.Fatal(err)
	}
	authorities = x509.NewCertPool()
	authorities.AddCert(root)
	return func(subject pkix.Name, dns ...string) tls.Certificate {
		der := make(&x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: subject, DNSNames: dns,
			NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		})
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}, authorities
}

// secure is a server with mutual TLS, its log and its metrics.
type secure struct {
	t       testing.TB
	issue   func(pkix.Name, ...string) tls.Certificate
	trusted *x509.CertPool
	listen  *bufconn.Listener
	doors   *grpc.Server
	log     *safeBuffer
	metrics *prometheus.Registry
}

type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(line)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func startSecure(t testing.TB) *secure {
	t.Helper()
	s := &secure{t: t, listen: bufconn.Listen(1 << 20), log: &safeBuffer{}, metrics: prometheus.NewRegistry()}
	s.issue, s.trusted = certify(t)
	decider, err := server.New(server.Options{
		Store: newFake(), Address: "leader:7470", Logger: slog.New(slog.NewTextHandler(s.log, nil)), Metrics: s.metrics,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.doors = grpc.NewServer(append(decider.ServerOptions(), grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{s.issue(identity.Subject(identity.Ipamd, "ipamd"), "ipamd")},
		ClientCAs:    s.trusted, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	})))...)
	decider.Register(s.doors)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = decider.Run(ctx) })
	running.Go(func() { _ = s.doors.Serve(s.listen) })
	t.Cleanup(func() { cancel(); s.doors.Stop(); running.Wait() })
	for deadline := time.Now().Add(20 * time.Second); !decider.Leading(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the server never leads")
		}
	}
	return s
}

func (s *secure) dial(subject pkix.Name, dns ...string) *grpc.ClientConn {
	s.t.Helper()
	conn, err := grpc.NewClient("passthrough:///ipamd", grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{s.issue(subject, dns...)}, RootCAs: s.trusted, ServerName: "ipamd",
	})), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.listen.DialContext(ctx) }))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// call makes a call of any method with one message, and tells how it ends: with the first answer, or an error.
func call(t testing.TB, conn *grpc.ClientConn, method string, request proto.Message) error {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err == nil {
		err = stream.SendMsg(request)
	}
	if err == nil {
		_ = stream.CloseSend()
	}
	return stream.RecvMsg(&emptypb.Empty{})
}

// methods are all that is served, sorted.
func (s *secure) methods() []string {
	var all []string
	for service, info := range s.doors.GetServiceInfo() {
		for _, method := range info.Methods {
			all = append(all, fmt.Sprintf("/%s/%s", service, method.Name))
		}
	}
	slices.Sort(all)
	return all
}

// TestRoles: each certificate may do what its role says, on every method that is served, and nothing else.
func TestRoles(t *testing.T) {
	s := startSecure(t)
	reads := []string{
		"/clearway.v1.IPAMService/ShowAddress", "/clearway.v1.IPAMService/History", "/clearway.v1.IPAMService/VerifyRoutes", "/clearway.v1.IPAMService/ShowStore", "/clearway.v1.IPAMService/Export", "/clearway.v1.ResourceService/List",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
	}
	changes := []string{
		"/clearway.v1.IPAMService/Adopt", "/clearway.v1.IPAMService/CheckBooks", "/clearway.v1.IPAMService/Import", "/clearway.v1.IPAMService/Recover", "/clearway.v1.ResourceService/Apply", "/clearway.v1.ResourceService/Delete",
	}
	anyones := []string{healthv1.Health_Check_FullMethodName, healthv1.Health_List_FullMethodName, healthv1.Health_Watch_FullMethodName}
	nodes := slices.DeleteFunc(s.methods(), func(method string) bool { return !strings.HasPrefix(method, "/clearway.v1.NodeService/") })
	for _, c := range []struct {
		name    string
		subject pkix.Name
		may     []string
	}{
		{"operator", identity.Subject(identity.Operator, "alice"), slices.Concat(reads, changes)},
		{"viewer", identity.Subject(identity.Viewer, "bob"), reads},
		{"node", identity.Subject(identity.Node, "n1"), nodes},
		{"node by name alone", pkix.Name{CommonName: "n1"}, nodes},
		{"another node", identity.Subject(identity.Node, "n2"), nil},
		{"ipamd", identity.Subject(identity.Ipamd, "n1"), nil},
		{"no role", pkix.Name{CommonName: "alice"}, nil},
		{"an operator by the wrong field", pkix.Name{CommonName: "clearway:operators", OrganizationalUnit: []string{"clearway:operators"}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := s.dial(c.subject)
			for _, method := range s.methods() {
				if !server.HasRule(method) {
					t.Errorf("%s has no rule: say in demands (identity.go) whose certificate it takes, and here", method)
				}
				var request proto.Message = &emptypb.Empty{}
				if slices.Contains(nodes, method) {
					request = &clearwayv1.RegisterRequest{Node: "n1"} // the first field of all of them
				}
				err := call(t, conn, method, request)
				allowed := slices.Contains(c.may, method) || slices.Contains(anyones, method)
				if refused := status.Code(err) == codes.PermissionDenied; refused == allowed {
					t.Errorf("%s: %v", method, err)
				} else if refused && !strings.Contains(err.Error(), "CN="+c.subject.CommonName) {
					t.Errorf("%s: the refusal does not name the certificate: %v", method, err)
				}
			}
		})
	}
}

// Every message of a node's stream is judged, not the first alone.
func TestStreamsAreJudgedByEachMessage(t *testing.T) {
	s := startSecure(t)
	conn := s.dial(identity.Subject(identity.Node, "n1"))
	stream, err := conn.NewStream(testContext(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, stream.RecvMsg(&emptypb.Empty{}), codes.PermissionDenied) // before anything was said

	node := clearwayv1.NewNodeServiceClient(conn)
	registered, err := node.Register(testContext(t), &clearwayv1.RegisterRequest{
		Node: "n1", BootId: "b", JournalId: "j", ProcessId: "p",
	})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := node.WatchNode(testContext(t), &clearwayv1.WatchNodeRequest{Node: "n1", SessionId: registered.GetSessionId()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatalf("its own: %v", err)
	}
	// A question to the node, whose answer it begins as itself and goes on with as another.
	operator := clearwayv1.NewResourceServiceClient(s.dial(identity.Subject(identity.Operator, "alice")))
	if _, err := operator.List(testContext(t), &clearwayv1.ListRequest{Kind: "Route", Node: "n1"}); err != nil {
		t.Fatal(err)
	}
	asked, err := watch.Recv()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := node.AnswerQuery(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"n1", "n2"} {
		_ = answer.Send(&clearwayv1.AnswerQueryRequest{
			Node: name, SessionId: registered.GetSessionId(), QueryId: asked.GetQuery().GetId(),
		})
	}
	_, err = answer.CloseAndRecv()
	wantCode(t, err, codes.PermissionDenied)
}

// Refusals are counted by method and reason, and a flood of them is a few lines of the log.
func TestRefusalsAreCounted(t *testing.T) {
	s := startSecure(t)
	viewer := clearwayv1.NewResourceServiceClient(s.dial(identity.Subject(identity.Viewer, "bob")))
	for range 200 {
		_, err := viewer.Apply(testContext(t), &clearwayv1.ApplyRequest{})
		wantCode(t, err, codes.PermissionDenied)
	}
	node := clearwayv1.NewNodeServiceClient(s.dial(identity.Subject(identity.Node, "n1")))
	_, err := node.Register(testContext(t), &clearwayv1.RegisterRequest{Node: "n2"})
	wantCode(t, err, codes.PermissionDenied)
	for key, want := range map[string]float64{
		"/clearway.v1.ResourceService/Apply role": 200, "/clearway.v1.NodeService/Register node": 1,
	} {
		if got := s.refusals()[key]; got != want {
			t.Errorf("%s: counted %g, want %g", key, got, want)
		}
	}
	lines := strings.Count(s.log.String(), "a call is refused")
	if lines < 20 || lines > 60 {
		t.Errorf("%d lines of log", lines)
	}
	for _, want := range []string{"reason=role", "CN=bob", "clearway:operators", "method=/clearway.v1.ResourceService/Apply"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

// refusals are the counters by "method reason".
func (s *secure) refusals() map[string]float64 {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "clearway_ipamd_refusals_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetValue())
			}
			counted[strings.Join(labels, " ")] = metric.GetCounter().GetValue()
		}
	}
	return counted
}
