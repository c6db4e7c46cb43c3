package kube

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/clearway/clearway/integration/kubeapi"
)

// soon is until something that happens in the background is seen, on a machine that does much else.
const soon = time.Minute

// ipamd is a running clearway-ipamd.
type ipamd struct {
	*kubeapi.Process
	listen, metrics string
	argv            []string
	conn            *grpc.ClientConn
}

// startIpamd runs one with a store of its own, or with that of more's --etcd-endpoints, and waits until it is ready.
func startIpamd(t testing.TB, more ...string) *ipamd {
	t.Helper()
	i := newIpamd(t, append([]string{"--insecure"}, more...)...)
	i.launch(t)
	conn, err := grpc.NewClient(i.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	i.conn = conn
	return i
}

// newIpamd is one that has not been started.
func newIpamd(t testing.TB, more ...string) *ipamd {
	t.Helper()
	i := &ipamd{listen: kubeapi.FreeAddress(t), metrics: kubeapi.FreeAddress(t)}
	i.argv = append([]string{"--listen", i.listen, "--metrics-listen", i.metrics, "--limit-client-calls", "0", "--limit-node-calls", "0"}, more...)
	if !strings.Contains(strings.Join(more, " "), "--etcd-endpoints") {
		i.argv = append(i.argv, "--data-dir", filepath.Join(t.TempDir(), "data"))
	}
	return i
}

// launch starts it, for the first time or after its end.
func (i *ipamd) launch(t testing.TB) {
	t.Helper()
	i.Process = kubeapi.Launch(t, "clearway-ipamd", exec.Command(filepath.Join(bin, "clearway-ipamd"), i.argv...))
	kubeapi.Eventually(t, soon, "clearway-ipamd to be ready", func() error {
		if i.Ended() {
			t.Fatal("clearway-ipamd has ended")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+i.metrics+"/readyz", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("/readyz: %s", answer.Status)
		}
		return nil
	})
}

// ctl runs clearwayctl against it.
func (i *ipamd) ctl(t testing.TB, stdin string, argv ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "clearwayctl"), append([]string{"--server", i.listen, "--insecure"}, argv...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("clearwayctl %s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return string(out), nil
}
