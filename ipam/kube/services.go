package kube

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

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
	m.teller.put(all, m.answers)
	return err
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
