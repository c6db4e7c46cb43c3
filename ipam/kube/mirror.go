package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/clearway/clearway/ipam/service"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Keeper judges and keeps the configuration: ipamd's server, while it leads.
type Keeper interface {
	// Copy takes one resource as the API server has it. A refusal is a sentence; an error is of the moment.
	Copy(ctx context.Context, object clearwayv1.Object) (refusal string, err error)
	// Drop takes note that the API server no longer has the object of this UID.
	Drop(ctx context.Context, kind, name, uid string) (refusal string, err error)
	// Copies are all resources of the configuration, with their status.
	Copies() ([]clearwayv1.Object, error)
	// SeeNodes and SeeNamespaces take all that there are, by name.
	SeeNodes(ctx context.Context, all map[string]*clearwayv1.KubernetesNode) error
	SeeNamespaces(ctx context.Context, all map[string]*clearwayv1.KubernetesNamespace) error
	// UsePods says who tells which of some Pods Kubernetes has no more, by UID; nil: nobody does from now on.
	UsePods(missing func(ctx context.Context, pods []*clearwayv1.Pod) (uids []string, known bool, err error))
	// NodesUp tells of nodes whether Pods there have a network; of one that is not in it nothing is known.
	NodesUp() (map[string]bool, error)
	// SeeServices takes all Services that there are, by NAMESPACE/NAME, and tells what became of those that concern it.
	SeeServices(ctx context.Context, all map[string]*service.Service) (map[string]service.Answer, error)
}

// How often the mirror looks by itself, and how long it gathers changes before it looks.
const (
	lookEvery = 2 * time.Second
	gather    = 20 * time.Millisecond
	takeTime  = 15 * time.Second
	pageSize  = 500
)

// Mirror brings the Keeper what the API server has, and the API server what became of it, until ctx ends. It is to run
// while this ipamd leads, and no longer.
func (c *Cluster) Mirror(ctx context.Context, keeper Keeper) {
	m := &mirror{
		cluster: c, keeper: keeper, dirty: make(chan struct{}, 1),
		tables: map[string]*table[*unstructured.Unstructured]{}, refused: map[key]refusal{}, told: map[key]told{},
		complaints: map[string]string{}, saw: map[string]sight{}, teller: newServiceTeller(c),
	}
	logger := logr.FromSlogHandler(c.log.Handler())
	group, ctx := errgroup.WithContext(klog.NewContext(ctx, logger))
	for _, kind := range kinds() {
		rows := newTable(func(object any) (*unstructured.Unstructured, error) {
			made, ok := object.(*unstructured.Unstructured)
			if !ok {
				return nil, fmt.Errorf("%T is no object of the API server's", object)
			}
			made.SetManagedFields(nil) // nobody looks at them, and they are most of it
			return made, nil
		}, m.wake)
		m.tables[kind] = rows
		resource := c.dynamic.Resource(resourceOf(kind))
		expected := &unstructured.Unstructured{}
		expected.SetAPIVersion(clearwayv1.APIVersion)
		expected.SetKind(kind)
		reflector := cache.NewReflectorWithOptions(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
				return resource.List(ctx, options)
			},
			WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
				return resource.Watch(ctx, options)
			},
		}, expected, rows, cache.ReflectorOptions{Name: "clearway " + kind, Logger: &logger})
		reflector.WatchListPageSize = pageSize
		group.Go(func() error {
			reflector.RunWithContext(ctx)
			return nil
		})
	}
	m.nodes, m.namespaces = tableOf(machineOf, m.wake), tableOf(namespaceOf, m.wake)
	m.nodes.same = sameMachine
	m.namespaces.same = func(a, b *clearwayv1.KubernetesNamespace) bool { return proto.Equal(a, b) }
	m.services, m.slices = tableOf(serviceOf, m.wake), tableOf(sliceOf, m.wake)
	m.services.same, m.slices.same = sameService, sameSlice
	for _, one := range []struct {
		client   rest.Interface
		resource string
		example  any
		rows     cache.ReflectorStore
	}{
		{c.core, "nodes", &corev1.Node{}, m.nodes}, {c.core, "namespaces", &corev1.Namespace{}, m.namespaces},
		{c.core, "services", &corev1.Service{}, m.services}, {c.slices, "endpointslices", &discoveryv1.EndpointSlice{}, m.slices},
	} {
		reflector := cache.NewReflectorWithOptions(c.listWatch(one.client, one.resource), one.example, one.rows,
			cache.ReflectorOptions{Name: one.resource, Logger: &logger})
		reflector.WatchListPageSize = pageSize
		group.Go(func() error {
			reflector.RunWithContext(ctx)
			return nil
		})
	}
	pods := newPods()
	keeper.UsePods(func(ctx context.Context, asked []*clearwayv1.Pod) ([]string, bool, error) {
		return c.missing(ctx, pods, asked)
	})
	defer keeper.UsePods(nil)
	group.Go(func() error {
		c.watchPods(ctx, pods, &logger)
		return nil
	})
	group.Go(func() error {
		m.run(ctx)
		return nil
	})
	group.Go(func() error {
		m.teller.run(ctx)
		return nil
	})
	_ = group.Wait() // none of them fails: they go on until ctx ends
}

// mirror is one run of Mirror. Its loop owns all but the tables.
type mirror struct {
	cluster *Cluster
	keeper  Keeper
	tables  map[string]*table[*unstructured.Unstructured] // by kind
	dirty   chan struct{}
	refused map[key]refusal
	told    map[key]told // what the API server was told of each object

	nodes      *table[machine]
	namespaces *table[*clearwayv1.KubernetesNamespace]
	complaints map[string]string // of nodes, that have been logged
	saw        map[string]sight  // of a resource, what the Keeper was told last

	services *table[*service.Service]
	slices   *table[slice]
	answers  map[string]service.Answer // of Services, by NAMESPACE/NAME, as last heard
	teller   *serviceTeller
}

