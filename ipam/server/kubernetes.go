package server

import (
	"context"
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// kube is what Kubernetes says of machines and namespaces, as the leader was told last. It lasts in the store, so that a new
// leader goes by it until it has listed them itself (rule NoEarlyPrune).
type kube struct {
	nodes      map[string]*clearwayv1.KubernetesNode
	namespaces map[string]*clearwayv1.KubernetesNamespace
	services   services
}

func newKube() kube {
	return kube{nodes: map[string]*clearwayv1.KubernetesNode{}, namespaces: map[string]*clearwayv1.KubernetesNamespace{}, services: newServices()}
}

// uid is the UID of the Node that there is of a name; "" where there is none.
func (k kube) uid(name string) string {
	if node := k.nodes[name]; node != nil && node.GetGoneTime() == nil {
		return node.GetUid()
	}
	return ""
}

func (s *state) applyKubernetes(one record.Record, touched *change) error {
	kind, name, _ := one.Key.KindName()
	switch kind {
	case record.KubernetesNodes:
		if s.nodes[name] != nil {
			touched.nodes[name] = struct{}{}
		}
		return applyTo(s.kube.nodes, name, one.Value, &clearwayv1.KubernetesNode{})
	case record.KubernetesServices:
		return s.kube.services.apply(name, one.Value, touched)
	case record.KubernetesNamespaces:
		touched.config = true
		return applyTo(s.kube.namespaces, name, one.Value, &clearwayv1.KubernetesNamespace{})
	}
	return fmt.Errorf("kind %q is unknown", kind)
}

func applyTo[M proto.Message](all map[string]M, name string, value []byte, into M) error {
	if value == nil {
		delete(all, name)
		return nil
	}
	if err := proto.Unmarshal(value, into); err != nil {
		return err
	}
	all[name] = into
	return nil
}

// seenAtOnce is how many records of what was seen one transaction writes.
const seenAtOnce = 100

// SeeNodes takes all Nodes that there are in Kubernetes, by name. A node that is no longer among them is deleted, as if an
// operator had, when its agent has been away for a while as well: its blocks are orphaned. One that is said to be off gives
// its blocks back.
func (s *Server) SeeNodes(ctx context.Context, all map[string]*clearwayv1.KubernetesNode) error {
	var remade []string
	err := s.see(ctx, func(p *plan) {
		for name, node := range all {
			saw(p, record.KubernetesNodes, name, p.kube.nodes[name], node)
		}
		for name, node := range p.kube.nodes {
			if all[name] == nil && node.GetGoneTime() == nil {
				gone := proto.CloneOf(node)
				gone.GoneTime = timestamppb.New(p.now)
				saw(p, record.KubernetesNodes, name, node, gone)
			}
		}
	})
	if err != nil {
		return err
	}
	if err := s.view(func(st *state) {
		for name := range all {
			registered := st.nodes[name]
			if uid := st.kube.uid(name); registered != nil && uid != "" && registered.GetMetadata().GetUid() != uid {
				remade = append(remade, name)
			}
		}
	}); err != nil {
		return err
	}
	for _, name := range remade {
		s.sessions.end(name) // the agent registers again, and its blocks are bound to the new UID
	}
	return s.deleteGone(ctx)
}

// SeeNamespaces takes all namespaces that there are in Kubernetes, by name.
func (s *Server) SeeNamespaces(ctx context.Context, all map[string]*clearwayv1.KubernetesNamespace) error {
	return s.see(ctx, func(p *plan) {
		for name, namespace := range all {
			saw(p, record.KubernetesNamespaces, name, p.kube.namespaces[name], namespace)
		}
		for name := range p.kube.namespaces {
			if all[name] == nil && len(p.ops) < seenAtOnce {
				p.write(record.Op{Key: record.KubernetesKey(record.KubernetesNamespaces, name)})
			}
		}
	})
}

// see writes what differs, in as many transactions as it takes.
func (s *Server) see(ctx context.Context, differences func(*plan)) error {
	for more := true; more; {
		if err := s.claims.do(ctx, true, func(p *plan) error {
			differences(p)
			more = len(p.ops) >= seenAtOnce
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func saw[M proto.Message](p *plan, kind, name string, before, now M) {
	if len(p.ops) < seenAtOnce && !proto.Equal(before, now) {
		p.write(record.Op{Key: record.KubernetesKey(kind, name), Value: mustMarshal(now)})
	}
}

// goneAfter is how long a node must be out of Kubernetes, with no agent, to be deleted here: a Node that is made anew, and an
// agent that is restarted, are back before.
const goneAfter = time.Minute

// deleteGone deletes the nodes that are in Kubernetes no more, or that are said to be off there, and have no agent.
func (s *Server) deleteGone(ctx context.Context) error {
	var due []*clearwayv1.DeleteRequest
	var forget []string
	now := s.now()
	if err := s.view(func(st *state) {
		for name, node := range st.kube.nodes {
			session := s.sessions.of(name)
			gone := node.GetGoneTime() != nil && now.Sub(node.GetGoneTime().AsTime()) >= goneAfter
			switch {
			case session != nil && session.live() || !gone && !node.GetPoweredOff():
			case st.nodes[name] != nil && now.Sub(s.heardOf(st, name)) >= goneAfter:
				due = append(due, &clearwayv1.DeleteRequest{Kind: kindNode, Name: name, PoweredOff: node.GetPoweredOff()})
			case st.nodes[name] == nil && gone:
				forget = append(forget, name)
			}
		}
	}); err != nil {
		return err
	}
	for _, request := range due {
		if err := s.deleteNode(ctx, request); err != nil {
			return fmt.Errorf("delete node %s, which Kubernetes no longer has: %w", request.GetName(), err)
		}
	}
	if len(forget) == 0 {
		return nil
	}
	return s.see(ctx, func(p *plan) {
		for _, name := range forget {
			if len(p.ops) < seenAtOnce && p.kube.nodes[name].GetGoneTime() != nil {
				p.write(record.Op{Key: record.KubernetesKey(record.KubernetesNodes, name)})
			}
		}
	})
}

// heardOf is when a node was heard of last: since this leader leads at the least, for it may be about to come.
func (s *Server) heardOf(st *state, name string) time.Time {
	heard := st.nodes[name].GetStatus().GetRegisteredTime().AsTime()
	if session := s.sessions.of(name); session != nil {
		if _, seen, _ := session.status(); seen.After(heard) {
			heard = seen
		}
	}
	if s.enteredAt.After(heard) {
		heard = s.enteredAt
	}
	return heard
}

// NodesUp tells of each registered node whether Pods there have a network: its agent is ready, and it owns a block. Of a
// node whose agent is away nothing is said.
func (s *Server) NodesUp() (map[string]bool, error) {
	up := map[string]bool{}
	err := s.view(func(st *state) {
		for name := range st.nodes {
			session := s.sessions.of(name)
			if session == nil || !session.live() {
				continue
			}
			phase, _, _ := session.status()
			up[name] = phase == phaseReady && len(st.blocksOwned(name)) > 0
		}
	})
	return up, err
}

// namespacesFor are the namespaces' labels and annotations, for a snapshot.
func (s *state) namespacesFor() map[string]*clearwayv1.KubernetesNamespace {
	return maps.Clone(s.kube.namespaces)
}
