package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/spool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// pluginDir has the plugin as users get it.
var pluginDir string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "clearway-cni-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, "clearway-ipam"), "github.com/clearway/clearway/cmd/cni")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		pluginDir = dir
		return m.Run()
	}())
}

// agent is a fake of the node's agent that writes down what it is asked.
type agent struct {
	clearwayv1.UnimplementedAddressServiceServer
	socket string
	server *grpc.Server

	mu    sync.Mutex // guards what follows
	calls []string
	fail  error
	hang  bool
}

// newAgent is a fake in a folder of its own that does not listen yet.
func newAgent(t testing.TB) *agent {
	dir, err := os.MkdirTemp("", "clearway-") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &agent{socket: filepath.Join(dir, "agent.sock")}
}

func (a *agent) listen(t testing.TB) *agent {
	listener, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	a.server = grpc.NewServer()
	clearwayv1.RegisterAddressServiceServer(a.server, a)
	served := make(chan struct{})
	go func() { defer close(served); _ = a.server.Serve(listener) }()
	t.Cleanup(func() { a.server.Stop(); <-served })
	return a
}

func (a *agent) note(ctx context.Context, verb string, request proto.Message) error {
	a.mu.Lock()
	text, _ := prototext.MarshalOptions{}.Marshal(request)
	a.calls = append(a.calls, verb+" "+strings.ReplaceAll(string(text), "  ", " "))
	fail, hang := a.fail, a.hang
	a.mu.Unlock()
	if hang {
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	return fail
}

func (a *agent) told() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.calls)
}

func (a *agent) Add(ctx context.Context, request *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
	if request.GetStarted() <= 0 {
		return nil, status.Errorf(codes.InvalidArgument, "the plugin began at %d", request.GetStarted())
	}
	request.Started = 0 // no two calls have the same
	return &clearwayv1.AddResponse{
		Addresses: []*clearwayv1.AddressConfig{
			{Address: "10.244.3.7/16", Gateway: "10.244.0.1"}, {Address: "fd00:10:244::3:7/48", Gateway: "fd00:10:244::1"},
		},
		Routes: []*clearwayv1.RouteConfig{{Destination: "0.0.0.0/0"}, {Destination: "::/0", Gateway: "fd00:10:244::1"}},
	}, a.note(ctx, "Add", request)
}

func (a *agent) Del(ctx context.Context, request *clearwayv1.DelRequest) (*clearwayv1.DelResponse, error) {
	return &clearwayv1.DelResponse{}, a.note(ctx, "Del", request)
}

func (a *agent) Check(ctx context.Context, request *clearwayv1.CheckRequest) (*clearwayv1.CheckResponse, error) {
	return &clearwayv1.CheckResponse{}, a.note(ctx, "Check", request)
}

func (a *agent) Status(ctx context.Context, request *clearwayv1.StatusRequest) (*clearwayv1.StatusResponse, error) {
	return &clearwayv1.StatusResponse{}, a.note(ctx, "Status", request)
}

func (a *agent) GC(ctx context.Context, request *clearwayv1.GCRequest) (*clearwayv1.GCResponse, error) {
	return &clearwayv1.GCResponse{}, a.note(ctx, "GC", request)
}

// refuse makes every call fail with a CNI error.
func (a *agent) refuse(code codes.Code, fault *clearwayv1.CNIError) {
	state, _ := status.New(code, "refused").WithDetails(fault)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = state.Err()
}

// run executes the plugin with a verb as a main plugin does, and returns what it prints.
func run(t testing.TB, verb, config string, env ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	plugin := exec.CommandContext(ctx, filepath.Join(pluginDir, "clearway-ipam"))
	plugin.Env = append([]string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=/var/run/netns/none", "CNI_PATH=" + pluginDir,
	}, env...)
	plugin.Stdin = strings.NewReader(config)
	var out, complaints bytes.Buffer
	plugin.Stdout, plugin.Stderr = &out, &complaints
	err = plugin.Run()
	return out.String(), complaints.String(), err
}

// code is the code of the error that a plugin printed, or 0.
func code(stdout string) uint {
	var fault types.Error
	_ = json.Unmarshal([]byte(stdout), &fault)
	return fault.Code
}

func config(socket, version, more string) string {
	return fmt.Sprintf(`{"cniVersion": %q, "name": "pods", "type": "ptp", "ipam": {"type": "clearway-ipam", "socket": %q}%s}`, version, socket, more)
}

