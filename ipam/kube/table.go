package kube

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"
)

// table is what the API server has of one resource, as values of ours: no more is kept of an object than what read makes
// of it. A reflector fills it: it lists, by pages or by a stream, watches from there on with bookmarks, and lists anew when
// the watch has expired.
type table[V any] struct {
	read    func(object any) (V, error)
	same    func(a, b V) bool // nil: no two are
	changed func()

	mu     sync.Mutex // guards all following fields
	rows   map[string]V
	listed bool
	news   uint64 // counts changes
}

func newTable[V any](read func(any) (V, error), changed func()) *table[V] {
	return &table[V]{read: read, changed: changed, rows: map[string]V{}}
}

// all is a copy of the rows, by "namespace/name" or "name"; ok: they are all there are.
func (t *table[V]) all() (rows map[string]V, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rows = make(map[string]V, len(t.rows))
	for name, row := range t.rows {
		rows[name] = row
	}
	return rows, t.listed
}

// heard is how often the rows have changed.
func (t *table[V]) heard() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.news
}

func nameOf(object any) (string, error) {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		return gone.Key, nil
	}
	accessor, err := meta.Accessor(object)
	if err != nil {
		return "", fmt.Errorf("object without metadata: %w", err)
	}
	if accessor.GetNamespace() == "" {
		return accessor.GetName(), nil
	}
	return accessor.GetNamespace() + "/" + accessor.GetName(), nil
}

// Add implements cache.ReflectorStore.
func (t *table[V]) Add(object any) error {
	name, err := nameOf(object)
	if err != nil {
		return err
	}
	row, err := t.read(object)
	if err != nil {
		return err
	}
	t.mu.Lock()
	before, there := t.rows[name]
	t.rows[name] = row
	isNew := !there || t.same == nil || !t.same(before, row)
	if isNew {
		t.news++
	}
	t.mu.Unlock()
	if isNew {
		t.changed()
	}
	return nil
}

// Update implements cache.ReflectorStore.
func (t *table[V]) Update(object any) error { return t.Add(object) }

// Delete implements cache.ReflectorStore.
func (t *table[V]) Delete(object any) error {
	name, err := nameOf(object)
	if err != nil {
		return err
	}
	t.mu.Lock()
	delete(t.rows, name)
	t.news++
	t.mu.Unlock()
	t.changed()
	return nil
}

// Replace implements cache.ReflectorStore: the list is the whole.
func (t *table[V]) Replace(objects []any, _ string) error {
	rows := make(map[string]V, len(objects))
	for _, object := range objects {
		name, err := nameOf(object)
		if err != nil {
			return err
		}
		if rows[name], err = t.read(object); err != nil {
			return err
		}
	}
	t.mu.Lock()
	t.rows, t.listed = rows, true
	t.news++
	t.mu.Unlock()
	t.changed()
	return nil
}

// Resync implements cache.ReflectorStore: the rows are looked at whenever something changes, and by time.
func (t *table[V]) Resync() error { return nil }
