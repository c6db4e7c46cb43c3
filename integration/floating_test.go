package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/lab"
)

// TestFloatingAddressesMove: a Pod of a StatefulSet moves to another rack and back, with its two addresses. The new one is
// asked for while the old one still runs. At each moment no router knows two ways to different holders; and the agent of the
// holder that gives up is killed once, right after the DEL.
func TestFloatingAddressesMove(t *testing.T) {
	r := raiseWith(t, "two-racks", networkOf(`"type": "ptp"`, `"float", "float6"`))
	must(t, r.ApplyText(t.Context(), `{apiVersion: clearway.io/v1, kind: IPPool, metadata: {name: float}, spec: {cidr: 10.247.0.0/24, kind: Floating}}
---
{apiVersion: clearway.io/v1, kind: IPPool, metadata: {name: float6}, spec: {cidr: "fd00:10:247::/64", kind: Floating}}
`))
	outside := r.Node("outside")
	pod := r.tinyPod(t, "r1n1", "db-0")
	if pod == nil {
		t.FailNow()
	}
	held := addresses(pod)
	for _, addr := range held {
		ping(t, outside, pod, addr)
	}
	watch := r.watchOrigins(t, held)
	for i, to := range []string{"r2n2", "r1n2"} {
		from := pod.Node.Spec.Name
		got := make(chan *lab.Pod, 1)
		go func() { got <- r.tinyPod(t, to, "db-0") }()
		lab.Always(t, 2*time.Second, "the new node's ADD to wait for the old holder", func() error {
			if len(got) > 0 {
				return errors.New("it was answered")
			}
			return nil
		})
		must(t, pod.Del(t.Context()))
		if i == 1 {
			must(t, r.Crash(t.Context(), from))
			must(t, r.Node(from).Restart(cluster.Agent))
		}
		if pod = <-got; pod == nil {
			t.FailNow()
		}
		if now := addresses(pod); !slices.Equal(now, held) {
			t.Fatalf("on %s it has %v; it had %v on %s", to, now, held, from)
		}
		for _, addr := range held {
			ping(t, outside, pod, addr)
			prefix := netip.PrefixFrom(addr, addr.BitLen())
			lab.Eventually(t, soon, "the old node to have a road to the new one", func() error {
				routes, err := cluster.Routes(t.Context(), r.Node(from), cluster.Protocol)
				if route, found := routes[prefix]; err == nil && (!found || route.Type == "blackhole") {
					err = fmt.Errorf("%s is %+v", prefix, route)
				}
				return err
			})
			lab.Eventually(t, soon, "ipamd's copy to have it", func() error {
				shown, err := r.Ctl(t.Context(), "ipam", "show", "--ip", addr.String())
				if err == nil && (!strings.Contains(shown, "default/db-0") || !strings.Contains(shown, to)) {
					err = fmt.Errorf("ipam show --ip %s tells\n%s", addr, shown)
				}
				return err
			})
		}
	}
	watch.judge(t, held)
	lab.Eventually(t, soon, "the history to tell of all three", func() error { // it goes by the nodes' copies, which come later
		history, err := r.Ctl(t.Context(), "ipam", "history", "--ip", held[0].String())
		for _, node := range []string{"r1n1", "r2n2", "r1n2"} {
			if err == nil && !strings.Contains(history, node) {
				err = fmt.Errorf("it lacks %s:\n%s", node, history)
			}
		}
		return err
	})
	must(t, pod.Del(t.Context()))
}

// origins are the ways that some routers' kernels had to single addresses, one after the other: every change is heard.
type origins struct {
	done chan struct{}
	all  sync.WaitGroup

	mu     sync.Mutex          // guards all below
	ways   map[string][]string // by router and address
	faults []string
}

// watchOrigins listens to the routers until judged.
func (r *road) watchOrigins(t *testing.T, addrs []netip.Addr) *origins {
	t.Helper()
	o := &origins{done: make(chan struct{}), ways: map[string][]string{}}
	for _, name := range r.routers {
		updates := make(chan netlink.RouteUpdate)
		must(t, r.Node(name).Do(func() error {
			return netlink.RouteSubscribeWithOptions(updates, o.done, netlink.RouteSubscribeOptions{
				ListExisting: true, ReceiveBufferSize: 1 << 20,
				ErrorCallback: func(err error) {
					o.mu.Lock()
					defer o.mu.Unlock()
					select {
					case <-o.done: // the socket was closed
					default:
						o.faults = append(o.faults, fmt.Sprintf("%s: %v", name, err))
					}
				},
			})
		}))
		o.all.Go(func() {
			for update := range updates {
				o.note(name, addrs, update)
			}
		})
	}
	t.Cleanup(o.end)
	return o
}

func (o *origins) end() {
	select {
	case <-o.done:
	default:
		close(o.done)
	}
	o.all.Wait()
}

// note takes one change. More than one way at a time is two origins: all ways to one node are one link here.
func (o *origins) note(router string, addrs []netip.Addr, update netlink.RouteUpdate) {
	if update.Dst == nil {
		return
	}
	addr, ok := netip.AddrFromSlice(update.Dst.IP)
	ones, bits := update.Dst.Mask.Size()
	if addr = addr.Unmap(); !ok || ones != bits || !slices.Contains(addrs, addr) {
		return
	}
	way := "none"
	if update.Type == unix.RTM_NEWROUTE {
		way = update.Gw.String()
		if update.Via != nil {
			way = update.Via.String()
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	key := fmt.Sprintf("%s %s", router, addr)
	if len(update.MultiPath) > 1 {
		o.faults = append(o.faults, fmt.Sprintf("%s by two ways at a time: %v", key, update.Route))
	}
	o.ways[key] = append(o.ways[key], way)
}

// judge ends it. The spine must have had each address over either rack, and over none in between; no router two at a time.
func (o *origins) judge(t *testing.T, addrs []netip.Addr) {
	t.Helper()
	o.end()
	for key, ways := range o.ways {
		t.Log(key, ways)
	}
	for _, fault := range o.faults {
		t.Error(fault)
	}
	for _, addr := range addrs {
		ways := slices.Compact(o.ways[fmt.Sprintf("spine %s", addr)])
		if len(ways) != 5 || ways[1] != "none" || ways[3] != "none" || ways[0] != ways[4] || ways[0] == ways[2] {
			t.Errorf("the spine had %s by %v; it is first in one rack, then in the other, then in the first, and nowhere in between", addr, ways)
		}
	}
}
