package kube

import (
	"context"
	"fmt"
	"sync"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// mirrorAnnotation of a static Pod's mirror is the UID that the runtime knows the Pod by.
const mirrorAnnotation = "kubernetes.io/config.hash"

// askPods is how many Pods one question asks the API server for: thousands of nodes share its patience.
const askPods = 50

// pods are the UIDs of the Pods that there are; of 150,000 they take about 20 MB. A reflector fills it.
type pods struct {
	mu     sync.Mutex // guards all following fields
	uids   map[string]struct{}
	listed bool
}

func newPods() *pods { return &pods{uids: map[string]struct{}{}} }

// uidsOf are the UIDs by which a runtime may know a Pod.
func uidsOf(object metav1.Object) []string {
	uids := []string{string(object.GetUID())}
	if hash := object.GetAnnotations()[mirrorAnnotation]; hash != "" {
		uids = append(uids, hash)
	}
	return uids
}

func (p *pods) put(object any, there bool) error {
	accessor, err := meta.Accessor(object)
	if err != nil {
		return fmt.Errorf("Pod without metadata: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, uid := range uidsOf(accessor) {
		if delete(p.uids, uid); there {
			p.uids[uid] = struct{}{}
		}
	}
	return nil
}

// Add implements cache.ReflectorStore.
func (p *pods) Add(object any) error { return p.put(object, true) }

// Update implements cache.ReflectorStore.
func (p *pods) Update(object any) error { return p.put(object, true) }

// Delete implements cache.ReflectorStore.
func (p *pods) Delete(object any) error { return p.put(object, false) }

// Replace implements cache.ReflectorStore: the list is the whole.
func (p *pods) Replace(objects []any, _ string) error {
	uids := make(map[string]struct{}, len(objects))
	for _, object := range objects {
		accessor, err := meta.Accessor(object)
		if err != nil {
			return fmt.Errorf("Pod without metadata: %w", err)
		}
		for _, uid := range uidsOf(accessor) {
			uids[uid] = struct{}{}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uids, p.listed = uids, true
	return nil
}

// Resync implements cache.ReflectorStore: nothing is done by time.
func (p *pods) Resync() error { return nil }

// without are those of some Pods that are not there, as far as the watch has come; ok: all have been listed.
func (p *pods) without(asked []*clearwayv1.Pod) (absent []*clearwayv1.Pod, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range asked {
		if _, there := p.uids[one.GetUid()]; !there {
			absent = append(absent, one)
		}
	}
	return absent, p.listed
}

// watchPods keeps the UIDs of all Pods: of their metadata, as nothing else is looked at.
func (c *Cluster) watchPods(ctx context.Context, into *pods, logger *logr.Logger) {
	reflector := cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return c.pods.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return c.pods.Watch(ctx, options)
		},
	}, &metav1.PartialObjectMetadata{}, into, cache.ReflectorOptions{Name: "pods", Logger: logger})
	reflector.WatchListPageSize = pageSize
	reflector.RunWithContext(ctx)
}

// missing tells which of some Pods there are no more. Those that the watch has need no question; of the others the API
// server itself is asked, as a watch may be behind: a Pod that has just come is not in it.
func (c *Cluster) missing(ctx context.Context, known *pods, asked []*clearwayv1.Pod) (uids []string, ok bool, err error) {
	absent, ok := known.without(asked)
	if !ok {
		return nil, false, nil
	}
	for _, one := range absent[:min(len(absent), askPods)] {
		gone, err := c.gone(ctx, one)
		switch {
		case err != nil && len(uids) > 0:
			return uids, true, nil // those are for certain; of the others the next call tells
		case err != nil:
			return nil, true, err
		}
		if gone {
			uids = append(uids, one.GetUid())
		}
	}
	return uids, true, nil
}

// gone asks for a Pod by its name: another UID is another Pod.
func (c *Cluster) gone(ctx context.Context, one *clearwayv1.Pod) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	found, err := c.pods.Namespace(one.GetNamespace()).Get(ctx, one.GetName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("Pod %s/%s: %w", one.GetNamespace(), one.GetName(), err)
	}
	for _, uid := range uidsOf(found) {
		if uid == one.GetUid() {
			return false, nil
		}
	}
	return true, nil
}
