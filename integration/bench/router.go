package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"time"
)

const (
	routerASN = 64512
	feederASN = 65100
)

// router is one contender: daemons in a namespace of their own, with one session to the feeder.
type router struct {
	name string
	// start runs the daemons. What it has started is in router.processes even when it fails.
	start func(ctx context.Context, env *environment, r *router, dir string) error

	// The subnet that it shares with the feeder; next hops are in it.
	subnet netip.Prefix
	within *namespace
	// processes[0] speaks BGP. Memory is counted over routing ones.
	processes []*process
	// helpers run beside, and are no part of what is measured.
	helpers []*process

	feeder *feeder
	watch  *routeWatch
}

func (r *router) feederAddress() netip.Addr { return r.subnet.Addr().Next() }
func (r *router) ownAddress() netip.Addr    { return r.feederAddress().Next() }

// nextHop is an address in the subnet that is neither the router's nor the feeder's.
func (r *router) nextHop(node int) netip.Addr {
	address := r.subnet.Addr().As4()
	host := node + 256
	address[2], address[3] = address[2]|byte(host>>8), byte(host)
	return netip.AddrFrom4(address)
}

func (r *router) run(in *namespace, dir, path string, arguments ...string) error {
	started, err := start(in, dir, path, arguments...)
	if err != nil {
		return err
	}
	r.processes = append(r.processes, started)
	return nil
}

// bringUp makes the namespace, starts the daemons, and brings up the session.
func (r *router) bringUp(ctx context.Context, env *environment, feederSide *namespace) error {
	dir, err := env.folder("routes-" + r.name)
	if err != nil {
		return err
	}
	if r.within, err = newNamespace(); err != nil {
		return err
	}
	bits := r.subnet.Bits()
	err = connect(
		end{r.within, "uplink", netip.PrefixFrom(r.ownAddress(), bits)},
		end{feederSide, "to-" + r.name, netip.PrefixFrom(r.feederAddress(), bits)},
	)
	if err != nil {
		return err
	}
	if r.watch, err = watchRoutes(r.within); err != nil {
		return err
	}
	if err := r.start(ctx, env, r, dir); err != nil {
		return err
	}
	r.feeder, err = dialFeeder(ctx, feederSide, r.feederAddress(), r.ownAddress(), feederASN, r.processes[0])
	return err
}

func (r *router) tearDown() {
	if r.feeder != nil {
		r.feeder.close()
	}
	for _, each := range append(r.processes, r.helpers...) {
		each.stop()
	}
	if r.watch != nil {
		r.watch.close()
	}
	if r.within != nil {
		r.within.close()
	}
}

// check fails when a daemon or the session has ended.
func (r *router) check() error {
	var failures []error
	for _, each := range r.processes {
		failures = append(failures, each.check())
	}
	if r.feeder != nil {
		failures = append(failures, r.feeder.check())
	}
	return errors.Join(failures...)
}

// residentMiB is the memory of all the processes that route.
func (r *router) residentMiB() (float64, error) {
	var sum int64
	for _, each := range r.processes {
		resident, err := each.residentBytes()
		if err != nil {
			return 0, err
		}
		sum += resident
	}
	return float64(sum) / (1 << 20), nil
}

func startClearwayRouter(ctx context.Context, env *environment, r *router, dir string) error {
	resources := fmt.Sprintf(`
apiVersion: clearway.io/v1
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: %d, nodeMesh: None}
---
apiVersion: clearway.io/v1
kind: BGPPeer
metadata: {name: feeder}
spec: {peerAddress: %s, peerASN: %d, importScope: All}
`, routerASN, r.feederAddress(), feederASN)
	started, err := startClearway(ctx, env, r.within, dir, r.ownAddress(), resources)
	if started.agent != nil {
		r.processes = append(r.processes, started.agent)
	}
	if started.ipamd != nil {
		r.helpers = append(r.helpers, started.ipamd)
	}
	return err
}

// birdConfig is the least that imports a peer's routes into the kernel; all the rest is BIRD's default.
const birdConfig = `router id %[1]s;
protocol device {}
protocol kernel { ipv4 { import none; export all; }; }
protocol bgp feeder {
  local %[1]s as %[2]d;
  neighbor %[3]s as %[4]d;
  ipv4 { import all; export none; };
}
`

func startBIRD(_ context.Context, _ *environment, r *router, dir string) error {
	path, err := exec.LookPath("bird")
	if err != nil {
		return fmt.Errorf("BIRD is not installed (run make lab-deps): %w", err)
	}
	config := filepath.Join(dir, "bird.conf")
	text := fmt.Sprintf(birdConfig, r.ownAddress(), routerASN, r.feederAddress(), feederASN)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return fmt.Errorf("BIRD's configuration: %w", err)
	}
	return r.run(r.within, dir, path, "-f", "-c", config,
		"-s", filepath.Join(dir, "bird.ctl"), "-P", filepath.Join(dir, "bird.pid"))
}

// frrConfig turns off nothing but the rule that a session without policy takes nothing.
const frrConfig = `router bgp %[2]d
 bgp router-id %[1]s
 no bgp ebgp-requires-policy
 neighbor %[3]s remote-as %[4]d
`

func frrDaemon(name string) string { return filepath.Join("/usr/lib/frr", name) }

func startFRR(ctx context.Context, _ *environment, r *router, dir string) error {
	if _, err := os.Stat(frrDaemon("bgpd")); err != nil {
		return fmt.Errorf("FRR is not installed (run make lab-deps): %w", err)
	}
	text := fmt.Sprintf(frrConfig, r.ownAddress(), routerASN, r.feederAddress(), feederASN)
	for name, content := range map[string]string{"zebra": "", "bgpd": text} {
		if err := os.WriteFile(filepath.Join(dir, name+".conf"), []byte(content), 0o644); err != nil {
			return fmt.Errorf("FRR's configuration: %w", err)
		}
	}
	if err := giveTo("frr", dir); err != nil {
		return err
	}
	socket := filepath.Join(dir, "zserv.api")
	if err := r.runFRR(dir, "zebra", socket); err != nil {
		return err
	}
	err := eventually(ctx, 10*time.Second, "zebra's socket", r.processes[0], func(context.Context) error {
		_, err := os.Stat(socket)
		return err
	})
	if err != nil {
		return err
	}
	if err := r.runFRR(dir, "bgpd", socket); err != nil {
		return err
	}
	r.processes[0], r.processes[1] = r.processes[1], r.processes[0]
	return nil
}

func (r *router) runFRR(dir, daemon, socket string) error {
	return r.run(r.within, dir, frrDaemon(daemon), "-f", filepath.Join(dir, daemon+".conf"), "-z", socket,
		"--vty_socket", dir, "-i", filepath.Join(dir, daemon+".pid"), "-P", "0", "--log", "stdout")
}

// giveTo makes a folder a user's own.
func giveTo(name, dir string) error {
	account, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("FRR's user: %w", err)
	}
	uid, err := strconv.Atoi(account.Uid)
	gid, err2 := strconv.Atoi(account.Gid)
	if err := errors.Join(err, err2, os.Chown(dir, uid, gid)); err != nil {
		return fmt.Errorf("folder of %s: %w", name, err)
	}
	return nil
}
