package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// etcdEnv makes this program one member of an etcd cluster, so that members can be killed: its value is a member.
const etcdEnv = "CLEARWAY_CONTRACT_ETCD"

// member is one etcd server.
type member struct {
	Name, Dir, Client, Peer string // Client and Peer are URLs
	Cluster                 string // "name=peer URL,..."
	Joins                   bool   // the cluster is there already
	Cert, Key, CA           string // of the client side, where there is TLS
	Quota                   int64  // in bytes; 0: etcd's own
}

// serveEtcd runs a member until it is killed.
func serveEtcd(text string) error {
	var m member
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return err
	}
	client, err := url.Parse(m.Client)
	if err != nil {
		return err
	}
	peer, err := url.Parse(m.Peer)
	if err != nil {
		return err
	}
	config := embed.NewConfig()
	config.Name, config.Dir, config.InitialCluster, config.LogLevel = m.Name, m.Dir, m.Cluster, "error"
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	config.UnsafeNoFsync = true // nobody pulls a plug here
	if m.Joins {
		config.ClusterState = embed.ClusterStateFlagExisting
	}
	config.QuotaBackendBytes = m.Quota
	if m.Cert != "" {
		config.ClientTLSInfo = transport.TLSInfo{CertFile: m.Cert, KeyFile: m.Key, TrustedCAFile: m.CA, ClientCertAuth: true}
	}
	running, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	return <-running.Err()
}

// etcd is a cluster of members.
type etcd struct {
	endpoints string // as --etcd-endpoints takes them
	members   []*process
	orders    []string // each member's, to launch it again
}

// launch starts a member, for the first time or after its end.
func (e *etcd) launch(t testing.TB, number int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = environ(etcdEnv + "=" + e.orders[number])
	e.members[number] = launch(t, fmt.Sprint("etcd ", number), cmd)
}