// sight is how far a table had come when it was told, of what else it depends on, and when that was.
type sight struct {
	news  uint64
	asked string
	at    time.Time
}

func (m *mirror) wake() {
	select {
	case m.dirty <- struct{}{}:
	default:
	}
}

func (m *mirror) run(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-m.dirty:
			pause(ctx, gather)
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if err := m.look(ctx); err != nil && ctx.Err() == nil {
			m.cluster.log.Warn("Kubernetes: the configuration is not up to date", "reason", err)
		}
	}
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// seen is an object of the API server and what it says.
type seen struct {
	raw    *unstructured.Unstructured
	object clearwayv1.Object // nil: it cannot be read
	fault  string            // why it cannot
}

// look is one round: everything that changed is taken, and told of. Where one resource stands in another's way the round
// goes on as long as it gets somewhere.
func (m *mirror) look(ctx context.Context) error {
	all, ok := m.objects()
	if !ok {
		return nil // no kind is judged before all have been listed
	}
	var failed error
	var held map[key]clearwayv1.Object
	rounds := 0
	for refused := m.refused; ; refused = nil { // where something has moved, all that was refused is tried anew
		var err error
		if held, err = m.held(); err != nil {
			return err
		}
		moved, err := m.round(ctx, all, held, refused)
		if rounds++; !moved || rounds > len(rank) || ctx.Err() != nil {
			failed = err
			break
		}
	}
	return errors.Join(failed, m.tell(ctx, all, held), m.seeMachines(ctx, held), m.seeServices(ctx, held))
}

// objects are all that the API server has; ok is false before all kinds have been listed.
func (m *mirror) objects() (all map[key]seen, ok bool) {
	all = map[key]seen{}
	for kind, rows := range m.tables {
		listed, whole := rows.all()
		if !whole {
			return nil, false
		}
		for name, raw := range listed {
			one := seen{raw: raw}
			if object, err := fromKubernetes(raw); err != nil {
				one.fault = err.Error()
			} else {
				one.object = object
			}
			all[key{kind, name}] = one
		}
	}
	return all, true
}

func (m *mirror) held() (map[key]clearwayv1.Object, error) {
	copies, err := m.keeper.Copies()
	if err != nil {
		return nil, err
	}
	held := make(map[key]clearwayv1.Object, len(copies))
	for _, one := range copies {
		held[keyOf(one)] = one
	}
	return held, nil
}

// round does all steps there are once, but for those that were refused lately, and tells whether anything has changed by it.
func (m *mirror) round(
	ctx context.Context, all map[key]seen, held map[key]clearwayv1.Object, lately map[key]refusal,
) (moved bool, failed error) {
	wanted := make(map[key]clearwayv1.Object, len(all))
	for k, one := range all {
		if one.object != nil {
			wanted[k] = one.object
			continue
		}
		m.refuse(k, sourceOf(one.raw), one.fault)
		wanted[k] = held[k] // it is there, so what was taken of it is not dropped
		if wanted[k] == nil {
			delete(wanted, k)
		}
	}
	for k := range m.refused {
		if all[k].raw == nil && held[k] == nil {
			delete(m.refused, k)
		}
	}
	for _, one := range steps(wanted, held, lately, time.Now()) {
		if ctx.Err() != nil {
			return moved, ctx.Err()
		}
		done, err := m.do(ctx, one)
		moved, failed = moved || done, errors.Join(failed, err)
	}
	return moved, failed
}

func (m *mirror) do(ctx context.Context, one step) (moved bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, takeTime)
	defer cancel()
	if one.take == nil {
		refused, err := m.keeper.Drop(ctx, one.kind, one.name, one.uid)
		if err != nil {
			return false, fmt.Errorf("drop %s/%s: %w", one.kind, one.name, err)
		}
		if refused != "" {
			m.refuse(one.key, &clearwayv1.Source{Uid: one.uid}, "is deleted in Kubernetes, and stays in force: "+refused)
			return false, nil
		}
		delete(m.refused, one.key)
		m.cluster.log.Info("Kubernetes: dropped", "kind", one.kind, "name", one.name)
		return true, nil
	}
	refused, err := m.keeper.Copy(ctx, one.take)
	switch {
	case err != nil:
		return false, fmt.Errorf("take %s/%s: %w", one.kind, one.name, err)
	case refused != "":
		m.refuse(one.key, one.take.GetMetadata().GetSource(), refused)
		return false, nil
	}
	delete(m.refused, one.key)
	m.cluster.log.Info("Kubernetes: taken", "kind", one.kind, "name", one.name, "generation", one.take.GetMetadata().GetSource().GetGeneration())
	return true, nil
}

func (m *mirror) refuse(k key, of *clearwayv1.Source, text string) {
	if before, ok := m.refused[k]; !ok || before.text != text || before.of.GetUid() != of.GetUid() || before.of.GetGeneration() != of.GetGeneration() {
		m.cluster.log.Warn("Kubernetes: refused", "kind", k.kind, "name", k.name, "reason", text)
	}
	m.refused[k] = refusal{of: of, text: text, at: time.Now()}
}

func sourceOf(raw *unstructured.Unstructured) *clearwayv1.Source {
	return &clearwayv1.Source{Uid: string(raw.GetUID()), ResourceVersion: raw.GetResourceVersion(), Generation: raw.GetGeneration()}
}
