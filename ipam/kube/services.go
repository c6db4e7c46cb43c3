package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clearway/clearway/ipam/service"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func sameService(a, b *service.Service) bool { return reflect.DeepEqual(a, b) }

// seeServices tells the Keeper of all Services and where their endpoints are, once both have been listed whole, and Kubernetes
// which addresses they have.
func (m *mirror) seeServices(ctx context.Context, held map[key]clearwayv1.Object) error {
	news := m.services.heard() + m.slices.heard() // before the rows: what comes between the two is told once more
	all, whole := m.services.all()
	parts, alsoWhole := m.slices.all()
	if !whole || !alsoWhole {
		return nil
	}
	err := m.seeOnce("services", sight{news: news, asked: versionsOf(held)}, func() (err error) {
		m.answers, err = m.keeper.SeeServices(ctx, withEndpoints(all, parts))
		return err
	})
	return errors.Join(err, m.tellServices(ctx, all))
}

// versionsOf tells apart configurations that give Services other addresses, or let others be told.
func versionsOf(held map[key]clearwayv1.Object) string {
	var text strings.Builder
	for _, k := range slices.SortedFunc(maps.Keys(held), key.compare) {
		switch k.kind {
		case "IPPool", "IPReservation", "BGPConfiguration":
			fmt.Fprintf(&text, "%s/%s@%s ", k.kind, k.name, held[k].GetMetadata().GetResourceVersion())
		}
	}
	return text.String()
}

// tellServices writes the addresses of Services into their status, where it has others, and an event where one lacks some.
func (m *mirror) tellServices(ctx context.Context, all map[string]*service.Service) error {
	var failed error
	written := 0
	for _, name := range slices.Sorted(maps.Keys(m.answers)) {
		one, answer := all[name], m.answers[name]
		if one == nil || one.UID != answer.UID { // it has been made anew since: another round comes
			continue
		}
		if m.refusals[name] != answer.Refusal && answer.Refusal != "" {
			m.cluster.log.Warn("Kubernetes: a Service lacks an address", "service", name, "reason", answer.Refusal)
			m.cluster.eventOf(ctx, corev1.ObjectReference{
				APIVersion: "v1", Kind: "Service", Namespace: one.Namespace, Name: one.Name, UID: types.UID(one.UID),
			}, corev1.EventTypeWarning, "NoAddress", answer.Refusal)
		}
		m.refusals[name] = answer.Refusal
		if slices.Equal(sortedAddrs(one.Ingress), sortedAddrs(answer.Addresses)) {
			continue
		}
		if written == tellAtOnce || ctx.Err() != nil {
			m.wake()
			break
		}
		written++
		failed = errors.Join(failed, m.cluster.writeIngress(ctx, one, answer.Addresses))
	}
	maps.DeleteFunc(m.refusals, func(name, _ string) bool { return all[name] == nil })
	return failed
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