// TestLibcni drives every verb of every version as a runtime does.
func TestLibcni(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			a := newAgent(t).listen(t)
			list, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion": %q, "name": "pods", "plugins": [
				{"type": "clearway-ipam", "capabilities": {"ips": true, "io.kubernetes.cri.pod-annotations": true},
				 "args": {"cni": {"labels": [{"key": "app", "value": "web"}]},
				          "clearway.io": {"namespaceLabels": {"team": "b"}, "namespaceAnnotations": {"clearway.io/pools": "pods4"}}},
				 "ipam": {"type": "clearway-ipam", "socket": %q, "pools": ["pods4", "pods6"]}}]}`, version, a.socket))
			if err != nil {
				t.Fatal(err)
			}
			cni := libcni.NewCNIConfigWithCacheDir([]string{pluginDir}, t.TempDir(), nil)
			pod := &libcni.RuntimeConf{
				ContainerID: "c1", IfName: "eth0", NetNS: "/var/run/netns/none",
				Args:           [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "web-0"}, {"K8S_POD_UID", "u1"}},
				CapabilityArgs: map[string]any{"ips": []string{"10.244.3.7/16"}, "io.kubernetes.cri.pod-annotations": map[string]string{"team": "a"}},
			}
			ctx := t.Context()
			if _, err := cni.ValidateNetworkList(ctx, list); err != nil {
				t.Fatalf("VERSION: %v", err)
			}
			result, err := cni.AddNetworkList(ctx, list, pod)
			if err != nil {
				t.Fatalf("ADD: %v", err)
			}
			if result.Version() != version {
				t.Errorf("the result has version %s", result.Version())
			}
			if version != "0.3.1" {
				if err := cni.CheckNetworkList(ctx, list, pod); err != nil {
					t.Errorf("CHECK: %v", err)
				}
			}
			if err := cni.GetStatusNetworkList(ctx, list); err != nil {
				t.Errorf("STATUS: %v", err)
			}
			if err := cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "c1", IfName: "eth0"}}}); err != nil {
				t.Errorf("GC: %v", err)
			}
			if err := errors.Join(cni.DelNetworkList(ctx, list, pod), cni.DelNetworkList(ctx, list, pod)); err != nil {
				t.Errorf("DEL twice: %v", err)
			}
			const attachment = `attachment:{network:"pods" container_id:"c1" ifname:"eth0"}`
			const owner = ` pod:{namespace:"default" name:"web-0" uid:"u1"}`
			want := []string{
				`Add ` + attachment + owner + ` netns:"/var/run/netns/none" pools:"pods4" pools:"pods6" addresses:"10.244.3.7" annotations:{key:"team" value:"a"} ` +
					`pod_labels:{key:"app" value:"web"} namespace_labels:{key:"team" value:"b"} namespace_annotations:{key:"clearway.io/pools" value:"pods4"}`,
				`Check ` + attachment + ` addresses:"10.244.3.7/16" addresses:"fd00:10:244::3:7/48"`,
				`Status network:"pods" pools:"pods4" pools:"pods6"`,
				`GC network:"pods" valid_attachments:{network:"pods" container_id:"c1" ifname:"eth0"}`,
				`Del ` + attachment + owner, `Del ` + attachment + owner,
			}
			want = slices.DeleteFunc(want, func(call string) bool {
				return strings.HasPrefix(call, "Check") && version == "0.3.1" || (call[0] == 'S' || call[0] == 'G') && version != "1.1.0"
			})
			if got := a.told(); !slices.Equal(got, want) {
				t.Errorf("the agent was asked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// TestResults: what a main plugin reads, in the form of each version, without interfaces.
func TestResults(t *testing.T) {
	a := newAgent(t).listen(t)
	const routes = `"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0","gw":"fd00:10:244::1"}]`
	const old = `"ips":[{"address":"10.244.3.7/16","gateway":"10.244.0.1","version":"4"},{"address":"fd00:10:244::3:7/48","gateway":"fd00:10:244::1","version":"6"}],` + routes
	const now = `"ips":[{"address":"10.244.3.7/16","gateway":"10.244.0.1"},{"address":"fd00:10:244::3:7/48","gateway":"fd00:10:244::1"}],` + routes
	for version, want := range map[string]string{"0.3.1": old, "0.4.0": old, "1.0.0": now, "1.1.0": now} {
		stdout, stderr, err := run(t, "ADD", config(a.socket, version, ""))
		if err != nil || stderr != "" {
			t.Errorf("%s: %v %s %s", version, err, stdout, stderr)
		}
		want = `{"cniVersion":"` + version + `",` + want + `}`
		if got := canonical(t, stdout); got != canonical(t, want) {
			t.Errorf("%s:\n got %s\nwant %s", version, got, want)
		}
	}
}

// canonical is JSON with its keys in order and without white space. Old results have an empty "dns".
func canonical(t *testing.T, text string) string {
	t.Helper()
	var value map[string]any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	delete(value, "dns")
	out, _ := json.Marshal(value)
	return string(out)
}

func TestVersions(t *testing.T) {
	stdout, _, err := run(t, "VERSION", "")
	if err != nil || canonical(t, stdout) != `{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}` {
		t.Errorf("VERSION: %v %s", err, stdout)
	}
	for _, test := range []struct {
		verb, version string
		want          uint
	}{{"ADD", "0.2.0", 1}, {"ADD", "1.2.0", 1}, {"CHECK", "0.3.1", 1}, {"STATUS", "1.0.0", 1}, {"GC", "1.0.0", 1}} {
		if stdout, _, err := run(t, test.verb, config("/none", test.version, "")); err == nil || code(stdout) != test.want {
			t.Errorf("%s %s: %v %s", test.verb, test.version, err, stdout)
		}
	}
}

// TestErrorCodes: codes as the specification has them, on standard output, with exit status 1.
func TestErrorCodes(t *testing.T) {
	a := newAgent(t).listen(t)
	good := config(a.socket, "1.1.0", "")
	wrong := strings.Replace(good, `"socket"`, `"sokcet": 1, "socket"`, 1)
	previous := `, "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.5/24"}]}`
	for _, test := range []struct {
		name, verb, config string
		env                []string
		want               uint
		words              string
	}{
		{"unknown field", "ADD", wrong, nil, 7, `unknown field \"sokcet\"`},
		{"unknown field", "STATUS", wrong, nil, 7, `unknown field \"sokcet\"`},
		{"unknown field on the way out", "DEL", wrong, nil, 0, ""},
		{"no name", "ADD", `{"cniVersion": "1.1.0", "ipam": {}}`, nil, 7, "missing network name"},
		{"no ipam", "ADD", `{"cniVersion": "1.1.0", "name": "pods"}`, nil, 7, "section is missing"},
		{"no JSON", "ADD", `{`, nil, 6, ""},
		{"no container", "ADD", good, []string{"CNI_CONTAINERID="}, 4, "CNI_CONTAINERID"},
		{"no netns", "ADD", good, []string{"CNI_NETNS="}, 4, "CNI_NETNS"},
		{"no netns on the way out", "DEL", good, []string{"CNI_NETNS="}, 0, ""},
		{"unknown argument", "ADD", good, []string{"CNI_ARGS=LATER=1"}, 4, "LATER"},
		{"unknown argument on the way out", "DEL", good, []string{"CNI_ARGS=LATER=1"}, 0, ""},
		{"unknown verb", "SING", good, nil, 4, "SING"},
		{"bad address", "ADD", good, []string{"CNI_ARGS=IP=10.0.0.300"}, 7, "10.0.0.300"},
		{"no prevResult", "CHECK", good, nil, 7, "prevResult"},
		{"a prevResult", "CHECK", config(a.socket, "1.1.0", previous), nil, 0, ""},
		{"no list", "GC", good, nil, 7, "cni.dev/valid-attachments: is missing"},
		{"an empty list", "GC", config(a.socket, "1.1.0", `, "cni.dev/valid-attachments": []`), nil, 0, ""},
		{"a socket that is none", "ADD", config("/dev/null", "1.1.0", ""), nil, 11, "clearway-agent"},
		{"a socket in a file", "ADD", config("/dev/null/agent.sock", "1.1.0", ""), nil, 5, "/dev/null/agent.sock"},
	} {
		t.Run(test.verb+" "+test.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, err := run(t, test.verb, test.config, test.env...)
			if (err != nil) != (test.want != 0) || code(stdout) != test.want || !strings.Contains(stdout, test.words) {
				t.Errorf("%v %s %s, want code %d with %q", err, stdout, stderr, test.want, test.words)
			}
			if strings.TrimSpace(stdout) != "" && !json.Valid([]byte(stdout)) {
				t.Errorf("prints what is no JSON: %s", stdout)
			}
		})
	}
}

