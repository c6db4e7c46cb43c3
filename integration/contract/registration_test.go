package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// machine is a machine of a test: its ids, and the folder that outlives its agents. The wiped journal, whose Pods run on
// and are looked for, is the lab's test (integration.TestNothingLeaks): it needs namespaces.
type machine struct {
	server string
	folder string
	boot   string
	id     string
}

func newMachine(t *testing.T, i *ipamd, id string) *machine {
	t.Helper()
	m := &machine{server: i.address, folder: t.TempDir(), id: id}
	m.reboot(t)
	return m
}

func (m *machine) data() string { return filepath.Join(m.folder, "data") }

// reboot gives the machine the boot id of another boot.
func (m *machine) reboot(t *testing.T) {
	t.Helper()
	m.boot += "x"
	for name, text := range map[string]string{"boot-id": "boot-" + m.boot, "machine-id": m.id} {
		if err := os.WriteFile(filepath.Join(m.folder, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// agent starts the machine's agent; it is not waited for.
func (m *machine) agent(t *testing.T, node string) *agent {
	t.Helper()
	return startAgent(t, node, m.server, "--insecure", "--data-dir", m.data(),
		"--boot-id-file", filepath.Join(m.folder, "boot-id"), "--machine-id-file", filepath.Join(m.folder, "machine-id"))
}

func (m *machine) ready(t *testing.T, node string) *agent {
	t.Helper()
	a := m.agent(t, node)
	ready(t, a.process, a.metrics)
	a.logs(t, "registered with ipamd")
	return a
}

// add asks an agent for an attachment's addresses, as the plugin does.
func (a *agent) add(t *testing.T, container string) string {
	t.Helper()
	var address string
	err := call("unix://"+a.socket, func(ctx context.Context, conn *grpc.ClientConn) error {
		answer, err := clearwayv1.NewAddressServiceClient(conn).Add(ctx, &clearwayv1.AddRequest{
			Attachment: &clearwayv1.Attachment{Network: "pods", ContainerId: container, Ifname: "eth0"},
			Pod:        &clearwayv1.Pod{Namespace: "default", Name: container},
		})
		if err == nil {
			address = answer.GetAddresses()[0].GetAddress()
		}
		return err
	})
	if err != nil {
		t.Fatalf("ADD %s: %v", container, err)
	}
	return strings.Split(address, "/")[0]
}

// holdings is what somebody knows of assignments: the Pod's name of each address.
func holdings(got answer) (map[string]string, error) {
	var list struct {
		Items []struct {
			Spec struct {
				Address string
				Pod     struct{ Name string }
			}
		}
	}
	if got.code != 0 {
		return nil, fmt.Errorf("it failed: %s", got)
	}
	err := json.Unmarshal([]byte(got.out), &list)
	held := map[string]string{}
	for _, one := range list.Items {
		held[one.Spec.Address] = one.Spec.Pod.Name
	}
	return held, err
}

// knows waits until the agent and ipamd's mirror both know exactly these holders.
func knows(t *testing.T, i *ipamd, a *agent, want map[string]string) {
	t.Helper()
	for who, ask := range map[string]func() answer{
		"the agent":  func() answer { return run(t, ctlProgram, "--socket", a.socket, "get", "assignments", "-o", "json") },
		"the mirror": func() answer { return ctl(t, i.address, "get", "assignments", "-o", "json") },
	} {
		eventually(t, who+" to know the holders", func() error {
			held, err := holdings(ask())
			if err == nil && !maps.Equal(held, want) {
				err = fmt.Errorf("it has %v, want %v", held, want)
			}
			return err
		})
	}
}

type block struct{ node, uid, state, sealed string }

// blocks are ipamd's, by prefix.
func blocks(t *testing.T, i *ipamd) (map[string]block, error) {
	t.Helper()
	got := ctl(t, i.address, "get", "blocks", "-o", "json")
	if got.code != 0 {
		return nil, fmt.Errorf("it failed: %s", got)
	}
	var list struct {
		Items []struct {
			Spec   struct{ CIDR, Node, NodeUID, State string }
			Status struct{ Sealed bool }
		}
	}
	err := json.Unmarshal([]byte(got.out), &list)
	found := map[string]block{}
	for _, one := range list.Items {
		found[one.Spec.CIDR] = block{one.Spec.Node, one.Spec.NodeUID, one.Spec.State, fmt.Sprint(one.Status.Sealed)}
	}
	return found, err
}

// has waits until ipamd has a block as it is wanted; an empty word is any.
func has(t *testing.T, i *ipamd, cidr string, want block) {
	t.Helper()
	eventually(t, "block "+cidr, func() error {
		found, err := blocks(t, i)
		got, there := found[cidr]
		if err == nil && (!there || want.node != "" && want.node != got.node || want.uid != "" && want.uid != got.uid ||
			want.state != "" && !strings.EqualFold(want.state, got.state) || want.sealed != "" && want.sealed != got.sealed) {
			err = fmt.Errorf("it is %+v of %v, want %+v", got, found, want)
		}
		return err
	})
}

func event(t *testing.T, i *ipamd, words ...string) {
	t.Helper()
	eventually(t, "event "+words[0], func() error { return ctl(t, i.address, "get", "events", "-o", "wide").lacks(words...) })
}

func copyTo(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o700)
	}
	if err == nil {
		err = os.WriteFile(to, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// tinyPool has four blocks of 14 addresses each, but for the pool's own.
func tinyPool(t *testing.T) *ipamd {
	t.Helper()
	i := readyIpamd(t)
	apply(t, i.address, "apiVersion: clearway.io/v1\nkind: IPPool\nmetadata: {name: pods}\n"+
		"spec: {cidr: 10.1.0.0/26, blockSize: 28, minBlockSize: 28}\n").shows(t)
	return i
}

const firstBlock = "10.1.0.0/28"

// TestOldDiskImage: a journal whose number is below the mirror's. What it does not know any more comes from the mirror,
// and no address of the old blocks is given before each is accounted for.
func TestOldDiskImage(t *testing.T) {
	i := tinyPool(t)
	m := newMachine(t, i, "m1")
	a := m.ready(t, "n1")
	old := a.add(t, "old")
	a.end(t, syscall.SIGTERM)
	image := filepath.Join(t.TempDir(), "journal")
	copyTo(t, filepath.Join(m.data(), "journal"), image)
	a = m.ready(t, "n1")
	later := a.add(t, "later")
	knows(t, i, a, map[string]string{old: "old", later: "later"})
	a.end(t, syscall.SIGTERM)
	copyTo(t, image, filepath.Join(m.data(), "journal"))
	a = m.ready(t, "n1")
	event(t, i, "BlocksSealed", "n1")
	has(t, i, firstBlock, block{node: "n1", state: "Owned", sealed: "true"})
	fresh := a.add(t, "fresh")
	if fresh == later || fresh == old {
		t.Errorf("%s is given twice", fresh)
	}
	knows(t, i, a, map[string]string{old: "old", later: "later", fresh: "fresh"})
}

// TestClone: the copy of a live machine's disk is refused by name, under its own name and under the original's.
func TestClone(t *testing.T) {
	i := tinyPool(t)
	original := newMachine(t, i, "m1")
	a := original.ready(t, "n1")
	held := a.add(t, "pod")
	clone := newMachine(t, i, "m2")
	copyTo(t, filepath.Join(original.data(), "journal"), filepath.Join(clone.data(), "journal"))
	clone.boot = original.boot
	other := clone.agent(t, "n2")
	other.logs(t, "it is a clone of it", "n1")
	other.kill()
	same := clone.agent(t, "n1")
	same.logs(t, "is live on another machine or boot")
	same.kill()
	knows(t, i, a, map[string]string{held: "pod"})
	has(t, i, firstBlock, block{node: "n1", state: "Owned", sealed: "false"})
}

// TestReplacedMachine: another machine under the name gets blocks of its own; those of the former one are orphaned, for
// its Pods may still run.
func TestReplacedMachine(t *testing.T) {
	i := tinyPool(t)
	former := newMachine(t, i, "m1")
	a := former.ready(t, "n1")
	held := a.add(t, "pod")
	knows(t, i, a, map[string]string{held: "pod"})
	a.kill()
	a = newMachine(t, i, "m2").ready(t, "n1")
	event(t, i, "MachineReplaced", "n1")
	has(t, i, firstBlock, block{state: "Orphaned"})
	if fresh := a.add(t, "pod"); fresh == held {
		t.Errorf("%s of the former machine is given again", fresh)
	}
	has(t, i, "10.1.0.16/28", block{node: "n1", state: "Owned", sealed: "false"})
}

// TestNewUIDSameJournal: the Node object is made anew while the agent is away: its blocks are its again, under the new
// UID, unsealed, with what is held in them.
func TestNewUIDSameJournal(t *testing.T) {
	i := tinyPool(t)
	m := newMachine(t, i, "m1")
	a := m.ready(t, "n1")
	held := a.add(t, "pod")
	knows(t, i, a, map[string]string{held: "pod"})
	found, err := blocks(t, i)
	if err != nil {
		t.Fatal(err)
	}
	former := found[firstBlock].uid
	a.end(t, syscall.SIGTERM)
	ctl(t, i.address, "delete", "node", "n1").shows(t)
	has(t, i, firstBlock, block{state: "Orphaned"})
	apply(t, i.address, "apiVersion: clearway.io/v1\nkind: Node\nmetadata: {name: n1}\n").shows(t)
	a = m.ready(t, "n1")
	has(t, i, firstBlock, block{node: "n1", state: "Owned", sealed: "false"})
	eventually(t, "the new UID", func() error {
		found, err := blocks(t, i)
		if err == nil && (found[firstBlock].uid == former || found[firstBlock].uid == "") {
			err = fmt.Errorf("it is %q, and was %q", found[firstBlock].uid, former)
		}
		return err
	})
	knows(t, i, a, map[string]string{held: "pod"})
	if again := a.add(t, "pod"); again != held {
		t.Errorf("the Pod had %s, and is told %s", held, again)
	}
}

// TestReboot: no Pod of before lives. Its assignments are dropped, its blocks stay and are not sealed, also when the
// disk was lost with it.
func TestReboot(t *testing.T) {
	for name, lose := range map[string]bool{"disk is there": false, "disk is lost": true} {
		t.Run(name, func(t *testing.T) {
			i := tinyPool(t)
			m := newMachine(t, i, "m1")
			a := m.ready(t, "n1")
			knows(t, i, a, map[string]string{a.add(t, "pod"): "pod"})
			a.kill()
			m.reboot(t)
			if lose {
				if err := os.RemoveAll(m.data()); err != nil {
					t.Fatal(err)
				}
			}
			a = m.ready(t, "n1")
			knows(t, i, a, map[string]string{})
			has(t, i, firstBlock, block{node: "n1", state: "Owned", sealed: "false"})
			a.add(t, "next")
		})
	}
}

// TestWipedJournal: within one boot, the mirror's holders are taken over and the blocks sealed; other blocks serve.
func TestWipedJournal(t *testing.T) {
	i := tinyPool(t)
	m := newMachine(t, i, "m1")
	a := m.ready(t, "n1")
	held := a.add(t, "pod")
	knows(t, i, a, map[string]string{held: "pod"})
	a.kill()
	if err := os.RemoveAll(m.data()); err != nil {
		t.Fatal(err)
	}
	a = m.ready(t, "n1")
	event(t, i, "BlocksSealed", "n1")
	has(t, i, firstBlock, block{node: "n1", state: "Owned", sealed: "true"})
	if again := a.add(t, "pod"); again != held {
		t.Errorf("the Pod had %s, and is told %s", held, again)
	}
	fresh := a.add(t, "fresh")
	found, err := blocks(t, i)
	if err != nil {
		t.Fatal(err)
	}
	if owned := slices.Sorted(maps.Keys(found)); len(owned) < 2 || fresh == held {
		t.Errorf("%s is given out of %v", fresh, owned)
	}
	knows(t, i, a, map[string]string{held: "pod", fresh: "fresh"})
}
