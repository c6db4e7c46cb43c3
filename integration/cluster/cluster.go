package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/clearway/clearway/integration/lab"
)

// Names of the programs, as the lab's processes are named.
const (
	Agent = "clearway-agent"
	Ipamd = "clearway-ipamd"
	BFD   = "clearway-agent bfd"
)

// Cluster is a lab with ipamd on its node ctl and an agent on each node that says so.
type Cluster struct {
	*lab.Lab
}

// Object is a resource as clearwayctl -o json writes it; Spec and Status are the kind's.
type Object[Spec, Status any] struct {
	Kind     string
	Metadata struct {
		Name, UID string
		Labels    map[string]string
	}
	Spec   Spec
	Status Status
}

// The parts of resources that tests look at.
type (
	// BlockSpec is spec of a Block.
	BlockSpec struct{ CIDR, Pool, Node, State string }
	// BlockStatus is status of a Block. Numbers of 64 bits are text in protobuf's JSON.
	BlockStatus struct{ Assigned, Cooling Number }
	// AssignmentSpec is spec of an Assignment.
	AssignmentSpec struct {
		Address, Block, Pool, Node string
		Attachment                 struct{ Network, ContainerID, Ifname string }
		Pod                        struct{ Namespace, Name, UID string }
	}
	// SessionSpec is spec of a BGPSession.
	SessionSpec struct {
		Node, PeerAddress, Origin string
		PeerASN, LocalASN         uint32
	}
	// SessionStatus is status of a BGPSession.
	SessionStatus struct {
		State, Reason                         string
		Received, Accepted, Advertised, Flaps Number
		GracefulRestart                       bool
		BFD                                   struct{ State, DetectionTime, Diagnostic, Reason string }
	}
	// NodeStatus is status of a Node.
	NodeStatus struct {
		Phase, BootID, LastRestart, LastRestartReason string
	}
	// None is a spec or status nobody looks at.
	None struct{}
)

// Number reads an integer that JSON has as a number or as text.
type Number int64

// UnmarshalJSON takes both forms.
func (n *Number) UnmarshalJSON(text []byte) error {
	return json.Unmarshal([]byte(strings.Trim(string(text), `"`)), (*int64)(n))
}

// Ctl runs clearwayctl on ctl against ipamd.
func (c Cluster) Ctl(ctx context.Context, argv ...string) (string, error) {
	return c.Node("ctl").Exec(ctx, slices.Concat([]string{"clearwayctl", "--server", "127.0.0.1:7470", "--insecure"}, argv)...)
}

// NodeCtl runs clearwayctl on a node against its agent's socket.
func (c Cluster) NodeCtl(ctx context.Context, node string, argv ...string) (string, error) {
	return c.Node(node).Exec(ctx, slices.Concat([]string{"clearwayctl", "--socket", "/run/clearway/agent.sock"}, argv)...)
}

// List decodes what "clearwayctl get KIND -o json" writes.
func List[Spec, Status any](ctx context.Context, c Cluster, kind string, argv ...string) ([]Object[Spec, Status], error) {
	return decode[Spec, Status](c.Ctl(ctx, slices.Concat([]string{"get", kind, "-o", "json"}, argv)...))
}

// ListOn is List, asked of a node's agent.
func ListOn[Spec, Status any](ctx context.Context, c Cluster, node, kind string, argv ...string) ([]Object[Spec, Status], error) {
	return decode[Spec, Status](c.NodeCtl(ctx, node, slices.Concat([]string{"get", kind, "-o", "json"}, argv)...))
}

func decode[Spec, Status any](text string, err error) ([]Object[Spec, Status], error) {
	if err != nil {
		return nil, err
	}
	var list struct{ Items []Object[Spec, Status] }
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("clearwayctl -o json: %w: %s", err, text)
	}
	return list.Items, nil
}

// Apply hands ctl's /etc/clearway/resources.yaml to ipamd, once ipamd answers.
func (c Cluster) Apply(ctx context.Context) error {
	if err := c.Answers(ctx); err != nil {
		return err
	}
	_, err := c.Ctl(ctx, "apply", "-f", "/etc/clearway/resources.yaml")
	return err
}

// ApplyText hands resources to ipamd.
func (c Cluster) ApplyText(ctx context.Context, yaml string) error {
	_, err := c.Node("ctl").Exec(ctx, "sh", "-c",
		`printf %s "$0" | clearwayctl --server 127.0.0.1:7470 --insecure apply -f -`, yaml)
	return err
}

