package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// client calls etcd.
func client(t *testing.T, endpoints ...string) (*clientv3.Client, context.Context) {
	t.Helper()
	made, err := clientv3.New(clientv3.Config{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	t.Cleanup(cancel)
	return made, ctx
}

// TestEmbeddedEtcdGrows: docs/operations.md step by step. An embedded etcd gets members beside it, ipamd moves to them, and
// the embedded one leaves; a node notices nothing, and nothing is lost.
func TestEmbeddedEtcdGrows(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "ipamd")
	i := readyIpamd(t, "--data-dir", folder)
	address := i.address
	apply(t, i.address, pool("pods", "10.244.0.0/16")).shows(t, "created")
	a := startAgent(t, "n1", i.address, "--insecure")
	ready(t, a.process, a.metrics)
	add := func(id string) {
		t.Helper()
		eventually(t, "an address", func() error { return podCNI(t, "ADD", a.socket, id).lacks("/16") })
	}
	add("before")
	before := ctl(t, i.address, "ipam", "blocks", "-o", "json").shows(t, "10.244.0.0/26")

	// 1. The embedded member is opened.
	if code := i.end(t, syscall.SIGTERM); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	peer, clients := "http://"+freeAddress(), "http://"+freeAddress()
	i = startIpamd(t, "--insecure", "--data-dir", folder, "--listen", address, "--etcd-listen-peer", peer, "--etcd-listen-client", clients)
	ready(t, i.process, i.metrics)
	etcdctl, ctx := client(t, clients)

	// 2. Others are added, one after the other: as learners first, so that the store answers all the while.
	cluster := "clearway=" + peer
	var endpoints []string
	grown := &etcd{members: make([]*process, 2), orders: make([]string, 2)}
	for n := range 2 {
		m := member{
			Name: fmt.Sprint("m", n), Dir: filepath.Join(t.TempDir(), "etcd"), Client: "http://" + freeAddress(),
			Peer: "http://" + freeAddress(), Joins: true,
		}
		var added *clientv3.MemberAddResponse
		eventually(t, m.Name+" to be added", func() (err error) {
			added, err = etcdctl.MemberAddAsLearner(ctx, []string{m.Peer})
			return err
		})
		cluster += "," + m.Name + "=" + m.Peer
		m.Cluster = cluster
		grown.order(t, n, m)
		grown.launch(t, n)
		endpoints = append(endpoints, m.Client)
		eventually(t, m.Name+" to be promoted", func() error {
			_, err := etcdctl.MemberPromote(ctx, added.Member.GetID())
			return err
		})
	}
	add("between")

	// 3. ipamd moves to the new members; 4. the embedded one leaves, and a third comes.
	if code := i.end(t, syscall.SIGTERM); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	i = startIpamd(t, "--insecure", "--listen", address, "--etcd-endpoints", strings.Join(endpoints, ","))
	ready(t, i.process, i.metrics)
	etcdctl, ctx = client(t, endpoints...)
	members, err := etcdctl.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range members.Members {
		if one.GetName() == "clearway" {
			if _, err := etcdctl.MemberRemove(ctx, one.GetID()); err != nil {
				t.Fatal(err)
			}
		}
	}
	add("after")
	if after := ctl(t, address, "ipam", "blocks", "-o", "json").shows(t); blocksOf(t, after) != blocksOf(t, before) {
		t.Errorf("before %s, after %s", before, after)
	}
	ctl(t, address, "ipam", "store").shows(t, "2 of 2 members answer", "recovering    no")
	apply(t, address, pool("more", "10.245.0.0/16")).shows(t, "created")
	for _, process := range []*process{a.process, i.process} {
		if code := process.end(t, syscall.SIGTERM); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}

// blocksOf are the blocks of a list, with their generations.
func blocksOf(t *testing.T, got answer) string {
	t.Helper()
	var list struct {
		Items []struct {
			Spec struct {
				CIDR, Node string
				Generation any
			}
		}
	}
	if err := json.Unmarshal([]byte(got.out), &list); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(list.Items)
}
