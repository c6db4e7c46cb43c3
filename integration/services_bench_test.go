package integration

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/kubeapi"
	"github.com/clearway/clearway/integration/lab"
)

// BenchmarkServiceToRouter takes the time from the API server's answer that an endpoint is ready, or no longer, to the route in
// a ToR's kernel, or its end: through ipamd, etcd, the agents, BGP and FRR. There are as many other Services, each told by every
// node, with ten endpoints. What ipamd takes of memory is beside it.
func BenchmarkServiceToRouter(b *testing.B) {
	for _, others := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("services=%d", others), func(b *testing.B) { serviceToRouter(b, others) })
	}
}

// calls is how many objects are written at a time.
const calls = 16

func serviceToRouter(b *testing.B, others int) {
	r := raise(b, "two-racks")
	api := r.apiServer(b)
	for path, object := range map[string]string{
		"ippools/vips": "{apiVersion: clearway.io/v1, kind: IPPool, metadata: {name: vips}, spec: {cidr: 100.64.0.0/16, kind: LoadBalancer}}",
		"bgpconfigurations/default": `{apiVersion: clearway.io/v1, kind: BGPConfiguration, metadata: {name: default},
spec: {asNumber: 65001, nodeMesh: None, services: {loadBalancerIPs: [100.64.0.0/16]}}}`,
	} {
		must(b, api.ServerSideApply(b.Context(), "/apis/clearway.io/v1/"+path, []byte(object)))
	}
	balanced := func(name, addresses string, ready bool) error {
		if err := api.ServerSideApply(b.Context(), "/api/v1/namespaces/default/services/"+name, fmt.Appendf(nil, `{apiVersion: v1, kind: Service,
metadata: {name: %s, annotations: {clearway.io/load-balancer-ips: "%s"}}, spec: {type: LoadBalancer, loadBalancerClass: clearway.io/bgp,
allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}}`, name, addresses)); err != nil {
			return err
		}
		return endpointsOf(b, api, name, 10, ready)
	}
	var group errgroup.Group
	group.SetLimit(calls)
	for n := range others {
		group.Go(func() error { return balanced(fmt.Sprint("s", n), "", true) })
	}
	must(b, group.Wait())
	const probe = "100.64.255.1"
	must(b, balanced("probe", probe, true))
	r.toKubernetes(b, api.Kubeconfig(kubeapi.Ipamd))
	seen := watchRoutes(b, r.Node("tor1"), netip.MustParseAddr(probe))
	lab.Eventually(b, 4*soon, "all to be told", func() error {
		text, err := r.NodeCtl(b.Context(), "r1n1", "bgp", "routes", "advertised", "--no-headers")
		if lines := strings.Count(text, "100.64."); err == nil && lines < others+1 {
			err = fmt.Errorf("%d are told", lines)
		}
		return err
	})
	lab.Eventually(b, 4*soon, "the last Service to have its status", func() error { // what is measured is a cluster that has settled
		_, text, err := api.Call(b.Context(), http.MethodGet, fmt.Sprint("/api/v1/namespaces/default/services/s", others-1), nil, "")
		if err == nil && !strings.Contains(string(text), "ipMode") {
			err = errors.New("it has none")
		}
		return err
	})
	for there := range seen { // of the start
		if there {
			break
		}
	}
	processes := map[string]int{
		"ipamd": r.Node("ctl").Process(cluster.Ipamd).PID(), "agent": r.Node("r1n1").Process(cluster.Agent).PID(),
	}
	before := map[string]time.Duration{}
	for name, pid := range processes {
		before[name] = processorTime(b, pid)
	}
	var times []float64
	ready := true
	for b.Loop() {
		ready = !ready
		must(b, endpointsOf(b, api, "probe", 1, ready))
		began := time.Now()
		for there := range seen {
			if there == ready {
				break
			}
		}
		times = append(times, time.Since(began).Seconds()*1000)
	}
	slices.Sort(times)
	b.ReportMetric(times[len(times)/2], "p50-ms")
	b.ReportMetric(times[len(times)*99/100], "p99-ms")
	for name, pid := range processes {
		b.ReportMetric(residentMiB(b, pid), name+"-MiB")
		b.ReportMetric(float64((processorTime(b, pid)-before[name]).Milliseconds())/float64(b.N), name+"-cpu-ms/op")
	}
	b.ReportMetric(0, "ns/op")
}

// endpointsOf writes where a Service's endpoints are.
func endpointsOf(b *testing.B, api *kubeapi.Server, name string, count int, ready bool) error {
	var items []string
	for n := range count {
		items = append(items, fmt.Sprintf(`{addresses: ["10.244.0.%d"], nodeName: r1n1, conditions: {ready: %t}}`, n+10, ready))
	}
	return api.ServerSideApply(b.Context(), "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/"+name+"-1", fmt.Appendf(nil,
		`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: %s-1, labels: {kubernetes.io/service-name: %s}},
addressType: IPv4, endpoints: [%s]}`, name, name, strings.Join(items, ", ")))
}

// watchRoutes tells when a router's kernel gets a host route, and when it loses it.
func watchRoutes(b *testing.B, router *lab.Node, addr netip.Addr) <-chan bool {
	handle, err := netns.GetFromPath(fmt.Sprintf("/proc/%d/ns/net", router.Process("zebra").PID()))
	must(b, err)
	updates, done, seen := make(chan netlink.RouteUpdate, 1<<16), make(chan struct{}), make(chan bool, 1<<10)
	must(b, netlink.RouteSubscribeWithOptions(updates, done, netlink.RouteSubscribeOptions{Namespace: &handle, ListExisting: true}))
	b.Cleanup(func() { close(done); handle.Close() })
	go func() {
		defer close(seen)
		for update := range updates {
			if update.Dst != nil && update.Dst.IP.String() == addr.String() {
				seen <- update.Type == 24 // RTM_NEWROUTE
			}
		}
	}()
	return seen
}

func residentMiB(b *testing.B, pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(b, err)
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	kib, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
	must(b, err)
	return kib / 1024
}

// processorTime is what a process has used of the processors.
func processorTime(b *testing.B, pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(b, err)
	_, after, _ := strings.Cut(string(text), ") ") // its name may have spaces
	fields := strings.Fields(after)
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.ParseInt(field, 10, 64)
		must(b, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
