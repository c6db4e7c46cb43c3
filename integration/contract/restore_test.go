package contract

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	etcdsave "go.etcd.io/etcd/client/v3/snapshot"
	etcdrestore "go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

// pods are Pods that are made and deleted on several nodes, and the addresses that they were told.
type pods struct {
	t      testing.TB
	agents map[string]*agent

	mu     sync.Mutex // guards all following fields
	holder map[string]string
	held   map[string][2]string // "node/id": node's socket, address
	next   int
}

// add makes a Pod on a node; an error is the plugin's.
func (p *pods) add(node string) error {
	p.mu.Lock()
	p.next++
	id := fmt.Sprintf("%s-%d", node, p.next)
	p.mu.Unlock()
	got := podCNI(p.t, "ADD", p.agents[node].socket, id)
	if got.code != 0 {
		return errors.New(got.out)
	}
	var result struct{ IPs []struct{ Address string } }
	if err := json.Unmarshal([]byte(got.out), &result); err != nil || len(result.IPs) != 1 {
		return fmt.Errorf("%w: %s", err, got)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	address := result.IPs[0].Address
	if other, taken := p.holder[address]; taken {
		p.t.Errorf("OneHolder: %s is %s's, and was given to %s", address, other, id)
	}
	p.holder[address], p.held[id] = id, [2]string{node, address}
	return nil
}

// remove deletes the oldest of a node's Pods.
func (p *pods) remove(node string) {
	p.mu.Lock()
	oldest, number := "", 0
	for id, one := range p.held {
		var n int
		_, _ = fmt.Sscanf(strings.TrimPrefix(id, node+"-"), "%d", &n) // ids are ours
		if one[0] == node && (oldest == "" || n < number) {
			oldest, number = id, n
		}
	}
	if oldest == "" {
		p.mu.Unlock()
		return
	}
	delete(p.holder, p.held[oldest][1]) // from now on it may be another's
	delete(p.held, oldest)
	p.mu.Unlock()
	podCNI(p.t, "DEL", p.agents[node].socket, oldest).shows(p.t)
}

func podCNI(t testing.TB, verb, socket, id string) answer {
	return command{stdin: netconf("1.0.0", socket, ""), env: []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + fmt.Sprintf("/proc/%d/ns/net", os.Getppid()), "CNI_IFNAME=eth0",
		"CNI_PATH=/nowhere", "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + id + ";K8S_POD_UID=uid-" + id,
	}}.run(t, cniProgram)
}

// churn makes and deletes Pods on nodes until stopped. Refusals are no faults: a node may be full.
func (p *pods) churn(nodes ...string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for _, node := range nodes {
		group.Go(func() {
			for ctx.Err() == nil {
				_ = p.add(node)
				p.remove(node)
			}
		})
	}
	return func() { cancel(); group.Wait() }
}

// booksEqual compares what ipamd and the agents say of blocks and assignments.
func (p *pods) booksEqual(server string) error {
	var owners []netip.Prefix
	for _, node := range slices.Sorted(maps.Keys(p.agents)) {
		for _, list := range []string{"blocks", "assignments"} {
			here, err := namesOf(run(p.t, ctlProgram, "--socket", p.agents[node].socket, "ipam", list, "-o", "json"))
			if err != nil {
				return err
			}
			there, err := namesOf(ctl(p.t, server, "ipam", list, "--node", node, "-o", "json"))
			if err != nil {
				return err
			}
			if !slices.Equal(here, there) {
				return fmt.Errorf("%s of %s: the node has %q, ipamd %q", list, node, here, there)
			}
			if list == "blocks" {
				for _, name := range here {
					block := netip.MustParsePrefix(name)
					if i := slices.IndexFunc(owners, block.Overlaps); i >= 0 {
						return fmt.Errorf("NoOverlap: %s and %s", owners[i], block)
					}
					owners = append(owners, block)
				}
			}
		}
	}
	return nil
}

// namesOf are the blocks or addresses in a list that are somebody's now.
func namesOf(got answer) ([]string, error) {
	if got.code != 0 {
		return nil, errors.New(got.String())
	}
	var list struct {
		Items []struct {
			Spec struct{ CIDR, Address, State string }
		}
	}
	if err := json.Unmarshal([]byte(got.out), &list); err != nil {
		return nil, err
	}
	names := []string{}
	for _, item := range list.Items {
		if item.Spec.State == "" || item.Spec.State == "Owned" {
			names = append(names, item.Spec.CIDR+item.Spec.Address)
		}
	}
	slices.Sort(names)
	return names, nil
}

// store is an ipamd and how its store is put back in time.
type restorable struct {
	ipamd           *ipamd
	backup, restore func()
}