// TestAgentsErrors: the agent's CNIError reaches the runtime as it is; bare statuses get a code that fits.
func TestAgentsErrors(t *testing.T) {
	a := newAgent(t).listen(t)
	for _, test := range []struct {
		verb string
		fail func()
		want string
	}{
		{"ADD", func() {
			a.refuse(codes.ResourceExhausted, &clearwayv1.CNIError{Code: 11, Msg: "pool pods is full", Details: "64 of 64"})
		}, `{"code":11,"details":"64 of 64","msg":"pool pods is full"}`},
		{"ADD", func() {
			a.refuse(codes.Unavailable, &clearwayv1.CNIError{Code: 101, Msg: "pool vips is not for Pods"})
		}, `{"code":101,"msg":"pool vips is not for Pods"}`},
		{"STATUS", func() { a.refuse(codes.Unavailable, &clearwayv1.CNIError{Code: 51, Msg: "limited"}) }, `{"code":51,"msg":"limited"}`},
		{"DEL", func() { a.refuse(codes.Unavailable, &clearwayv1.CNIError{Code: 11, Msg: "disk"}) }, `{"code":11,"msg":"disk"}`},
		{"ADD", func() { a.fail = status.Error(codes.ResourceExhausted, "no address") }, `{"code":11,"msg":"no address"}`},
		{"ADD", func() { a.fail = status.Error(codes.InvalidArgument, "no such pool") }, `{"code":7,"msg":"no such pool"}`},
		{"ADD", func() { a.fail = status.Error(codes.Internal, "odd") }, `{"code":999,"msg":"agent: Internal: odd"}`},
		{"ADD", func() { a.refuse(codes.Internal, &clearwayv1.CNIError{Msg: "odd"}) }, `{"code":999,"msg":"odd"}`},
	} {
		test.fail()
		stdout, _, err := run(t, test.verb, config(a.socket, "1.1.0", ""))
		if err == nil || canonical(t, stdout) != test.want {
			t.Errorf("%s: %v\n got %s\nwant %s", test.verb, err, stdout, test.want)
		}
	}
	if entries, err := spool.Read(spool.Dir(a.socket)); len(entries) > 0 || err != nil {
		t.Errorf("a refused DEL is in the spool: %v, %v", entries, err)
	}
}

