package kube

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/clearway/clearway/integration/kubeapi"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func servicePath(name string) string { return "/api/v1/namespaces/default/services/" + name }

// applyService writes a Service of type LoadBalancer with one port; spec comes over that.
func (c *cluster) applyService(t testing.TB, name, annotations, spec string) {
	t.Helper()
	text := fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: %s, annotations: {%s}},
spec: {type: LoadBalancer, loadBalancerClass: clearway.io/bgp, allocateLoadBalancerNodePorts: false, selector: {app: %s},
  ports: [{name: http, port: 80, protocol: TCP}], %s}}`, name, annotations, name, spec)
	if err := c.ServerSideApply(t.Context(), servicePath(name), []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// applySlice writes where a Service's endpoints are: NODE, with "!" before it one that is not ready, and with "~" one that is
// about to go and serves still.
func (c *cluster) applySlice(t testing.TB, service string, endpoints ...string) {
	t.Helper()
	var items []string
	for i, one := range endpoints {
		ready, terminating := !strings.ContainsAny(one, "!~"), strings.HasPrefix(one, "~")
		items = append(items, fmt.Sprintf(`{addresses: ["10.1.0.%d"], nodeName: %s, conditions: {ready: %t, serving: %t, terminating: %t}}`,
			i+1, strings.TrimLeft(one, "!~"), ready, ready || terminating, terminating))
	}
	text := fmt.Sprintf(`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
