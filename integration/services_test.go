package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/clearway/clearway/integration/cluster"
	"github.com/clearway/clearway/integration/kubeapi"
	"github.com/clearway/clearway/integration/lab"
)

// TestServices runs the two racks with a real API server behind ipamd: a Service's address comes up at both ToRs, follows its
// endpoints from node to node, and packets from outside reach it by the ToR that has an endpoint below it.
func TestServices(t *testing.T) {
	r := raise(t, "two-racks")
	api := r.apiServer(t)
	apply := func(path, object string) {
		t.Helper()
		must(t, api.ServerSideApply(t.Context(), path, []byte(object)))
	}
	apply("/apis/clearway.io/v1/ippools/vips", "{apiVersion: clearway.io/v1, kind: IPPool, metadata: {name: vips}, spec: {cidr: 203.0.113.0/24, kind: LoadBalancer}}")
	apply("/apis/clearway.io/v1/ippools/vips6", `{apiVersion: clearway.io/v1, kind: IPPool, metadata: {name: vips6}, spec: {cidr: "2001:db8:113::/112", kind: LoadBalancer}}`)
	apply("/apis/clearway.io/v1/bgpconfigurations/default", `{apiVersion: clearway.io/v1, kind: BGPConfiguration, metadata: {name: default},
spec: {asNumber: 65001, nodeMesh: None, services: {loadBalancerIPs: [203.0.113.0/24, "2001:db8:113::/112"]}}}`)
	r.toKubernetes(t, api.Kubeconfig(kubeapi.Ipamd))

	endpoints := func(nodes ...string) {
		t.Helper()
		var items []string
		for i, node := range nodes {
			items = append(items, fmt.Sprintf(`{addresses: ["10.244.0.%d"], nodeName: %s, conditions: {ready: true}}`, i+10, node))
		}
		apply("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/web-1", fmt.Sprintf(`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice,
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, endpoints: [%s]}`, strings.Join(items, ", ")))
	}
	service := func(policy string) {
		t.Helper()
		apply("/api/v1/namespaces/default/services/web", fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: LoadBalancer,
loadBalancerClass: clearway.io/bgp, ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], externalTrafficPolicy: %s, ports: [{port: 80}]}}`, policy))
	}
	const vip4, vip6 = "203.0.113.0", "2001:db8:113::"
	hops := func(router string, want ...string) {
		t.Helper()
		lab.Eventually(t, soon, fmt.Sprintf("%s to go to %s by %v", router, vip4, want), func() error {
			got, err := nextHops(t, r.Node(router), vip4+"/32")
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("it goes by %v", got)
			}
			return err
		})
	}
	service("Cluster")
	endpoints("r1n1")
	// Every node, whatever its endpoints; each ToR prefers its own two, and has the other rack by the spine at best.
	hops("tor1", "172.16.11.1", "172.16.12.1")
	hops("tor2", "172.16.21.1", "172.16.22.1")
	lab.Eventually(t, soon, "the IPv6 address at the ToR", func() error {
		text, err := r.Node("tor1").Exec(t.Context(), "vtysh", "-c", "show ipv6 route "+vip6+"/128 json")
		if err == nil && !strings.Contains(text, `"protocol":"bgp"`) {
			err = fmt.Errorf("%s", text)
		}
		return err
	})
	// Local: the node that has one.
	service("Local")
	hops("tor1", "172.16.11.1")
	endpoints("r2n2")
	hops("tor2", "172.16.22.1")
	hops("tor1", "172.16.1.0") // the spine
	hops("tor2", "172.16.22.1")

	// A packet from outside comes to the node that has the endpoint: there the address stands in for kube-proxy.
	for _, argv := range [][]string{{"ip", "addr", "add", vip4 + "/32", "dev", "lo"}, {"ip", "addr", "add", vip6 + "/128", "dev", "lo"}} {
		_, err := r.Node("r2n2").Exec(t.Context(), argv...)
		must(t, err)
	}
	for _, vip := range []string{vip4, vip6} {
		lab.Eventually(t, soon, "an answer of "+vip, func() error {
			_, err := r.Node("outside").Exec(t.Context(), "ping", "-c", "1", "-W", "1", vip)
			return err
		})
	}

	// No node takes it from its ToR, and none tells another of it.
	text, err := r.NodeCtl(t.Context(), "r1n1", "bgp", "routes")
	must(t, err)
	if strings.Contains(text, vip4) {
		lines := slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return !strings.Contains(line, vip4) })
		if !strings.Contains(strings.Join(lines, "\n"), "every node reaches Services by itself") {
			t.Errorf("r1n1 has it:\n%s", strings.Join(lines, "\n"))
		}
	}

	// The books agree, and who has the address is known.
	for _, argv := range [][]string{{"bgp", "verify", "--probe"}, {"ipam", "check"}} {
		_, err = r.Ctl(t.Context(), argv...)
		must(t, err)
	}
	told, err := r.Ctl(t.Context(), "ipam", "show", "--ip", vip4)
	must(t, err)
	if want := "is held by Service default/web, of pool vips; told by r2n2."; !strings.Contains(told, want) {
		t.Errorf("%q is not in %s", want, told)
	}
	r.found(t, []string{"bgp", "trace", vip4}, "is in pool vips, whose addresses are Services'")

	// ipamd away: the routes stay, the agent's own restart included; without endpoints, once it is back, they go.
	must(t, r.Node("ctl").Process(cluster.Ipamd).Kill(t.Context(), syscall.SIGKILL))
	must(t, r.Crash(t.Context(), "r2n2"))
	_, err = r.Node("r2n2").Process(cluster.Agent).Restart()
	must(t, err)
	must(t, r.AgentAnswers(t.Context(), "r2n2"))
	lab.Eventually(t, soon, "r2n2 to tell it again", func() error {
		text, err := r.NodeCtl(t.Context(), "r2n2", "bgp", "routes", "advertised")
		if err == nil && !strings.Contains(text, vip4+"/32") {
			err = fmt.Errorf("%s", text)
		}
		return err
	})
	hops("tor2", "172.16.22.1")
	endpoints()
	_, err = r.Node("ctl").Process(cluster.Ipamd).Restart()
	must(t, err)
	hops("tor2")
	hops("tor1")
	code, answer, err := api.Call(t.Context(), http.MethodDelete, "/api/v1/namespaces/default/services/web", nil, "")
	if err != nil || code != http.StatusOK {
		t.Errorf("%d %s %v", code, answer, err)
	}
}

// apiServer starts one on ipamd's node, with what Clearway installs in it.
func (r *road) apiServer(t testing.TB) *kubeapi.Server {
	t.Helper()
	network := fmt.Sprintf("/proc/%d/ns/net", r.Node("ctl").Process(cluster.Ipamd).PID())
	api := kubeapi.StartIn(t, kubeapi.StartEtcdIn(t, network), network)
	api.InstallDefinitions()
	api.InstallRoles()
	return api
}

// toKubernetes starts ipamd anew, over the same store, with its configuration in Kubernetes.
func (r *road) toKubernetes(t testing.TB, kubeconfig string) {
	t.Helper()
	ctl := r.Node("ctl")
	must(t, ctl.Process(cluster.Ipamd).Kill(t.Context(), syscall.SIGTERM))
	_, err := ctl.Start(cluster.Ipamd, "clearway-ipamd", "--listen", "0.0.0.0:7470", "--data-dir", "/var/lib/clearway", "--insecure",
		"--kubeconfig", kubeconfig)
	must(t, err)
	must(t, r.Answers(t.Context()))
	r.settled(t)
}

// nextHops are the next hops of a router's selected BGP route, in order; none: it has no such route.
func nextHops(t *testing.T, router *lab.Node, prefix string) ([]string, error) {
	t.Helper()
	text, err := router.Exec(t.Context(), "vtysh", "-c", "show ip route "+prefix+" json")
	if err != nil {
		return nil, err
	}
	var routes map[string][]struct {
		Protocol string
		Selected bool
		Nexthops []struct{ IP string }
	}
	if err := json.Unmarshal([]byte(text), &routes); err != nil {
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	var hops []string
	for _, one := range routes[prefix] {
		if one.Protocol == "bgp" && one.Selected {
			for _, hop := range one.Nexthops {
				hops = append(hops, hop.IP)
			}
		}
	}
	slices.Sort(hops)
	return hops, nil
}