// overEtcd restores a snapshot in a cluster of its own, as etcd's manual says.
func overEtcd(t *testing.T) *restorable {
	cluster := startEtcd(t, 1, certificate{})
	i := startIpamd(t, "--insecure", "--etcd-endpoints", cluster.endpoints)
	ready(t, i.process, i.metrics)
	file := filepath.Join(t.TempDir(), "snapshot.db")
	return &restorable{
		ipamd: i,
		backup: func() {
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()
			if _, err := etcdsave.SaveWithVersion(ctx, zap.NewNop(), clientv3.Config{Endpoints: []string{cluster.endpoints}}, file); err != nil {
				t.Fatal(err)
			}
		},
		restore: func() {
			cluster.members[0].kill()
			m := cluster.member(t, 0)
			m.Dir = filepath.Join(t.TempDir(), "restored")
			err := etcdrestore.NewV3(zap.NewNop()).Restore(etcdrestore.RestoreConfig{
				SnapshotPath: file, Name: m.Name, OutputDataDir: m.Dir, PeerURLs: []string{m.Peer}, InitialCluster: m.Cluster,
				InitialClusterToken: "restored",
			})
			if err != nil {
				t.Fatal(err)
			}
			cluster.order(t, 0, m)
			cluster.launch(t, 0)
		},
	}
}

// overFolder copies the folder of an embedded etcd back.
func overFolder(t *testing.T) *restorable {
	r := &restorable{ipamd: readyIpamd(t)}
	copied := filepath.Join(t.TempDir(), "copy")
	stopped := func(do func(folder string)) {
		if code := r.ipamd.end(t, syscall.SIGTERM); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		do(dataDir(r.ipamd))
		r.ipamd = r.ipamd.again(t)
	}
	r.backup = func() {
		stopped(func(folder string) {
			if err := os.CopyFS(copied, os.DirFS(folder)); err != nil {
				t.Fatal(err)
			}
		})
	}
	r.restore = func() {
		stopped(func(folder string) {
			if err := errors.Join(os.RemoveAll(folder), os.Rename(copied, folder)); err != nil {
				t.Fatal(err)
			}
		})
	}
	return r
}

// TestOneHolderOverAStaleBackup: a backup is put back that is older than blocks which nodes have, while Pods come and go.
// No address is given twice, no Pod loses its own, nothing is claimed before all have reported, and the books are equal.
func TestOneHolderOverAStaleBackup(t *testing.T) {
	for name, over := range map[string]func(*testing.T) *restorable{"etcd snapshot": overEtcd, "copied folder": overFolder} {
		t.Run(name, func(t *testing.T) {
			r := over(t)
			server := r.ipamd.address
			apply(t, server, `
apiVersion: clearway.io/v1
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.244.0.0/23, blockSize: 28, minBlockSize: 28}
---
apiVersion: clearway.io/v1
kind: IPAMConfiguration
metadata: {name: default}
spec: {recoveryWait: 1s, lowWater: 2}
---
apiVersion: clearway.io/v1
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeMesh: None}
`).shows(t)
			p := &pods{t: t, agents: map[string]*agent{}, holder: map[string]string{}, held: map[string][2]string{}}
			for i, node := range []string{"n1", "n2", "n3"} {
				p.agents[node] = startAgent(t, node, server, "--insecure", "--route-table", fmt.Sprint(100+i),
					"--machine-id-file", machineOf(t, node))
				ready(t, p.agents[node].process, p.agents[node].metrics)
			}
			many := func(node string, count int) {
				for range count {
					eventually(t, "a Pod on "+node, func() error { return p.add(node) })
				}
			}
			many("n1", 10)
			many("n2", 10)
			r.backup()
			many("n1", 30)
			many("n3", 20)
			p.agents["n3"].kill()
			stop := p.churn("n1", "n2")
			r.restore()
			eventually(t, "the store to recover and to await n3", func() error {
				got := ctl(t, server, "ipam", "store")
				if got.code != 4 || !strings.Contains(got.out, "restored") {
					return errors.New(got.String())
				}
				if got = ctl(t, server, "node", "list"); !strings.Contains(got.out, "Awaited") && strings.Contains(got.out, "n3") {
					return errors.New(got.String())
				}
				return nil
			})
			stop()
			p.agents["n3"] = &agent{process: p.agents["n3"].restart(t), socket: p.agents["n3"].socket, metrics: p.agents["n3"].metrics}
			eventually(t, "the store to have recovered", func() error { return ctl(t, server, "ipam", "store").lacks("recovering    no") })
			many("n2", 30)
			many("n3", 10)
			eventually(t, "the books to be equal", func() error { return p.booksEqual(server) })
			if log := p.agents["n1"].log.String() + p.agents["n2"].log.String() + p.agents["n3"].log.String(); strings.Contains(log, "no longer this node's") {
				t.Error("a node lost a block")
			}
			for _, a := range p.agents {
				if code := a.end(t, syscall.SIGTERM); code != 0 {
					t.Errorf("exit code %d", code)
				}
			}
		})
	}
}

// machineOf is a file with a machine's id.
func machineOf(t testing.TB, node string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), node)
	if err := os.WriteFile(name, []byte(strings.Repeat("0", 30)+node[len(node)-2:]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