// member is what a member was launched as.
func (e *etcd) member(t testing.TB, number int) (m member) {
	t.Helper()
	if err := json.Unmarshal([]byte(e.orders[number]), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// order changes what a member is launched as from now on.
func (e *etcd) order(t testing.TB, number int, m member) {
	t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	e.orders[number] = string(text)
}

// startEtcd runs a cluster of so many members; they need not be waited for. An empty certificate: no TLS.
func startEtcd(t testing.TB, size int, c certificate) *etcd {
	t.Helper()
	return startEtcdWith(t, size, c, func(*member) {})
}

// startEtcdWith is startEtcd with members that are changed before.
func startEtcdWith(t testing.TB, size int, c certificate, change func(*member)) *etcd {
	t.Helper()
	scheme := "http://"
	if c.cert != "" {
		scheme = "https://"
	}
	var members []member
	var clients, peers []string
	for i := range size {
		m := member{
			Name: fmt.Sprint("m", i), Dir: filepath.Join(t.TempDir(), "etcd"),
			Client: scheme + freeAddress(), Peer: "http://" + freeAddress(), Cert: c.cert, Key: c.key, CA: c.ca,
		}
		members = append(members, m)
		clients, peers = append(clients, m.Client), append(peers, m.Name+"="+m.Peer)
	}
	cluster := &etcd{endpoints: strings.Join(clients, ","), members: make([]*process, size)}
	for i, m := range members {
		m.Cluster = strings.Join(peers, ",")
		change(&m)
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		cluster.orders = append(cluster.orders, string(text))
		cluster.launch(t, i)
	}
	return cluster
}

// leads tells whether an ipamd is in office.
func (i *ipamd) leads() bool { return strings.Contains(i.log.String(), "msg=leading") }

// electedAmong waits until one of two leads and both are ready.
func electedAmong(t testing.TB, a, b *ipamd) (leader, follower *ipamd) {
	t.Helper()
	ready(t, a.process, a.metrics)
	ready(t, b.process, b.metrics)
	if a.leads() == b.leads() {
		t.Fatalf("of two ipamd both or none lead: %v %v", a.leads(), b.leads())
	}
	if a.leads() {
		return a, b
	}
	return b, a
}

// TestExternalEtcd: ipamd on an etcd with TLS of its own, and two clusters beside each other in it.
func TestExternalEtcd(t *testing.T) {
	t.Parallel()
	theirs := newAuthority(t, "etcd")
	files := theirs.issue(t, server)
	cluster := startEtcd(t, 1, files)
	client := theirs.issue(t, named("ipamd"))
	on := func(flags ...string) *ipamd {
		return startIpamd(t, append([]string{"--insecure", "--etcd-endpoints", cluster.endpoints}, flags...)...)
	}
	first := on(client.flags("etcd")...)
	second := on(append(client.flags("etcd"), "--etcd-prefix", "/other/cluster")...)
	strangers := map[string]*ipamd{
		"no certificate":    on("--etcd-ca", client.ca),
		"another authority": on(newAuthority(t, "mallory").issue(t, named("ipamd")).flags("etcd")...),
	}
	for _, i := range []*ipamd{first, second} {
		ready(t, i.process, i.metrics)
		if !i.leads() {
			t.Error("a cluster with a prefix of its own waits for another one's leader")
		}
	}
	apply(t, first.address, pool("pods", "10.244.0.0/16")).shows(t, "created")
	ctl(t, second.address, "get", "ippools", "-o", "json").shows(t, `"items": []`)
	apply(t, second.address, pool("pods", "10.244.0.0/17")).shows(t, "created")
	ctl(t, first.address, "get", "ippool", "pods", "-o", "json").shows(t, `"10.244.0.0/16"`)

	// The place of a leader that was killed is taken by its next process at once, and all is there.
	first.kill()
	first = first.again(t)
	ctl(t, first.address, "get", "ippool", "pods", "-o", "json").shows(t, `"10.244.0.0/16"`)
	for name, i := range strangers {
		eventually(t, "it to tell "+name, func() error {
			return status(i.metrics, "/readyz", http.StatusServiceUnavailable, "the store does not answer")
		})
		i.logs(t, "the store does not answer", "room=etcd")
		if code := i.end(t, syscall.SIGTERM); code != 0 {
			t.Errorf("%s: exit code %d", name, code)
		}
	}
	// etcd's clients get another authority: ipamd shows its new certificate without a restart.
	cluster.members[0].kill()
	next := newAuthority(t, "next")
	replace(t, files.ca, next.pem())
	next.write(t, certificate{client.cert, client.key, filepath.Join(t.TempDir(), "ca.crt")}, named("ipamd"))
	cluster.launch(t, 0)
	eventually(t, "ipamd to return to etcd with its new certificate", func() error {
		return apply(t, first.address, pool("more", "10.245.0.0/16")).lacks("more")
	})
}

// TestTwoIpamd on an etcd of three: one leads, the other reads and points to it, and either may go; so may a member.
func TestTwoIpamd(t *testing.T) {
	t.Parallel() // it is the only parallel one with an agent: two of them would share this namespace's routes
	cluster := startEtcd(t, 3, certificate{})
	flags := []string{"--insecure", "--etcd-endpoints", cluster.endpoints}
	leader, follower := electedAmong(t, startIpamd(t, flags...), startIpamd(t, flags...))
	both := follower.address + "," + leader.address
	apply(t, both, pool("pods", "10.244.0.0/16")).shows(t, "created")

	// A follower alone is enough for clearwayctl: it is pointed to the leader.
	apply(t, follower.address, pool("more", "10.245.0.0/16")).shows(t, "created")
	ctl(t, follower.address, "get", "nodes").says(t, 0)
	eventually(t, "the follower to have read the pools", func() error {
		return ctl(t, follower.address, "get", "ippools").lacks("pods", "more")
	})
	a := startAgent(t, "n1", both, "--insecure")
	ready(t, a.process, a.metrics)
	claim := func(pool string) {
		t.Helper()
		eventually(t, "an address of pool "+pool, func() error { // its agent must have heard of it first
			return cni(t, "ADD", netconf("1.0.0", a.socket, fmt.Sprintf(`, "pools": [%q]`, pool))).lacks("/16")
		})
		cni(t, "DEL", netconf("1.0.0", a.socket, "")).shows(t)
		ctl(t, both, "get", "blocks", "--node", "n1", "--pool", pool).shows(t, "Owned")
	}
	claim("pods")

	leader.kill()
	eventually(t, "the other to take office", func() error {
		if !follower.leads() {
			return errors.New("it has not")
		}
		return nil
	})
	ready(t, follower.process, follower.metrics)
	apply(t, both, pool("third", "10.246.0.0/16")).shows(t, "created")
	claim("third")
	ctl(t, both, "get", "blocks", "--node", "n1", "--pool", "pods").shows(t, "Owned")

	// Back beside it, the old leader follows.
	returned := leader.again(t)
	if returned.leads() {
		t.Error("it takes office from one that is well")
	}
	cluster.members[0].kill()
	apply(t, both, pool("fourth", "10.247.0.0/16")).shows(t, "created")
	claim("fourth")
	for _, i := range []*ipamd{follower, returned} {
		if code := i.end(t, syscall.SIGTERM); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}
