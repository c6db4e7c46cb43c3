package contract

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestFullEtcd: an etcd over its quota takes no writes. Claims are refused and say why, Pods go on from the blocks there are,
// clearwayctl shows it, and all goes on when there is space again.
func TestFullEtcd(t *testing.T) {
	cluster := startEtcdWith(t, 1, certificate{}, func(m *member) { m.Quota = 16 << 20 })
	i := startIpamd(t, "--insecure", "--etcd-endpoints", cluster.endpoints)
	ready(t, i.process, i.metrics)
	apply(t, i.address, pool("pods", "10.244.0.0/16")).shows(t)
	a := startAgent(t, "n1", i.address, "--insecure")
	ready(t, a.process, a.metrics)
	eventually(t, "an address", func() error { return podCNI(t, "ADD", a.socket, "first").lacks("10.244.") })

	etcd, ctx := client(t, cluster.endpoints)
	filler := strings.Repeat("x", 1<<20)
	eventually(t, "etcd to be full", func() error {
		for n := range 40 {
			if _, err := etcd.Put(ctx, fmt.Sprint("/filler/", n), filler); err != nil {
				if errors.Is(err, rpctypes.ErrNoSpace) {
					return nil
				}
				return err
			}
		}
		return errors.New("it is not")
	})
	if got := ctl(t, i.address, "ipam", "store"); got.code != 4 || !strings.Contains(got.out, "NOSPACE on member") {
		t.Errorf("it is not told: %s", got)
	}
	apply(t, i.address, pool("third", "10.246.0.0/16")).says(t, 1, "etcd is full (NOSPACE)")
	podCNI(t, "ADD", a.socket, "second").shows(t, "10.244.") // from the block that the node has
	if err := status(i.metrics, "/readyz", http.StatusOK, "ok"); err != nil {
		t.Error(err)
	}

	// As docs/operations.md says.
	if _, err := etcd.Delete(ctx, "/filler/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	now, err := etcd.Get(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Compact(ctx, now.Header.GetRevision(), clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Defragment(ctx, cluster.endpoints); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "changes to go on", func() error { return apply(t, i.address, pool("third", "10.246.0.0/16")).lacks("third") })
	eventually(t, "the alarm to be gone", func() error { return ctl(t, i.address, "ipam", "store").lacks("recovering    no") })
	if code := a.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestRollingRestart: three ipamd over three etcd are restarted one after the other, and so are the members, while Pods come
// and go: no ADD fails.
func TestRollingRestart(t *testing.T) {
	cluster := startEtcd(t, 3, certificate{})
	var all []*ipamd
	var addresses []string
	for range 3 {
		i := startIpamd(t, "--insecure", "--etcd-endpoints", cluster.endpoints)
		all, addresses = append(all, i), append(addresses, i.address)
	}
	for _, i := range all {
		ready(t, i.process, i.metrics)
	}
	servers := strings.Join(addresses, ",")
	apply(t, servers, pool("pods", "10.244.0.0/16")).shows(t)
	a := startAgent(t, "n1", servers, "--insecure")
	ready(t, a.process, a.metrics)
	p := &pods{t: t, agents: map[string]*agent{"n1": a}, holder: map[string]string{}, held: map[string][2]string{}}
	eventually(t, "the first Pod", func() error { return p.add("n1") })

	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			if err := p.add("n1"); err != nil {
				t.Errorf("an ADD failed: %v", err)
			}
			if n%2 == 0 { // more than one block comes to be needed
				p.remove("n1")
			}
		}
	})
	for n := range all {
		if code := all[n].end(t, syscall.SIGTERM); code != 0 {
			t.Errorf("exit code %d", code)
		}
		all[n] = all[n].again(t)
		cluster.members[n].kill()
		cluster.launch(t, n)
		etcd, call := client(t, cluster.member(t, n).Client)
		eventually(t, "the member to be back", func() error { _, err := etcd.Get(call, "x"); return err })
	}
	cancel()
	group.Wait()
	eventually(t, "the books to be equal", func() error { return p.booksEqual(servers) })
	for _, process := range append([]*process{a.process}, all[0].process, all[1].process, all[2].process) {
		if code := process.end(t, syscall.SIGTERM); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}
