package kube

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/client/v3"

	"github.com/clearway/clearway/integration/kubeapi"
)

// testFaults: the API server dies, hangs, and loses its history; the leader dies. What is applied in the end holds.
func testFaults(t *testing.T, c *cluster) {
	shared := []string{"--etcd-endpoints", c.etcd, "--etcd-prefix", "/clearway/faults"}
	a, b := c.ipamd(t, shared...), c.ipamd(t, shared...)
	number := 0
	// applied changes the pool and waits until the one that leads has it.
	applied := func(what string, from ...*ipamd) {
		t.Helper()
		number++
		c.apply(t, "IPPool", "faults", fmt.Sprintf("{cidr: 10.220.0.0/16, priority: %d}", number))
		kubeapi.Eventually(t, soon, what, func() error {
			var out string
			var err error
			for _, one := range from {
				if out, err = one.ctl(t, "", "get", "ippool", "faults", "-o", "json"); err == nil {
					break
				}
			}
			if err == nil && !strings.Contains(out, fmt.Sprintf(`"priority": %d`, number)) {
				err = fmt.Errorf("it has %s", out)
			}
			return err
		})
		c.accepted(t, "IPPool", "faults")
	}
	applied("a pool", a, b)
	t.Run("killed, and its history lost", func(t *testing.T) {
		c.Kill()
		compact(t, c.etcd)
		if out, err := a.ctl(t, "", "get", "ippool", "faults"); err != nil {
			t.Errorf("ipamd does not serve while the API server is away: %s, %v", out, err)
		}
		leader := a
		if strings.Contains(b.Log(), "msg=leading") {
			leader = b
		}
		if _, err := leader.ctl(t, "{apiVersion: clearway.io/v1, kind: IPPool, metadata: {name: x}, spec: {cidr: 10.221.0.0/16}}", "apply", "-f", "-"); err == nil {
			t.Error("an apply succeeds while the API server is away")
		}
		c.Launch()
		applied("a change after the API server's return", a, b)
	})
	t.Run("hangs", func(t *testing.T) {
		c.Signal(syscall.SIGSTOP)
		if out, err := a.ctl(t, "", "get", "ippool", "faults"); err != nil {
			t.Errorf("ipamd does not serve while the API server hangs: %s, %v", out, err)
		}
		c.Signal(syscall.SIGCONT)
		applied("a change after the API server went on", a, b)
	})
	t.Run("failover", func(t *testing.T) {
		leader, other := a, b
		if strings.Contains(b.Log(), "msg=leading") {
			leader, other = b, a
		}
		leader.Kill()
		applied("a change under a new leader", other)
	})
	c.delete(t, path("IPPool", "faults"))
}

// compact throws away all of etcd's history.
func compact(t *testing.T, endpoint string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Context: ctx})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	answer, err := client.Get(ctx, "x")
	if err == nil {
		_, err = client.Compact(ctx, answer.Header.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
}