// Answers waits until ipamd does.
func (c Cluster) Answers(ctx context.Context) error {
	return lab.Poll(ctx, "ipamd to answer", func() error {
		if p := c.Node("ctl").Process(Ipamd); p == nil || !p.Running() {
			return errors.New("clearway-ipamd does not run")
		}
		_, err := c.Ctl(ctx, "get", "ippools")
		return err
	})
}

// Agents lists the nodes that run an agent.
func (c Cluster) Agents() []*lab.Node {
	return slices.DeleteFunc(c.Nodes(), func(n *lab.Node) bool { return n.Process(Agent) == nil })
}

// Settled waits until every node's agent is ready, with all its sessions Established.
func (c Cluster) Settled(ctx context.Context) error {
	return lab.Poll(ctx, "agents and their sessions", func() error {
		nodes, err := List[None, NodeStatus](ctx, c, "node")
		if err != nil {
			return err
		}
		phase := map[string]string{}
		for _, node := range nodes {
			phase[node.Metadata.Name] = node.Status.Phase
		}
		for _, node := range c.Agents() {
			if got := phase[node.Spec.Name]; got != "Ready" {
				return fmt.Errorf("node %s is %q, not Ready", node, got)
			}
		}
		return c.sessionsUp(ctx)
	})
}

// sessionsUp asks the agents themselves: what ipamd shows of them is some seconds old.
func (c Cluster) sessionsUp(ctx context.Context) error {
	for _, node := range c.Agents() {
		sessions, err := ListOn[SessionSpec, SessionStatus](ctx, c, node.Spec.Name, "bgpsession")
		if err != nil {
			return err
		}
		if len(sessions) == 0 {
			return fmt.Errorf("%s has no BGP session", node)
		}
		for _, session := range sessions {
			if session.Status.State != "Established" {
				return fmt.Errorf("%s: %s: %s", session.Metadata.Name, session.Status.State, session.Status.Reason)
			}
		}
	}
	return nil
}

// Reported waits until what ipamd shows of the agents' sessions is what they have.
func (c Cluster) Reported(ctx context.Context) error {
	return lab.Poll(ctx, "ipamd to hear of the sessions", func() error {
		sessions, err := List[SessionSpec, SessionStatus](ctx, c, "bgpsession")
		if err != nil {
			return err
		}
		peers, err := List[None, None](ctx, c, "bgppeer")
		if err != nil {
			return err
		}
		if len(sessions) < len(peers) {
			return fmt.Errorf("%d sessions for %d peers", len(sessions), len(peers))
		}
		for _, session := range sessions {
			if session.Status.State != "Established" {
				return fmt.Errorf("%s is %s", session.Metadata.Name, session.Status.State)
			}
		}
		return nil
	})
}

// Blocks lists the prefixes that a node owns, by ipamd's books; for no node, all that are owned.
func (c Cluster) Blocks(ctx context.Context, node string) ([]netip.Prefix, error) {
	blocks, err := List[BlockSpec, BlockStatus](ctx, c, "block")
	if err != nil {
		return nil, err
	}
	var owned []netip.Prefix
	for _, block := range blocks {
		if !strings.EqualFold(block.Spec.State, "Owned") || node != "" && block.Spec.Node != node {
			continue
		}
		prefix, err := netip.ParsePrefix(block.Spec.CIDR)
		if err != nil {
			return nil, fmt.Errorf("block %s: %w", block.Metadata.Name, err)
		}
		owned = append(owned, prefix)
	}
	slices.SortFunc(owned, netip.Prefix.Compare)
	return owned, nil
}

// Crash kills a node's agent as the kernel would, without warning.
func (c Cluster) Crash(ctx context.Context, node string) error {
	return c.Node(node).Kill(ctx, Agent, syscall.SIGKILL)
}

// AgentAnswers waits until a node's agent serves its socket.
func (c Cluster) AgentAnswers(ctx context.Context, node string) error {
	return lab.Poll(ctx, node+"'s agent to answer", func() error {
		if p := c.Node(node).Process(Agent); p == nil || !p.Running() {
			return errors.New("clearway-agent does not run")
		}
		_, err := c.NodeCtl(ctx, node, "get", "blocks")
		return err
	})
}
