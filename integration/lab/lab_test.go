package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostLocal makes Pods without Clearway: ptp, and host-local's own file of addresses.
const hostLocal = `{
  "cniVersion": "1.0.0", "name": "plain",
  "plugins": [{"type": "ptp", "ipMasq": false, "ipam": {
    "type": "host-local", "dataDir": "/var/lib/cni/networks",
    "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd00:99::/64"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
  }}]
}`

// plain reads a topology and leaves Clearway's own programs out.
func plain(t *testing.T, name string) *Topology {
	t.Helper()
	topology, err := ReadTopology("../../deploy/containerlab/" + name + ".clab.yml")
	if err != nil {
		t.Fatal(err)
	}
	for i := range topology.Nodes {
		if strings.HasPrefix(topology.Nodes[i].Image, "clearway/") {
			topology.Nodes[i].Cmd = nil
		}
	}
	return topology
}

// pair is two hosts and a cable.
func pair(t *testing.T) *Topology {
	t.Helper()
	topology, err := ParseTopology([]byte(`
name: pair
topology:
  defaults:
    kind: linux
    image: alpine
    sysctls: {net.ipv4.ip_forward: 1, net.ipv6.conf.all.forwarding: 1, net.ipv6.conf.default.accept_dad: 0}
  nodes:
    a: {exec: ["ip addr add 192.0.2.0/31 dev eth1", "ip route add 10.99.0.0/24 via 192.0.2.1"]}
    b: {exec: ["ip addr add 192.0.2.1/31 dev eth1"], cmd: "sh -c 'echo started; exec sleep 1000'"}
  links:
    - endpoints: ["a:eth1", "b:eth1"]
`), "/")
	if err != nil {
		t.Fatal(err)
	}
	return topology
}

func reaches(ctx context.Context, n *Node, addr string) error {
	_, err := n.Exec(ctx, "ping", "-n", "-c1", "-W1", addr)
	return err
}

func TestFabricOfFRRAndBIRDRoutes(t *testing.T) {
	for _, name := range []string{"two-racks", "two-racks-bird"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := UpForTest(t, Options{Topology: plain(t, name)})
			for _, addr := range []string{"172.16.22.1", "fd00:16:22::1", "198.51.100.2", "2001:db8:100::2"} {
				Eventually(t, 30*time.Second, "r1n1 to reach "+addr, func() error {
					return reaches(t.Context(), l.Node("r1n1"), addr)
				})
			}
		})
	}
}

