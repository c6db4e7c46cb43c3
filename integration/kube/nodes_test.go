package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/clearway/clearway/integration/kubeapi"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// agent is as much of an agent as ipamd sees of one: it registers, reports, and watches.
type agent struct {
	client  clearwayv1.NodeServiceClient
	name    string
	session string
	uid     string

	services *serviceLog // once it is followed
}

func (a *agent) register(ctx context.Context) error {
	answer, err := a.client.Register(ctx, &clearwayv1.RegisterRequest{
		Node: a.name, MachineId: "m-" + a.name, BootId: "b", JournalId: "j-" + a.name, ProcessId: "p-" + a.name,
		Addresses: []string{"192.0.2.11/24"}, Labels: map[string]string{"rack": "agents", "own": "yes"},
	})
	if err == nil {
		a.session, a.uid = answer.GetSessionId(), answer.GetNodeUid()
	}
	return err
}

// up registers the agent, has it claim a block, and say that it is ready.
func (a *agent) up(ctx context.Context, pool string) error {
	if err := a.register(ctx); err != nil {
		return err
	}
	if _, err := a.client.ClaimBlock(ctx, &clearwayv1.ClaimBlockRequest{
		Node: a.name, SessionId: a.session, RequestKey: "k", Pool: pool,
	}); err != nil {
		return err
	}
	_, err := a.client.ReportStatus(ctx, &clearwayv1.ReportStatusRequest{Node: a.name, SessionId: a.session, Ready: true})
	return err
}

// snapshot is the first that a watch of its own brings.
func (a *agent) snapshot(ctx context.Context) (*clearwayv1.NodeSnapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	stream, err := a.client.WatchNode(ctx, &clearwayv1.WatchNodeRequest{Node: a.name, SessionId: a.session})
	if err != nil {
		return nil, err
	}
	message, err := stream.Recv()
	return message.GetSnapshot(), err
}