// TestLocalFirstDelWithoutAgent: DEL succeeds with the agent down, once and again, and the request is on disk.
func TestLocalFirstDelWithoutAgent(t *testing.T) {
	a := newAgent(t)
	for range 2 {
		stdout, stderr, err := run(t, "DEL", config(a.socket, "1.1.0", ""), "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u1")
		if err != nil || stdout != "" || !strings.Contains(stderr, "spool") {
			t.Fatalf("%v %s %s", err, stdout, stderr)
		}
	}
	entries, err := spool.Read(spool.Dir(a.socket))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	want := spool.Request{
		Attachment: spool.Attachment{Network: "pods", ContainerID: "c1", Ifname: "eth0"},
		Pod:        &spool.Pod{Namespace: "default", Name: "web-0", UID: "u1"},
	}
	if !reflect.DeepEqual(entries[0].Request, want) {
		t.Errorf("in the spool: %v", entries[0].Request)
	}
}

// TestDelWithoutSpoolFails: what is neither released nor kept is not done.
func TestDelWithoutSpoolFails(t *testing.T) {
	a := newAgent(t)
	if err := os.WriteFile(spool.Dir(a.socket), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if stdout, _, err := run(t, "DEL", config(a.socket, "1.1.0", "")); err == nil || code(stdout) != 11 {
		t.Errorf("%v %s", err, stdout)
	}
}

func TestWithoutAgent(t *testing.T) {
	a := newAgent(t)
	for verb, want := range map[string]uint{"ADD": 11, "CHECK": 11, "GC": 11, "STATUS": 50} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			more := `, "prevResult": {"cniVersion": "1.1.0", "ips": []}, "cni.dev/valid-attachments": []`
			start := time.Now()
			stdout, _, err := run(t, verb, config(a.socket, "1.1.0", more))
			if err == nil || code(stdout) != want || !strings.Contains(stdout, "is clearway-agent running?") {
				t.Errorf("%v %s", err, stdout)
			}
			if took := time.Since(start); took < 2*time.Second {
				t.Errorf("gave up after %v: an agent that restarts needs longer", took)
			}
		})
	}
}

