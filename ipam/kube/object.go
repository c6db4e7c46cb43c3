package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

// ours tells whether an annotation is part of the configuration: what kubectl keeps for itself is not.
func ours(annotation string) bool { return !strings.HasPrefix(annotation, "kubectl.kubernetes.io/") }

// fromKubernetes makes a resource of an object of the API server, without its status. An error tells what of it this
// ipamd does not know, as a sentence: the definitions are newer than it is, or older ones keep fields that it dropped.
func fromKubernetes(from *unstructured.Unstructured) (clearwayv1.Object, error) {
	made, err := clearwayv1.New(from.GetKind())
	if err != nil {
		return nil, err
	}
	spec := map[string]any{}
	if given, ok := from.Object["spec"]; ok {
		spec["spec"] = given
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("spec cannot be read: %w", err)
	}
	if err := protojson.Unmarshal(text, made); err != nil {
		return nil, fmt.Errorf("spec has what this ipamd does not know: %w", err)
	}
	setHead(made, from)
	return made, nil
}

// setHead fills in apiVersion, kind and metadata.
func setHead(made clearwayv1.Object, from *unstructured.Unstructured) {
	message := made.ProtoReflect()
	fields := message.Descriptor().Fields()
	metadata := &clearwayv1.ObjectMeta{
		Name: from.GetName(), Labels: from.GetLabels(),
		Source: &clearwayv1.Source{
			Uid: string(from.GetUID()), ResourceVersion: from.GetResourceVersion(), Generation: from.GetGeneration(),
		},
	}
	for key, value := range from.GetAnnotations() {
		if ours(key) {
			if metadata.Annotations == nil {
				metadata.Annotations = map[string]string{}
			}
			metadata.Annotations[key] = value
		}
	}
	created := from.GetCreationTimestamp()
	if !created.IsZero() {
		metadata.CreationTimestamp = timestamppb.New(created.Time)
	}
	message.Set(fields.ByName("api_version"), protoreflect.ValueOfString(clearwayv1.APIVersion))
	message.Set(fields.ByName("kind"), protoreflect.ValueOfString(from.GetKind()))
	message.Set(fields.ByName("metadata"), protoreflect.ValueOfMessage(metadata.ProtoReflect()))
}

// fieldsOf are a resource's parts as JSON has them: spec, and status with its zeroes.
func fieldsOf(object clearwayv1.Object) (map[string]any, error) {
	var text bytes.Buffer
	if err := manifest.Write(&text, manifest.JSON, object); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(&text)
	decoder.UseNumber()
	var all map[string]any
	if err := decoder.Decode(&all); err != nil {
		return nil, fmt.Errorf("%s: %w", clearwayv1.KeyOf(object), err)
	}
	return numbers(all).(map[string]any), nil
}

// numbers turns JSON's numbers into those that client-go takes: every number of ours is whole.
func numbers(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, one := range value {
			value[key] = numbers(one)
		}
	case []any:
		for i, one := range value {
			value[i] = numbers(one)
		}
	case json.Number:
		if whole, err := value.Int64(); err == nil {
			return whole
		}
		return value.String()
	}
	return value
}

// toKubernetes lays a resource's spec, labels and annotations over an object of the API server, or over a new one.
func toKubernetes(object clearwayv1.Object, over *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	fields, err := fieldsOf(object)
	if err != nil {
		return nil, err
	}
	if over == nil {
		over = &unstructured.Unstructured{Object: map[string]any{}}
		over.SetAPIVersion(clearwayv1.APIVersion)
		over.SetKind(string(object.ProtoReflect().Descriptor().Name()))
		over.SetName(object.GetMetadata().GetName())
	}
	made := over.DeepCopy()
	made.Object["spec"] = fields["spec"]
	made.SetLabels(object.GetMetadata().GetLabels())
	annotations := map[string]string{}
	for key, value := range over.GetAnnotations() {
		if !ours(key) {
			annotations[key] = value
		}
	}
	maps.Copy(annotations, object.GetMetadata().GetAnnotations())
	made.SetAnnotations(annotations)
	return made, nil
}
