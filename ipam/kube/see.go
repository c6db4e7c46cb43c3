package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// listWatch lists and watches one resource of a client's group in all namespaces.
func (c *Cluster) listWatch(client rest.Interface, resource string) cache.ListerWatcher {
	return cache.NewListWatchFromClient(client, resource, metav1.NamespaceAll, fields.Everything())
}

// tableOf is a table of one resource.
func tableOf[O runtime.Object, V any](read func(O) V, changed func()) *table[V] {
	return newTable(func(object any) (V, error) {
		typed, ok := object.(O)
		if !ok {
			var none V
			return none, fmt.Errorf("%T is not what was listed", object)
		}
		return read(typed), nil
	}, changed)
}

// seeMachines tells the Keeper of all Nodes and namespaces, and Kubernetes whether Nodes have a network. Nothing is told
// before all of a kind have been listed.
func (m *mirror) seeMachines(ctx context.Context, held map[key]clearwayv1.Object) error {
	var failed error
	news := m.nodes.heard() // before the rows: what comes between the two is told once more
	if machines, whole := m.nodes.all(); whole {
		failed = errors.Join(m.seeOnce("nodes", sight{news: news}, func() error {
			known := make(map[string]*clearwayv1.KubernetesNode, len(machines))
			for name, one := range machines {
				known[name] = one.known
				m.complain(name, one.fault)
			}
			return m.keeper.SeeNodes(ctx, known)
		}), m.tellNetworks(ctx, machines))
	}
	news = m.namespaces.heard()
	if namespaces, whole := m.namespaces.all(); whole {
		asked := askedLabels(held)
		failed = errors.Join(failed, m.seeOnce("namespaces", sight{news: news, asked: strings.Join(asked, ",")}, func() error {
			return m.keeper.SeeNamespaces(ctx, wantedNamespaces(namespaces, asked))
		}))
	}
	return failed
}

// seeEvery is how often the Keeper is told what has not changed: it also goes by the time that has passed.
const seeEvery = 10 * time.Second

// seeOnce tells the Keeper of a resource, unless it was told the same lately: to compare thousands of nodes takes its time.
func (m *mirror) seeOnce(resource string, now sight, tell func() error) error {
	before := m.saw[resource]
	now.at = time.Now()
	if before.news == now.news && before.asked == now.asked && now.at.Sub(before.at) < seeEvery {
		return nil
	}
	if err := tell(); err != nil {
		return fmt.Errorf("%s: %w", resource, err)
	}
	m.saw[resource] = now
	return nil
}

// complain logs what is wrong with a Node's annotations, once.
func (m *mirror) complain(name, fault string) {
	if fault == m.complaints[name] {
		return
	}
	m.complaints[name] = fault
	if fault != "" {
		m.cluster.log.Warn("Kubernetes: an annotation is left out", "node", name, "reason", fault)
	}
}

// tellNetworks writes NetworkUnavailable where it is not as it is.
func (m *mirror) tellNetworks(ctx context.Context, machines map[string]machine) error {
	up, err := m.keeper.NodesUp()
	if err != nil {
		return err
	}
	var failed error
	written := 0
	for name, one := range machines {
		isUp, known := up[name]
		wanted := networkCondition(one, known, isUp)
		if wanted == nil || written == tellAtOnce {
			continue
		}
		written++
		failed = errors.Join(failed, m.cluster.writeCondition(ctx, name, *wanted))
	}
	return failed
}

// writeCondition sets one condition of a Node and leaves the others: conditions merge by type.
func (c *Cluster) writeCondition(ctx context.Context, node string, condition corev1.NodeCondition) error {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	now := metav1.Now()
	condition.LastHeartbeatTime, condition.LastTransitionTime = now, now
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{condition}}})
	if err != nil {
		return err
	}
	err = c.core.Patch(types.StrategicMergePatchType).Resource("nodes").Name(node).SubResource("status").Body(patch).Do(ctx).Error()
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("condition of Node %s: %w", node, err)
	}
	return nil
}