// TestStatusForgivesARestart: an agent that gave answers before is given half a minute, one that gave none is not.
func TestStatusForgivesARestart(t *testing.T) {
	a := newAgent(t).listen(t)
	status := func() (string, error) {
		stdout, _, err := run(t, "STATUS", config(a.socket, "1.1.0", ""))
		return stdout, err
	}
	if stdout, err := status(); err != nil {
		t.Fatal(err, stdout)
	}
	a.server.Stop()
	if err := os.WriteFile(a.socket, nil, 0o600); err != nil { // the fake's server has removed its socket
		t.Fatal(err)
	}
	long := time.Now().Add(-time.Minute)
	if err := os.Chtimes(a.socket, long, long); err != nil {
		t.Fatal(err)
	}
	if stdout, err := status(); err != nil {
		t.Errorf("at once: %v %s", err, stdout)
	}
	silent := filepath.Join(filepath.Dir(a.socket), "status-unanswered")
	since := time.Now().Add(-31 * time.Second)
	if err := os.Chtimes(silent, since, since); err != nil {
		t.Fatal(err)
	}
	if stdout, err := status(); err == nil || code(stdout) != 50 {
		t.Errorf("after the grace time: %v %s", err, stdout)
	}
	if err := os.Chtimes(a.socket, time.Now(), time.Now()); err != nil { // it was up meanwhile, unasked
		t.Fatal(err)
	}
	if stdout, err := status(); err != nil {
		t.Errorf("after another start: %v %s", err, stdout)
	}
	if err := os.Remove(a.socket); err != nil {
		t.Fatal(err)
	}
	a.listen(t)
	if stdout, err := status(); err != nil {
		t.Error(err, stdout)
	}
	if _, err := os.Stat(silent); err == nil {
		t.Error("an answer does not end the silence")
	}
}

// TestAgentThatStarts: an agent that comes up a moment later is waited for.
func TestAgentThatStarts(t *testing.T) {
	a := newAgent(t)
	done := make(chan error, 2)
	for _, verb := range []string{"ADD", "STATUS"} {
		go func() {
			stdout, _, err := run(t, verb, config(a.socket, "1.1.0", ""))
			if err != nil {
				err = fmt.Errorf("%s: %w %s", verb, err, stdout)
			}
			done <- err
		}()
	}
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	a.listen(t)
	if err := errors.Join(<-done, <-done); err != nil {
		t.Error(err)
	}
}

// TestAgentThatDies: a connection that breaks in the middle of a call ends it at once, and a DEL goes to the spool.
func TestAgentThatDies(t *testing.T) {
	a := newAgent(t)
	a.hang = true
	a.listen(t)
	done := make(chan error, 1)
	go func() {
		stdout, _, err := run(t, "DEL", config(a.socket, "1.1.0", ""))
		if err != nil {
			err = fmt.Errorf("%w %s", err, stdout)
		}
		done <- err
	}()
	for start := time.Now(); len(a.told()) == 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatal("the DEL never came")
		}
	}
	a.server.Stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if entries, err := spool.Read(spool.Dir(a.socket)); len(entries) != 1 || err != nil {
		t.Errorf("in the spool: %v, %v", entries, err)
	}
}

// TestManyAtOnce: the runtime starts Pods in parallel.
func TestManyAtOnce(t *testing.T) {
	a := newAgent(t).listen(t)
	var group sync.WaitGroup
	for i := range 32 {
		group.Go(func() {
			if stdout, _, err := run(t, "ADD", config(a.socket, "1.1.0", ""), fmt.Sprintf("CNI_CONTAINERID=c%d", i)); err != nil {
				t.Errorf("%v %s", err, stdout)
			}
		})
	}
	group.Wait()
	if got := len(a.told()); got != 32 {
		t.Errorf("%d calls came", got)
	}
}

// BenchmarkAdd is an ADD as a whole process.
func BenchmarkAdd(b *testing.B) {
	a := newAgent(b).listen(b)
	input := config(a.socket, "1.1.0", "")
	for b.Loop() {
		if stdout, _, err := run(b, "ADD", input); err != nil {
			b.Fatal(err, stdout)
		}
	}
}
