package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// tellEvery is how often one object's status is written at most where only its numbers have changed, and tellAtOnce how
// many are written in one round: the rest has the next one.
const (
	tellEvery  = 5 * time.Second
	tellAtOnce = 100
	tellTime   = 5 * time.Second
)

// told is what the API server was told last of an object.
type told struct {
	uid        string
	generation int64
	status     map[string]any
	at         time.Time
	v          verdict
}

// tell writes the status of every object that has another one, and an event where its verdict has changed.
func (m *mirror) tell(ctx context.Context, all map[key]seen, held map[key]clearwayv1.Object) error {
	var failed error
	written := 0
	now := time.Now()
	for k := range m.told {
		if all[k].raw == nil {
			delete(m.told, k)
		}
	}
	for k, one := range all {
		if written == tellAtOnce || ctx.Err() != nil {
			m.wake()
			break
		}
		wrote, err := m.tellOne(ctx, k, one, held[k], now)
		if wrote {
			written++
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func (m *mirror) tellOne(ctx context.Context, k key, one seen, held clearwayv1.Object, now time.Time) (wrote bool, err error) {
	object := one.object
	refused, isRefused := m.refused[k]
	v := verdict{"False", reasonRefused, one.fault + kept(held)}
	if object != nil {
		v = verdictOf(held, object, refused, isRefused)
	}
	present, _ := one.raw.Object["status"].(map[string]any)
	status, err := statusFor(held, v, one.raw.GetGeneration(), present, now)
	if err != nil {
		return false, err
	}
	before, known := m.told[k]
	known = known && before.uid == string(one.raw.GetUID()) && before.generation == one.raw.GetGeneration()
	if known && before.v == v && now.Sub(before.at) < tellEvery {
		return false, nil
	}
	changed := withStatus(one.raw, status)
	if changed == nil || known && reflect.DeepEqual(before.status, status) && now.Sub(before.at) < 2*tellEvery {
		return false, nil // it is there, or on its way to us
	}
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	_, err = m.cluster.dynamic.Resource(resourceOf(k.kind)).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return true, nil // it has changed: the watch will tell, and another round comes
	case err != nil:
		return true, fmt.Errorf("status of %s/%s: %w", k.kind, k.name, err)
	}
	m.told[k] = told{uid: string(one.raw.GetUID()), generation: one.raw.GetGeneration(), status: status, at: now, v: v}
	if v.reason == reasonRefused && conditionText(present, conditionAccepted) != v.text {
		m.cluster.event(ctx, one.raw, corev1.EventTypeWarning, v.reason, v.text)
	}
	return true, nil
}

// conditionText is the message of a condition that is there.
func conditionText(status map[string]any, kind string) string {
	conditions, _ := status["conditions"].([]any)
	for _, one := range conditions {
		if condition, ok := one.(map[string]any); ok && condition["type"] == kind {
			text, _ := condition["message"].(string)
			return text
		}
	}
	return ""
}

// maxEventText is what Kubernetes takes of an event's message.
const maxEventText = 1024

// event tells of an object in Kubernetes' events. It is told, and not waited for: one that cannot be written is logged.
func (c *Cluster) event(ctx context.Context, of *unstructured.Unstructured, kind, reason, text string) {
	c.eventOf(ctx, corev1.ObjectReference{
		APIVersion: of.GetAPIVersion(), Kind: of.GetKind(), Name: of.GetName(), UID: of.GetUID(), ResourceVersion: of.GetResourceVersion(),
	}, kind, reason, text)
}

// eventOf is event; what is in no namespace has its events in the default one.
func (c *Cluster) eventOf(ctx context.Context, of corev1.ObjectReference, kind, reason, text string) {
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: of.Name + ".", Namespace: cmp.Or(of.Namespace, metav1.NamespaceDefault)},
		InvolvedObject: of,
		Type:           kind, Reason: reason, Message: text[:min(len(text), maxEventText)],
		Source: corev1.EventSource{Component: "clearway-ipamd"}, ReportingController: "clearway.io/ipamd",
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	err := c.core.Post().Namespace(event.Namespace).Resource("events").Body(event).Do(ctx).Error()
	if err != nil {
		c.log.Warn("Kubernetes: an event was not written", "regarding", of.Kind+"/"+of.Name, "reason", err)
	}
}
