package server

import (
	"bytes"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/schema"
)

// resourceService is the operators' door.
type resourceService struct {
	clearwayv1.UnimplementedResourceServiceServer
	s *Server
}

// faultsOf tells every fault of one resource by itself.
func (s *Server) faultsOf(resource *clearwayv1.Resource) []*clearwayv1.FieldViolation {
	object := resource.Object()
	if object == nil {
		return []*clearwayv1.FieldViolation{{Field: "kind", Message: "there is no resource in this place"}}
	}
	kind := kindOf(object)
	var faults []*clearwayv1.FieldViolation
	add := func(field, value, message string) {
		faults = append(faults, &clearwayv1.FieldViolation{Field: field, Value: value, Message: message})
	}
	if !clearwayv1.Writable(kind) {
		add("kind", kind, "is read only: it cannot be applied")
		return faults
	}
	if version := object.GetApiVersion(); version != "" && version != clearwayv1.APIVersion {
		add("apiVersion", version, "must be "+clearwayv1.APIVersion)
	}
	if said := object.GetKind(); said != "" && said != kind {
		add("kind", said, "must be "+kind+", as the resource is one")
	}
	faults = append(faults, metadataFaults(object.GetMetadata())...)
	faults = append(faults, pool.Validate(object)...)
	faults = append(faults, s.options.Validate(object)...)
	return append(faults, sizeFaults(object)...)
}

// sizeFaults holds a resource's spec to the schema's bounds, which Kubernetes has too.
func sizeFaults(object clearwayv1.Object) []*clearwayv1.FieldViolation {
	message := object.ProtoReflect()
	spec := message.Descriptor().Fields().ByName("spec")
	if !message.Has(spec) {
		return nil
	}
	var faults []*clearwayv1.FieldViolation
	for _, fault := range schema.Faults("spec", message.Get(spec).Message()) {
		faults = append(faults, &clearwayv1.FieldViolation{Field: fault.Field, Value: fault.Value, Message: fault.Message})
	}
	return faults
}

// maxAnnotations is Kubernetes' limit of all annotations together.
const maxAnnotations = 256 << 10

func metadataFaults(metadata *clearwayv1.ObjectMeta) []*clearwayv1.FieldViolation {
	var faults []*clearwayv1.FieldViolation
	add := func(field, value string, reasons []string) {
		if len(reasons) > 0 {
			faults = append(faults, &clearwayv1.FieldViolation{Field: field, Value: value, Message: strings.Join(reasons, "; ")})
		}
	}
	if metadata.GetName() == "" {
		add("metadata.name", "", []string{"is required"})
	} else {
		add("metadata.name", metadata.GetName(), validation.IsDNS1123Subdomain(metadata.GetName()))
	}
	for key, value := range metadata.GetLabels() {
		add("metadata.labels", key, validation.IsQualifiedName(key))
		add("metadata.labels["+key+"]", value, validation.IsValidLabelValue(value))
	}
	size := 0
	for key, value := range metadata.GetAnnotations() {
		add("metadata.annotations", key, validation.IsQualifiedName(strings.ToLower(key)))
		size += len(key) + len(value)
	}
	if size > maxAnnotations {
		add("metadata.annotations", fmt.Sprintf("%d bytes", size), []string{fmt.Sprintf("must be at most %d bytes together", maxAnnotations)})
	}
	return faults
}

func kindOf(object clearwayv1.Object) string {
	return string(object.ProtoReflect().Descriptor().Name())
}

// specOf is a resource's spec in binary, to compare.
func specOf(object clearwayv1.Object) []byte {
	if object == nil {
		return nil
	}
	message := object.ProtoReflect()
	field := message.Descriptor().Fields().ByName("spec")
	if !message.Has(field) {
		return nil
	}
	return mustMarshal(message.Get(field).Message().Interface())
}

func sameSpec(a, b clearwayv1.Object) bool { return bytes.Equal(specOf(a), specOf(b)) }

func sameText(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for key, value := range a {
		if other, ok := b[key]; !ok || other != value {
			return false
		}
	}
	return true
}

// forStore is a copy without what is not kept: status, and the revision, which is the record's.
func forStore(object clearwayv1.Object) clearwayv1.Object {
	kept := proto.Clone(object).(clearwayv1.Object)
	clearField(kept, "status")
	kept.GetMetadata().ResourceVersion = ""
	return kept
}

func clearField(object clearwayv1.Object, name protoreflect.Name) {
	message := object.ProtoReflect()
	if field := message.Descriptor().Fields().ByName(name); field != nil {
		message.Clear(field)
	}
}

func setText(object clearwayv1.Object, name protoreflect.Name, text string) {
	message := object.ProtoReflect()
	message.Set(message.Descriptor().Fields().ByName(name), protoreflect.ValueOfString(text))
}
