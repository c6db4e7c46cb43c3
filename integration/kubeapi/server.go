package kubeapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/integration/lab"
)

// startTime is how long the API server may take to serve, on a machine that does much else.
const startTime = 2 * time.Minute

// The users that the server knows, each with itself as its token.
const (
	Admin = "admin" // of system:masters
	Ipamd = "system:serviceaccount:clearway-system:clearway-ipamd"
)

// Server is a running kube-apiserver.
type Server struct {
	*Process
	URL  string // "https://127.0.0.1:PORT"
	dir  string
	argv []string
	http *http.Client
	test testing.TB
	// network is the file of the network namespace that it is in; empty: ours.
	network string
}

// Build makes the kube-apiserver, where it is not there yet, and returns where it is. Several at a time take turns.
func Build(ctx context.Context) (string, error) {
	root, err := lab.Root()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(bin, ".kube-apiserver.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", bin, err)
	}
	cmd := exec.CommandContext(ctx, "make", "-C", root, "bin/kube-apiserver")
	for _, variable := range os.Environ() {
		// We may be under make ourselves; its flags are not for this one.
		if !strings.HasPrefix(variable, "MAKE") && !strings.HasPrefix(variable, "MFLAGS=") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build kube-apiserver: %w\n%s", err, output)
	}
	return filepath.Join(bin, "kube-apiserver"), nil
}

// Start runs an API server over an etcd until the test ends, and waits until it serves.
func Start(t testing.TB, etcd string) *Server {
	t.Helper()
	return StartIn(t, etcd, "")
}

// StartIn is Start in a network namespace, by its file: it listens at that one's loopback.
func StartIn(t testing.TB, etcd, network string) *Server {
	t.Helper()
	return start(t, etcd, FreeAddress(t), network,
		// There is no controller-manager that would make the default service account of a namespace.
		"--bind-address", "127.0.0.1", "--disable-admission-plugins", "ServiceAccount", "--endpoint-reconciler-type", "none")
}

// StartAt is StartIn for a cluster whose other machines reach the server at an address and port. It is to have a
// controller-manager: Pods get their service accounts.
func StartAt(t testing.TB, etcd, network, address string) *Server {
	t.Helper()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, etcd, address, network, "--advertise-address", host)
}

func start(t testing.TB, etcd, address, network string, more ...string) *Server {
	t.Helper()
	program, err := Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{URL: "https://" + address, dir: t.TempDir(), test: t, network: network}
	keys, tokens := s.Key(), filepath.Join(s.dir, "tokens")
	writeKey(t, keys)
	write(t, tokens, fmt.Sprintf("%s,%s,1,\"system:masters\"\n%s,%s,2,\"system:serviceaccounts,system:serviceaccounts:clearway-system\"\n", Admin, Admin, Ipamd, Ipamd))
	_, port, _ := net.SplitHostPort(address)
	s.argv = append([]string{
		program, "--etcd-servers", etcd, "--secure-port", port, "--cert-dir", s.dir,
		"--service-account-key-file", keys, "--service-account-signing-key-file", keys, "--service-account-issuer", "https://local",
		"--service-cluster-ip-range", "10.96.0.0/16,fd00:10:96::/112", "--token-auth-file", tokens, "--authorization-mode", "RBAC",
	}, more...)
	s.Launch()
	return s
}

// Launch starts the server, for the first time or after its end, and waits until it serves.
func (s *Server) Launch() {
	s.test.Helper()
	s.Process = Launch(s.test, "kube-apiserver", command(s.network, s.argv...))
	Eventually(s.test, startTime, "kube-apiserver", func() error {
		if s.Ended() {
			s.test.Fatal("kube-apiserver has ended")
		}
		return s.Ready()
	})
}

// Ready is nil when the server serves.
func (s *Server) Ready() error {
	if s.http == nil {
		authority, err := os.ReadFile(s.CA())
		if err != nil {
			return err
		}
		s.http = client(authority, s.network)
		s.test.Cleanup(s.http.CloseIdleConnections)
	}
	code, text, err := s.Call(context.Background(), http.MethodGet, "/readyz", nil, "")
	if err != nil {
		s.http = nil
		return err
	}
	if code != http.StatusOK {
		return fmt.Errorf("/readyz: %d: %s", code, text)
	}
	return nil
}

// CA is the file of the authority of the server's certificate.
func (s *Server) CA() string { return filepath.Join(s.dir, "apiserver.crt") }

// Key is the file of the key that service accounts' tokens are signed with.
func (s *Server) Key() string { return filepath.Join(s.dir, "sa.key") }

// Call sends one request as Admin; query is part of the path. An empty content type is JSON's.
func (s *Server) Call(ctx context.Context, method, path string, body []byte, contentType string) (int, []byte, error) {
	if contentType == "" {
		contentType = "application/json"
	}
	return s.call(ctx, method, path, body, map[string]string{"Content-Type": contentType})
}

// CallAccepting reads something in a form of its own, as the table that kubectl prints.
func (s *Server) CallAccepting(ctx context.Context, path, form string) (int, []byte, error) {
	return s.call(ctx, http.MethodGet, path, nil, map[string]string{"Accept": form})
}

func (s *Server) call(ctx context.Context, method, path string, body []byte, headers map[string]string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+Admin)
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	answer, err := s.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, text, err
}

// ServerSideApply writes an object, in YAML or JSON, as "kubectl apply --server-side" does; at its place.
func (s *Server) ServerSideApply(ctx context.Context, path string, object []byte) error {
	code, text, err := s.Call(ctx, http.MethodPatch, path+"?fieldManager=test&force=true", object, "application/apply-patch+yaml")
	switch {
	case err != nil:
		return err
	case code != http.StatusOK && code != http.StatusCreated:
		return fmt.Errorf("%s: %d: %s", path, code, text)
	}
	return nil
}

// Kubeconfig writes a kubeconfig of one of the server's users and returns its file.
func (s *Server) Kubeconfig(user string) string {
	s.test.Helper()
	path := filepath.Join(s.dir, "kubeconfig-"+strings.ReplaceAll(user, ":", "-"))
	write(s.test, path, fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: test, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
`, s.URL, s.CA(), user))
	return path
}

// InstallDefinitions applies deploy/kubernetes/crds and waits until the API server serves them.
func (s *Server) InstallDefinitions() {
	t := s.test
	t.Helper()
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "deploy/kubernetes/crds/*.clearway.io.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no definitions: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		if err := s.ServerSideApply(t.Context(), "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+name, text); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range files {
		plural, _, _ := strings.Cut(filepath.Base(file), ".")
		Eventually(t, startTime, "definition of "+plural, func() error {
			code, text, err := s.Call(t.Context(), http.MethodGet, "/apis/clearway.io/v1/"+plural, nil, "")
			if err == nil && code != http.StatusOK {
				err = errors.New(string(text))
			}
			return err
		})
	}
}

// InstallRoles applies deploy/kubernetes/rbac: what Ipamd may do.
func (s *Server) InstallRoles() {
	t := s.test
	t.Helper()
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "deploy/kubernetes/rbac/ipamd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	role, binding, found := strings.Cut(string(text), "\n---\n")
	if !found {
		t.Fatal("a role and its binding are wanted")
	}
	for plural, object := range map[string]string{"clusterroles": role, "clusterrolebindings": binding} {
		if err := s.ServerSideApply(t.Context(), "/apis/rbac.authorization.k8s.io/v1/"+plural+"/clearway-ipamd", []byte(object)); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeKey makes the key that the server signs service accounts' tokens with.
func writeKey(t testing.TB, path string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	write(t, path, string(pem.EncodeToMemory(block)))
}