func TestCablesAreCutAndMended(t *testing.T) {
	l := UpForTest(t, Options{Topology: pair(t)})
	a, b, link := l.Node("a"), l.Node("b"), l.Link("a", "b")
	carrier := func(n *Node, want string) {
		t.Helper()
		got, err := n.Exec(t.Context(), "cat", "/sys/class/net/eth1/carrier")
		if err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%s: carrier is %q, %v; want %s", n, got, err, want)
		}
	}
	connected := func() {
		t.Helper()
		Eventually(t, 5*time.Second, "a to reach b", func() error { return reaches(t.Context(), a, "192.0.2.1") })
	}
	cut := func(how string) {
		t.Helper()
		if reaches(t.Context(), a, "192.0.2.1") == nil {
			t.Errorf("a reaches b over a cable that is %s", how)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	connected()
	must(link.Down())
	carrier(a, "0")
	carrier(b, "0")
	cut("down")
	must(link.Up())
	connected()
	must(link.Blackhole())
	carrier(a, "1")
	carrier(b, "1")
	cut("a black hole")
	must(link.Up())
	connected()
	must(b.PowerOff())
	carrier(a, "0")
	must(b.PowerOn(t.Context()))
	connected()
	carrier(a, "1")
}

func TestRebootIsANewBootOnTheOldDisk(t *testing.T) {
	l := UpForTest(t, Options{Topology: pair(t)})
	b := l.Node("b")
	script := "cat /proc/sys/kernel/random/boot_id /etc/machine-id; hostname; cat " + DataPath + "/kept; cat /run/gone"
	if _, err := b.Exec(t.Context(), "sh", "-c", "echo data > "+DataPath+"/kept; echo x > /run/gone"); err != nil {
		t.Fatal(err)
	}
	before, err := b.Exec(t.Context(), "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := b.Exec(t.Context(), "sh", "-c", script)
	if err == nil {
		t.Error("a file in /run outlived the reboot")
	}
	old, now := strings.Fields(before), strings.Fields(after)
	if len(old) != 5 || len(now) != 4 {
		t.Fatalf("got %q, then %q", before, after)
	}
	if old[0] == now[0] || now[0] != b.BootID() {
		t.Errorf("boot ids %s, %s; the lab says %s", old[0], now[0], b.BootID())
	}
	if old[1] != now[1] || now[2] != "b" || now[3] != "data" {
		t.Errorf("machine, name or data changed: %q, then %q", before, after)
	}
	if err := b.WipeData(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Exec(t.Context(), "test", "-e", DataPath+"/kept"); err == nil {
		t.Error("data outlived the wipe")
	}
}

func TestProcessesAreHeld(t *testing.T) {
	l := UpForTest(t, Options{Topology: pair(t)})
	b := l.Node("b")
	sh := b.Process("sh")
	if sh == nil || !sh.Running() {
		t.Fatal("cmd does not run")
	}
	Eventually(t, 5*time.Second, "the log", func() error {
		if text := sh.Tail(5); text != "started" {
			return fmt.Errorf("log is %q", text)
		}
		return nil
	})
	if _, err := b.Start("sh", "true"); err == nil {
		t.Error("a second process took a running one's name")
	}
	if err := b.Kill(t.Context(), "sh", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if sh.Running() {
		t.Error("it runs after SIGKILL")
	}
	if err := b.Restart("sh"); err != nil || !b.Process("sh").Running() {
		t.Errorf("restart: %v", err)
	}
	_, err := b.Exec(t.Context(), "sh", "-c", "echo out; echo err >&2; exit 3")
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code() != 3 || exit.Stdout != "out\n" || exit.Stderr != "err\n" {
		t.Errorf("got %v", err)
	}
	if _, err := b.Exec(t.Context(), "no-such-program"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := b.Exec(ctx, "sleep", "1000"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func buildForTest(t *testing.T) string {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, plugin := range []string{"main/ptp", "ipam/host-local"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/cni/", "github.com/containernetworking/plugins/plugins/"+plugin)
		cmd.Dir = root
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
	}
	return bin
}

func TestPodsAreMadeByTheCNIChain(t *testing.T) {
	l := UpForTest(t, Options{Topology: pair(t), Network: hostLocal, BinDir: buildForTest(t)})
	b := l.Node("b")
	one, err := b.AddPod(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.AddPod(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	if err := one.Check(t.Context()); err != nil {
		t.Error(err)
	}
	for _, addr := range []netip.Addr{two.IPv4, two.IPv6} {
		if _, err := one.Exec(t.Context(), "ping", "-n", "-c1", "-W2", addr.String()); err != nil {
			t.Error(err)
		}
	}
	echo, err := ServeEcho(one, one.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	if seen, err := AskSource(t.Context(), two, echo.Addr); err != nil || seen != two.IPv4 {
		t.Errorf("the echo saw %s, %v; want %s", seen, err, two.IPv4)
	}
	if err := two.Del(t.Context()); err != nil {
		t.Error(err)
	}
	again, err := b.AddPod(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	if again.IPv4 == one.IPv4 {
		t.Error("host-local gave one address twice")
	}
	l.network = strings.ReplaceAll(hostLocal, "host-local", "no-such-ipam")
	if _, err := b.AddPod(t.Context(), "three"); err == nil || !strings.Contains(err.Error(), "no-such-ipam") {
		t.Errorf("got %v", err)
	}
}

// A prober that sees no loss proves nothing unless it sees one that is there.
func TestProbeSeesLossAndPackets(t *testing.T) {
	l := UpForTest(t, Options{Topology: pair(t), Network: hostLocal, BinDir: buildForTest(t)})
	a, b := l.Node("a"), l.Node("b")
	pod, err := b.AddPod(t.Context(), "pod")
	if err != nil {
		t.Fatal(err)
	}
	echo, err := ServeEcho(pod, pod.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	capture, err := b.StartCapture("eth1")
	if err != nil {
		t.Fatal(err)
	}
	probe, err := StartProbe(a, netip.MustParseAddr("192.0.2.0"), echo.Addr, 5*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	answered := func(more int) {
		t.Helper()
		want := probe.Answered() + more
		Eventually(t, 10*time.Second, "answers", func() error {
			if got := probe.Answered(); got < want {
				return fmt.Errorf("%d answers of %d", got, want)
			}
			return nil
		})
	}
	answered(50)
	if _, err := a.Exec(t.Context(), "ip", "route", "del", "10.99.0.0/24"); err != nil {
		t.Fatal(err)
	}
	Eventually(t, 5*time.Second, "loss", func() error {
		if probe.result().Refused == 0 {
			return errors.New("nothing is lost")
		}
		return nil
	})
	if _, err := a.Exec(t.Context(), "ip", "route", "add", "10.99.0.0/24", "via", "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	answered(50)
	result := probe.Stop()
	t.Log(result)
	if result.Lost == 0 || result.Lost < result.Refused || result.Outage < 10*time.Millisecond || result.Sent < 100 {
		t.Errorf("counted %+v", result)
	}
	requests := 0
	for _, packet := range capture.Stop() {
		if packet.CarriesProbe() && !packet.Probe() {
			t.Errorf("a probe was wrapped: %+v", packet)
		}
		if packet.Probe() && packet.Source == netip.MustParseAddr("192.0.2.0") && packet.Destination == pod.IPv4 {
			requests++
		}
	}
	if requests != result.Sent-result.Refused {
		t.Errorf("%d requests on the wire, %d sent", requests, result.Sent-result.Refused)
	}
}

// The lab's process is killed, as by the machine's OOM killer: nothing may be left.
func TestNothingOutlivesAKilledLab(t *testing.T) {
	Require(t, pair(t))
	if os.Getenv("LAB_TEST_VICTIM") != "" {
		l, err := Up(t.Context(), Options{Topology: pair(t)})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("up", l.ID)
		select {}
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "LAB_TEST_VICTIM=1", "TMPDIR="+t.TempDir())
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var id string
	for id == "" {
		var word string
		if _, err := fmt.Fscan(stdout, &word); err != nil {
			t.Fatalf("the victim did not come up: %v", err)
		}
		if word == "up" {
			fmt.Fscan(stdout, &id)
		}
	}
	var nodes []RunningNode
	for _, node := range Find() {
		if node.ID == id {
			nodes = append(nodes, node)
		}
	}
	if len(nodes) != 2 || nodes[0].Owner != cmd.Process.Pid {
		t.Errorf("found %+v", nodes)
	}
	if err := cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	Eventually(t, 5*time.Second, "the nodes to go", func() error {
		for _, p := range processes() {
			if strings.Contains(strings.Join(p.argv, " "), id) {
				return fmt.Errorf("process %d is left: %s", p.pid, p.argv)
			}
		}
		return nil
	})
}
