package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clearway/clearway/ipam/service"
)

// serviceTeller writes the addresses of Services into their status, beside the mirror's loop: after the first start of a large
// cluster there are thousands to write, and who announces what must not wait for that.
type serviceTeller struct {
	cluster *Cluster
	due     chan struct{}

	mu  sync.Mutex // guards box
	box ingressBox

	// written and refusals are the loop's own, by NAMESPACE/NAME: what was written last, and what Kubernetes was told of.
	written  map[string]ingressWrite
	refusals map[string]string
}

// ingressBox is what the mirror saw last. Neither map is changed any more.
type ingressBox struct {
	services map[string]*service.Service
	answers  map[string]service.Answer
}

type ingressWrite struct {
	uid       string
	addresses []netip.Addr
	at        time.Time
}

// echoTime is for how long a status that was written and is not seen yet is taken to be on its way.
const echoTime = 10 * time.Second

func newServiceTeller(c *Cluster) *serviceTeller {
	return &serviceTeller{cluster: c, due: make(chan struct{}, 1), written: map[string]ingressWrite{}, refusals: map[string]string{}}
}

// put says what there is, and what became of it.
func (t *serviceTeller) put(services map[string]*service.Service, answers map[string]service.Answer) {
	t.mu.Lock()
	t.box = ingressBox{services, answers}
	t.mu.Unlock()
	select {
	case t.due <- struct{}{}:
	default:
	}
}

// run writes until ctx ends.
func (t *serviceTeller) run(ctx context.Context) {
	for {
		select {
		case <-t.due:
		case <-ctx.Done():
			return
		}
		t.round(ctx)
	}
}

// round writes what differs. What is put meanwhile goes before: the round begins anew.
func (t *serviceTeller) round(ctx context.Context) {
	t.mu.Lock()
	box := t.box
	t.mu.Unlock()
	gone := func(name string) bool { return box.services[name] == nil }
	maps.DeleteFunc(t.refusals, func(name, _ string) bool { return gone(name) })
	maps.DeleteFunc(t.written, func(name string, _ ingressWrite) bool { return gone(name) })
	for _, name := range slices.Sorted(maps.Keys(box.answers)) {
		one, answer := box.services[name], box.answers[name]
		if one == nil || one.UID != answer.UID { // it has been made anew since: another round comes
			continue
		}
		t.complain(ctx, one, answer.Refusal)
		if !t.differs(one, answer, time.Now()) {
			continue
		}
		if err := t.cluster.writeIngress(ctx, one, answer.Addresses); err != nil {
			if ctx.Err() == nil {
				t.cluster.log.Warn("Kubernetes: addresses of a Service are not in its status", "reason", err)
			}
			continue // the mirror puts all of them anew every few seconds
		}
		t.written[name] = ingressWrite{one.UID, answer.Addresses, time.Now()}
		if len(t.due) > 0 || ctx.Err() != nil {
			return
		}
	}
}

// differs tells whether a Service's status is to be written.
func (t *serviceTeller) differs(one *service.Service, answer service.Answer, now time.Time) bool {
	wanted := sortedAddrs(answer.Addresses)
	if slices.Equal(sortedAddrs(one.Ingress), wanted) {
		return false
	}
	last := t.written[one.Key()]
	return last.uid != one.UID || !slices.Equal(sortedAddrs(last.addresses), wanted) || now.Sub(last.at) >= echoTime
}

// complain tells once why a Service lacks an address.
func (t *serviceTeller) complain(ctx context.Context, one *service.Service, refusal string) {
	if t.refusals[one.Key()] == refusal {
		return
	}
	t.refusals[one.Key()] = refusal
	if refusal == "" {
		return
	}
	t.cluster.log.Warn("Kubernetes: a Service lacks an address", "service", one.Key(), "reason", refusal)
	t.cluster.eventOf(ctx, corev1.ObjectReference{
		APIVersion: "v1", Kind: "Service", Namespace: one.Namespace, Name: one.Name, UID: types.UID(one.UID),
	}, corev1.EventTypeWarning, "NoAddress", refusal)
}

func sortedAddrs(list []netip.Addr) []netip.Addr {
	return slices.SortedFunc(slices.Values(list), netip.Addr.Compare)
}

// writeIngress sets status.loadBalancer of a Service, and leaves the rest of the status. The UID is a condition: a Service of
// that name that was made since is another one.
func (c *Cluster) writeIngress(ctx context.Context, of *service.Service, addresses []netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	ingress := make([]corev1.LoadBalancerIngress, 0, len(addresses))
	mode := corev1.LoadBalancerIPModeVIP
	for _, addr := range addresses {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: addr.String(), IPMode: &mode})
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": of.UID},
		"status":   map[string]any{"loadBalancer": map[string]any{"ingress": ingress}},
	})
	if err != nil {
		return err
	}
	err = c.core.Patch(types.MergePatchType).Namespace(of.Namespace).Resource("services").Name(of.Name).SubResource("status").
		Body(patch).Do(ctx).Error()
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("status of Service %s: %w", of.Key(), err)
	}
	return nil
}