func (c *cluster) applyNode(t testing.TB, name, metadata, spec string) {
	t.Helper()
	text := fmt.Sprintf("{apiVersion: v1, kind: Node, metadata: {name: %s, %s}, spec: {%s}}", name, metadata, spec)
	if err := c.ServerSideApply(t.Context(), "/api/v1/nodes/"+name, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// testNodes: what Kubernetes says of a machine holds, and Kubernetes is told whether it has a network.
func testNodes(t *testing.T, c *cluster) {
	i := c.ipamd(t)
	c.apply(t, "IPPool", "nodes-pods", "{cidr: 10.210.0.0/16}")
	c.accepted(t, "IPPool", "nodes-pods")
	a := &agent{client: clearwayv1.NewNodeServiceClient(i.conn), name: "n1"}
	c.applyNode(t, "n1", `labels: {rack: r1, topology.kubernetes.io/zone: z1}, annotations: {clearway.io/addresses: "198.51.100.11/24"}`, "")
	first := c.until(t, "Node n1", "/api/v1/nodes/n1", func(o object) bool { return o.Metadata.UID != "" })
	kubeapi.Eventually(t, soon, "the agent to register under the Node's UID", func() error {
		err := a.register(t.Context())
		if err == nil && a.uid != first.Metadata.UID {
			err = fmt.Errorf("it has UID %s, the Node %s", a.uid, first.Metadata.UID)
		}
		return err
	})
	t.Run("labels and addresses", func(t *testing.T) {
		kubeapi.Eventually(t, soon, "the Node's labels in a snapshot", func() error {
			got, err := a.snapshot(t.Context())
			if err != nil {
				return err
			}
			status := got.GetNode().GetStatus()
			if l := status.GetLabels(); l["rack"] != "r1" || l["own"] != "yes" || l["topology.kubernetes.io/zone"] != "z1" || fmt.Sprint(status.GetAddresses()) != "[198.51.100.11/24]" {
				return fmt.Errorf("labels %v, addresses %v", l, status.GetAddresses())
			}
			return nil
		})
	})
	t.Run("NetworkUnavailable", func(t *testing.T) {
		c.until(t, "a node without a block", "/api/v1/nodes/n1", func(o object) bool { return o.condition("NetworkUnavailable").Status == "True" })
		if err := a.up(t.Context(), "nodes-pods"); err != nil {
			t.Fatal(err)
		}
		c.until(t, "a node with a block", "/api/v1/nodes/n1", func(o object) bool { return o.condition("NetworkUnavailable").Status == "False" })
	})
	t.Run("podCIDR and cordon", func(t *testing.T) {
		c.apply(t, "IPPool", "nodes-given", "{cidr: 10.211.0.0/16, layout: Rigid, usePodCIDR: true}")
		c.accepted(t, "IPPool", "nodes-given")
		c.apply(t, "BGPConfiguration", "default", "{drainCordoned: true}")
		c.applyNode(t, "n1", `labels: {rack: r1}`, "podCIDR: 10.211.9.0/24, podCIDRs: [10.211.9.0/24], unschedulable: true")
		kubeapi.Eventually(t, soon, "the node to get what Kubernetes gave it", func() error {
			if err := a.register(t.Context()); err != nil {
				return err
			}
			answer, err := a.client.ClaimBlock(t.Context(), &clearwayv1.ClaimBlockRequest{
				Node: a.name, SessionId: a.session, RequestKey: "given", Pool: "nodes-given",
			})
			if err == nil && answer.GetBlock().GetCidr() != "10.211.9.0/24" {
				err = fmt.Errorf("got %s", answer.GetBlock().GetCidr())
			}
			return err
		})
		kubeapi.Eventually(t, soon, "the cordoned node to be drained, and to keep its blocks", func() error {
			got, err := a.snapshot(t.Context())
			if err == nil && !got.GetNode().GetSpec().GetDrain().GetKeep() {
				err = fmt.Errorf("it is told %v", got.GetNode().GetSpec())
			}
			return err
		})
		c.delete(t, path("BGPConfiguration", "default"))
	})
	t.Run("a Node that is made anew", func(t *testing.T) {
		c.delete(t, "/api/v1/nodes/n1")
		c.applyNode(t, "n1", "labels: {rack: r2}", "")
		second := c.until(t, "the second Node", "/api/v1/nodes/n1", func(o object) bool { return o.Metadata.UID != first.Metadata.UID })
		kubeapi.Eventually(t, soon, "the block to be bound to the new UID", func() error {
			if err := a.register(t.Context()); err != nil {
				return err
			}
			out, err := i.ctl(t, "", "get", "blocks", "-o", "json")
			if err != nil {
				return err
			}
			var list struct {
				Items []struct {
					Spec struct{ Node, NodeUID, State, Pool string }
				}
			}
			if err := json.Unmarshal([]byte(out), &list); err != nil {
				return err
			}
			list.Items = slices.DeleteFunc(list.Items, func(one struct {
				Spec struct{ Node, NodeUID, State, Pool string }
			}) bool {
				return one.Spec.Pool != "nodes-pods"
			})
			if len(list.Items) != 1 || list.Items[0].Spec.NodeUID != second.Metadata.UID || list.Items[0].Spec.State != "Owned" {
				return fmt.Errorf("blocks: %+v, want UID %s", list.Items, second.Metadata.UID)
			}
			return nil
		})
	})
	t.Run("namespaces", func(t *testing.T) {
		for name, metadata := range map[string]string{
			"plain": "labels: {team: a}", "chosen": `annotations: {clearway.io/pools: nodes-pods, other.io/x: "y"}, labels: {team: b}`,
		} {
			text := fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, %s}}", name, metadata)
			if err := c.ServerSideApply(t.Context(), "/api/v1/namespaces/"+name, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		see := func(want string) {
			t.Helper()
			kubeapi.Eventually(t, soon, "namespaces in a snapshot", func() error {
				if err := a.register(t.Context()); err != nil {
					return err
				}
				got, err := a.snapshot(t.Context())
				if err != nil {
					return err
				}
				text := ""
				for _, name := range []string{"chosen", "plain"} {
					if one := got.GetNamespaces()[name]; one != nil {
						text += fmt.Sprintf("%s %s %v; ", name, one.GetLabels()["team"], one.GetAnnotations())
					}
				}
				if text != want {
					return fmt.Errorf("%q, want %q", text, want)
				}
				return nil
			})
		}
		see("chosen  map[clearway.io/pools:nodes-pods]; ")
		c.apply(t, "IPPool", "nodes-pods", "{cidr: 10.210.0.0/16, namespaceSelector: {matchLabels: {team: a}}}")
		see("chosen b map[clearway.io/pools:nodes-pods]; plain a map[]; ")
	})
	c.delete(t, "/api/v1/nodes/n1")
	c.delete(t, path("IPPool", "nodes-pods"))
	c.delete(t, path("IPPool", "nodes-given"))
	if code, _, err := c.Call(t.Context(), http.MethodGet, "/api/v1/nodes/n1", nil, ""); err != nil || code != http.StatusNotFound {
		t.Errorf("%d, %v", code, err)
	}
}
