package kube

import (
	"maps"
	"reflect"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Conditions and their reasons, as ipamd tells them of a resource.
const (
	conditionAccepted = "Accepted"

	reasonAccepted = "Accepted"
	reasonRefused  = "Refused"
	reasonPending  = "Pending"
)

// restless are fields of a status that change without anything having happened: they are ipamd's alone to tell.
var restless = []string{"lastSeenTime", "journalNumber"}

// verdict is what became of an object: text is why it was refused.
type verdict struct {
	status, reason, text string
}

func verdictOf(held clearwayv1.Object, object clearwayv1.Object, refused refusal, isRefused bool) verdict {
	switch {
	case isRefused && sameSource(refused.of, object.GetMetadata().GetSource()):
		return verdict{"False", reasonRefused, refused.text + kept(held)}
	case same(held, object):
		return verdict{"True", reasonAccepted, "is in force"}
	}
	return verdict{"Unknown", reasonPending, "has not been looked at yet"}
}

// kept says what is in force in place of what was refused.
func kept(held clearwayv1.Object) string {
	if held == nil {
		return ""
	}
	return "; the one that was accepted before is in force"
}

// statusFor is the status that an object is to have: what ipamd tells of the copy, and what became of the object. seen is
// the present one: a condition that stays as it was keeps its time. held may be nil.
func statusFor(held clearwayv1.Object, v verdict, generation int64, seen map[string]any, now time.Time) (map[string]any, error) {
	status := map[string]any{}
	if held != nil {
		fields, err := fieldsOf(held)
		if err != nil {
			return nil, err
		}
		if told, ok := fields["status"].(map[string]any); ok {
			status = told
		}
	}
	for _, name := range restless {
		delete(status, name)
	}
	conditions, _ := status["conditions"].([]any)
	conditions = append(slices.Clone(conditions), map[string]any{
		"type": conditionAccepted, "status": v.status, "reason": v.reason, "message": v.text, "observedGeneration": generation,
	})
	before, _ := seen["conditions"].([]any)
	for i, one := range conditions {
		conditions[i] = timed(one.(map[string]any), before, now)
	}
	status["conditions"] = conditions
	return status, nil
}

// timed gives a condition the time at which its status became what it is.
func timed(condition map[string]any, before []any, now time.Time) map[string]any {
	made := maps.Clone(condition)
	for _, one := range before {
		old, ok := one.(map[string]any)
		if ok && old["type"] == made["type"] && old["status"] == made["status"] && old["lastTransitionTime"] != nil {
			made["lastTransitionTime"] = old["lastTransitionTime"]
			return made
		}
	}
	if made["lastTransitionTime"] == nil {
		made["lastTransitionTime"] = now.UTC().Format(time.RFC3339)
	}
	return made
}

// withStatus is an object with a status, or nil when it has that one.
func withStatus(object *unstructured.Unstructured, status map[string]any) *unstructured.Unstructured {
	if reflect.DeepEqual(object.Object["status"], any(status)) {
		return nil
	}
	made := object.DeepCopy()
	made.Object["status"] = status
	return made
}