metadata: {name: %s-1, labels: {kubernetes.io/service-name: %s}}, endpoints: [%s]}`, service, service, strings.Join(items, ", "))
	if err := c.ServerSideApply(t.Context(), "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/"+service+"-1", []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// ingress waits until a Service's status shows these addresses.
func (c *cluster) ingress(t testing.TB, name string, want ...string) {
	t.Helper()
	kubeapi.Eventually(t, soon, fmt.Sprintf("Service %s to have %v", name, want), func() error {
		code, text, err := c.Call(t.Context(), http.MethodGet, servicePath(name), nil, "")
		if err != nil || code != http.StatusOK {
			return fmt.Errorf("%d %s %w", code, text, err)
		}
		var got struct {
			Status struct {
				LoadBalancer struct {
					Ingress []struct{ IP, IPMode string }
				}
			}
		}
		if err := json.Unmarshal(text, &got); err != nil {
			return err
		}
		var has []string
		for _, one := range got.Status.LoadBalancer.Ingress {
			has = append(has, one.IP)
			if one.IPMode != "VIP" {
				return fmt.Errorf("ipMode of %s is %q", one.IP, one.IPMode)
			}
		}
		if !slices.Equal(has, want) {
			return fmt.Errorf("it has %v", has)
		}
		return nil
	})
}

// tells waits until a node is to tell these addresses of Services, each ADDRESS=SERVICE COMMUNITIES, and no other.
func (a *agent) tells(t testing.TB, want ...string) {
	t.Helper()
	kubeapi.Eventually(t, soon, fmt.Sprintf("%s to tell %v", a.name, want), func() error {
		snapshot, err := a.snapshot(t.Context())
		if err != nil {
			return err
		}
		var has []string
		for _, one := range append(snapshot.GetServices(), a.services.all()...) {
			for _, addr := range one.GetAddresses() {
				text := fmt.Sprint(addr.GetAddress(), "=", strings.TrimPrefix(one.GetName(), "default/"), " ", strings.Join(one.GetCommunities(), " "))
				has = append(has, strings.TrimSpace(text))
			}
		}
		slices.Sort(has)
		if !slices.Equal(has, slices.Sorted(slices.Values(want))) {
			return fmt.Errorf("it tells %q", has)
		}
		return nil
	})
}

// serviceLog is what the ownership log says of Services that every node tells of.
type serviceLog struct {
	mu   sync.Mutex // guards told
	told map[string]*clearwayv1.ServiceEntry
}

// follow reads the log until the test ends, or ipamd does.
func (a *agent) follow(t testing.TB) *serviceLog {
	t.Helper()
	stream, err := a.client.WatchOwnership(t.Context(), &clearwayv1.WatchOwnershipRequest{Node: a.name, SessionId: a.session})
	if err != nil {
		t.Fatal(err)
	}
	log := &serviceLog{told: map[string]*clearwayv1.ServiceEntry{}}
	go func() {
		for {
			piece, err := stream.Recv()
			if err != nil {
				return
			}
			log.take(piece)
		}
	}()
	return log
}

func (l *serviceLog) take(piece *clearwayv1.WatchOwnershipResponse) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if piece.GetReset_() {
		clear(l.told)
	}
	for _, entry := range piece.GetEntries() {
		if one := entry.GetService(); one != nil && entry.GetDeleted() {
			delete(l.told, one.GetName())
		} else if one != nil {
			l.told[one.GetName()] = one
		}
	}
}

func (l *serviceLog) all() []*clearwayv1.ServiceEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.told))
}

// testServices: Services get addresses of LoadBalancer pools, and nodes tell them where endpoints serve.
func testServices(t *testing.T, c *cluster) {
	i := c.ipamd(t)
	c.apply(t, "IPPool", "vips4", "{cidr: 203.0.113.0/29, kind: LoadBalancer}")
	c.apply(t, "IPPool", "vips6", "{cidr: 2001:db8:113::/125, kind: LoadBalancer}")
	c.apply(t, "BGPConfiguration", "default", `{services: {loadBalancerIPs: [203.0.113.0/24, 2001:db8:113::/64], externalIPs: [198.51.100.0/24]}}`)
	for kind, name := range map[string]string{"IPPool": "vips4", "BGPConfiguration": "default"} {
		c.accepted(t, kind, name)
	}
	c.accepted(t, "IPPool", "vips6")
	a := &agent{client: clearwayv1.NewNodeServiceClient(i.conn), name: "sa"}
	b := &agent{client: clearwayv1.NewNodeServiceClient(i.conn), name: "sb"}
	for _, one := range []*agent{a, b} {
		c.applyNode(t, one.name, "", "")
		kubeapi.Eventually(t, soon, one.name+" to be seen", func() error {
			if err := one.register(t.Context()); err != nil {
				return err
			}
			if node := c.until(t, one.name, "/api/v1/nodes/"+one.name, func(object) bool { return true }); node.Metadata.UID != one.uid {
				return fmt.Errorf("it has UID %s, and not %s", one.uid, node.Metadata.UID)
			}
			return nil
		})
	}
	for _, one := range []*agent{a, b} {
		if err := one.register(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, one := range []*agent{a, b} {
		one.services = one.follow(t)
	}
	t.Run("both families, from every node once an endpoint is ready", func(t *testing.T) {
		c.applyService(t, "web", `clearway.io/communities: "64512:7"`, "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6]")
		c.ingress(t, "web", "203.0.113.0", "2001:db8:113::")
		c.applySlice(t, "web", "!sa")
		a.tells(t)
		c.applySlice(t, "web", "sa")
		for _, one := range []*agent{a, b} {
			one.tells(t, "203.0.113.0=web 64512:7", "2001:db8:113::=web 64512:7")
		}
		if out, err := i.ctl(t, "", "ipam", "show", "--ip", "203.0.113.0"); err != nil || !strings.Contains(out, "is held by Service default/web") {
			t.Errorf("%s %v", out, err)
		}
		c.until(t, "the pool to count it", path("IPPool", "vips4"), func(o object) bool {
			return o.Status.Assigned != nil && *o.Status.Assigned == 1 && *o.Status.Available == 7
		})
	})
	t.Run("Local: where endpoints are, to their end", func(t *testing.T) {
		c.applyService(t, "local", "", "externalTrafficPolicy: Local")
		c.ingress(t, "local", "203.0.113.1")
		web := []string{"203.0.113.0=web 64512:7", "2001:db8:113::=web 64512:7"}
		with := []string{web[0], "203.0.113.1=local", web[1]}
		c.applySlice(t, "local", "sa", "!sb")
		a.tells(t, with...)
		b.tells(t, web...)
		c.applySlice(t, "local", "~sa", "sb")
		a.tells(t, web...)
		b.tells(t, with...)
		c.applySlice(t, "local", "~sa", "!sb")
		a.tells(t, with...)
		b.tells(t, web...)
		c.applySlice(t, "local", "sa", "sb")
	})
	t.Run("asked for, refused, and shared", func(t *testing.T) {
		c.applyService(t, "asked", `clearway.io/load-balancer-ips: 203.0.113.7, clearway.io/sharing-key: k`, "")
		c.ingress(t, "asked", "203.0.113.7")
		c.applyService(t, "same", `clearway.io/load-balancer-ips: 203.0.113.7`, "")
		kubeapi.Eventually(t, soon, "an event that says why", func() error {
			_, text, err := c.Call(t.Context(), http.MethodGet, "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=same", nil, "")
			if err == nil && !strings.Contains(string(text), "203.0.113.7 cannot be had: Service default/asked has it") {
				err = fmt.Errorf("events are %s", text)
			}
			return err
		})
		c.ingress(t, "same")
		c.applyService(t, "same", `clearway.io/load-balancer-ips: 203.0.113.7, clearway.io/sharing-key: k`, "")
		kubeapi.Eventually(t, soon, "an event about the port", func() error {
			_, text, err := c.Call(t.Context(), http.MethodGet, "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=same", nil, "")
			if err == nil && !strings.Contains(string(text), "Service default/asked has its port TCP 80") {
				err = fmt.Errorf("events are %s", text)
			}
			return err
		})
		c.delete(t, servicePath("asked"))
		c.ingress(t, "same", "203.0.113.7")
	})
	t.Run("external addresses that are allowed", func(t *testing.T) {
		c.applyService(t, "ext", "", "loadBalancerClass: other.example/class, externalIPs: [198.51.100.9, 8.8.8.8, 203.0.113.5]")
		c.applySlice(t, "ext", "sb")
		a.tells(t, "198.51.100.9=ext", "203.0.113.0=web 64512:7", "203.0.113.1=local", "2001:db8:113::=web 64512:7")
		c.delete(t, servicePath("ext"))
	})
	t.Run("communities that cannot be read", func(t *testing.T) {
		c.applyService(t, "web", `clearway.io/communities: "64512"`, "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6]")
		kubeapi.Eventually(t, soon, "an event that says why", func() error {
			_, text, err := c.Call(t.Context(), http.MethodGet, "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=web", nil, "")
			if err == nil && !strings.Contains(string(text), "annotation clearway.io/communities") {
				err = fmt.Errorf("events are %s", text)
			}
			return err
		})
		a.tells(t, "203.0.113.0=web 64512:7", "203.0.113.1=local", "2001:db8:113::=web 64512:7")
	})
	t.Run("a pool that is in use stays", func(t *testing.T) {
		c.delete(t, path("IPPool", "vips4"))
		kubeapi.Eventually(t, soon, "ipamd to keep it", func() error {
			out, err := i.ctl(t, "", "ipam", "show", "--ip", "203.0.113.1")
			if err == nil && !strings.Contains(out, "Service default/local") {
				err = fmt.Errorf("%s", out)
			}
			return err
		})
		c.apply(t, "IPPool", "vips4", "{cidr: 203.0.113.0/30, kind: LoadBalancer}")
		c.refused(t, "IPPool", "vips4", "leaves out addresses of Service default/same")
		c.apply(t, "IPPool", "vips4", "{cidr: 203.0.113.0/29, kind: LoadBalancer}")
		c.accepted(t, "IPPool", "vips4")
	})
	t.Run("nothing moves on a restart, nor with a new store", func(t *testing.T) {
		c.delete(t, servicePath("web"))
		c.applyService(t, "late", "", "")
		c.ingress(t, "late", "203.0.113.0")
		i.Kill()
		c.applyService(t, "later", "", "")
		c.applyService(t, "ask", "clearway.io/load-balancer-ips: 203.0.113.1", "")
		i.launch(t)
		c.ingress(t, "later", "203.0.113.2")
		c.ingress(t, "local", "203.0.113.1")
		i.Kill()
		other := c.ipamd(t)
		c.applyService(t, "last", "", "")
		c.ingress(t, "last", "203.0.113.3")
		for name, addr := range map[string]string{"late": "203.0.113.0", "local": "203.0.113.1", "later": "203.0.113.2", "same": "203.0.113.7"} {
			c.ingress(t, name, addr)
			kubeapi.Eventually(t, soon, addr+" to be known", func() error {
				out, err := other.ctl(t, "", "ipam", "show", "--ip", addr)
				if err == nil && !strings.Contains(out, "Service default/"+name) {
					err = fmt.Errorf("%s", out)
				}
				return err
			})
		}
		c.applyService(t, "last", "", "type: ClusterIP, loadBalancerClass: null, allocateLoadBalancerNodePorts: null")
		c.ingress(t, "last")
		other.Kill()
	})
	for _, name := range []string{"local", "same", "late", "later", "ask", "last"} {
		c.delete(t, servicePath(name))
	}
	for _, at := range []string{"/api/v1/nodes/sa", "/api/v1/nodes/sb", path("IPPool", "vips4"), path("IPPool", "vips6"), path("BGPConfiguration", "default")} {
		c.delete(t, at)
	}
}
