package manifest

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/proto/manifest/nearest"
)

const timestamp = "google.protobuf.Timestamp"

// dropped are the fields that only the server sets, by path: they are not looked at.
var dropped = map[string]bool{
	"status": true, "metadata.uid": true, "metadata.generation": true, "metadata.creationTimestamp": true,
	"metadata.source":        true,
	"metadata.managedFields": true, "metadata.selfLink": true, // of what kubectl prints
}

// message sets the message's fields from a mapping's.
func (r *reader) message(from fields, message protoreflect.Message, path string) {
	known := message.Descriptor().Fields()
	for _, given := range from {
		name := given.key.Value
		at := join(path, name)
		if dropped[at] && !r.back || isNull(given.value) {
			continue
		}
		descriptor := known.ByJSONName(name)
		if descriptor == nil {
			r.fault(given.key, at, "unknown field"+nearest.Hint(name, jsonNames(known)))
			continue
		}
		r.places[at] = place{given.value.Line, given.value.Column}
		r.field(given.value, message, descriptor, at)
	}
}

func jsonNames(known protoreflect.FieldDescriptors) []string {
	var names []string
	for i := range known.Len() {
		names = append(names, known.Get(i).JSONName())
	}
	return names
}

func (r *reader) field(
	node *yaml.Node, message protoreflect.Message, descriptor protoreflect.FieldDescriptor, path string,
) {
	switch {
	case descriptor.IsMap():
		r.entries(node, message.Mutable(descriptor).Map(), descriptor, path)
	case descriptor.IsList():
		r.elements(node, message.Mutable(descriptor).List(), descriptor, path)
	default:
		if value, ok := r.value(node, message.NewField(descriptor), descriptor, path); ok {
			message.Set(descriptor, value)
		}
	}
}

func (r *reader) entries(
	node *yaml.Node, into protoreflect.Map, descriptor protoreflect.FieldDescriptor, path string,
) {
	from, ok := r.mapping(node, path)
	if !ok {
		return
	}
	for _, given := range from {
		at := join(path, given.key.Value)
		if tag := given.key.ShortTag(); tag != "!!str" {
			r.fault(given.key, at, fmt.Sprintf("the key is text: write %q in quotes", given.key.Value))
			continue
		}
		r.places[at] = place{given.value.Line, given.value.Column}
		if value, ok := r.value(given.value, into.NewValue(), descriptor.MapValue(), at); ok {
			into.Set(protoreflect.ValueOfString(given.key.Value).MapKey(), value)
		}
	}
}

func (r *reader) elements(
	node *yaml.Node, into protoreflect.List, descriptor protoreflect.FieldDescriptor, path string,
) {
	if node.Kind != yaml.SequenceNode {
		r.fault(node, path, "wants a list (- a, - b, or [a, b]), not "+describe(node))
		return
	}
	for i, element := range node.Content {
		element = resolved(element)
		if !r.visit(element) {
			return
		}
		at := fmt.Sprintf("%s[%d]", path, i)
		r.places[at] = place{element.Line, element.Column}
		if value, ok := r.value(element, into.NewElement(), descriptor, at); ok {
			into.Append(value)
		}
	}
}

// value reads one value of the field's type. empty is a new value of that type, filled when it is a message.
func (r *reader) value(
	node *yaml.Node, empty protoreflect.Value, descriptor protoreflect.FieldDescriptor, path string,
) (protoreflect.Value, bool) {
	if descriptor.Kind() == protoreflect.MessageKind {
		return empty, r.nested(node, empty.Message(), path)
	}
	if node.Kind != yaml.ScalarNode {
		r.fault(node, path, "wants "+wanted(descriptor)+", not "+describe(node))
		return empty, false
	}
	value, ok := scalar(node, descriptor)
	if !ok {
		r.fault(node, path, misfit(node, descriptor))
	}
	return value, ok
}

func (r *reader) nested(node *yaml.Node, message protoreflect.Message, path string) bool {
	if message.Descriptor().FullName() == timestamp {
		return r.time(node, message, path)
	}
	from, ok := r.mapping(node, path)
	if ok {
		r.message(from, message, path)
	}
	return ok
}

func (r *reader) time(node *yaml.Node, message protoreflect.Message, path string) bool {
	at, err := time.Parse(time.RFC3339Nano, node.Value)
	if err != nil || node.Kind != yaml.ScalarNode {
		r.fault(node, path, "wants a time as in 2026-01-31T12:00:00Z, not "+describe(node))
		return false
	}
	fields := message.Descriptor().Fields()
	stamp := timestamppb.New(at)
	message.Set(fields.ByName("seconds"), protoreflect.ValueOfInt64(stamp.Seconds))
	message.Set(fields.ByName("nanos"), protoreflect.ValueOfInt32(stamp.Nanos))
	return true
}

// scalar reads a plain value; ok is false when it is not of the field's type or range.
func scalar(node *yaml.Node, descriptor protoreflect.FieldDescriptor) (value protoreflect.Value, ok bool) {
	tag := node.ShortTag()
	switch descriptor.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(node.Value), tag == "!!str"
	case protoreflect.BoolKind:
		truth, err := strconv.ParseBool(strings.ToLower(node.Value))
		return protoreflect.ValueOfBool(truth), err == nil && tag == "!!bool"
	case protoreflect.EnumKind:
		number, found := enumNumber(descriptor.Enum(), node.Value)
		return protoreflect.ValueOfEnum(number), found
	}
	wide := descriptor.Kind() == protoreflect.Int64Kind || descriptor.Kind() == protoreflect.Uint64Kind
	if tag != "!!int" && !(tag == "!!str" && wide) {
		return value, false
	}
	return integer(node.Value, descriptor.Kind())
}

func integer(text string, kind protoreflect.Kind) (protoreflect.Value, bool) {
	text = strings.TrimPrefix(strings.ReplaceAll(text, "_", ""), "+")
	switch kind {
	case protoreflect.Int32Kind:
		number, err := strconv.ParseInt(text, 0, 32)
		return protoreflect.ValueOfInt32(int32(number)), err == nil
	case protoreflect.Int64Kind:
		number, err := strconv.ParseInt(text, 0, 64)
		return protoreflect.ValueOfInt64(number), err == nil
	case protoreflect.Uint32Kind:
		number, err := strconv.ParseUint(text, 0, 32)
		return protoreflect.ValueOfUint32(uint32(number)), err == nil
	case protoreflect.Uint64Kind:
		number, err := strconv.ParseUint(text, 0, 64)
		return protoreflect.ValueOfUint64(number), err == nil
	}
	return protoreflect.Value{}, false
}

// misfit says what the field wants instead of the value.
func misfit(node *yaml.Node, descriptor protoreflect.FieldDescriptor) string {
	if descriptor.Kind() == protoreflect.StringKind && node.ShortTag() != "!!binary" {
		if isNull(node) {
			return "wants text, not nothing"
		}
		return fmt.Sprintf("wants text, and to YAML this is %s: write %q, in quotes", describe(node), node.Value)
	}
	message := "wants " + wanted(descriptor) + ", not " + describe(node)
	if descriptor.Kind() == protoreflect.EnumKind {
		message += nearest.Hint(node.Value, enumNames(descriptor.Enum()))
	}
	return message
}

// wanted names the field's type.
func wanted(descriptor protoreflect.FieldDescriptor) string {
	switch descriptor.Kind() {
	case protoreflect.StringKind:
		return "text"
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.EnumKind:
		return "one of " + strings.Join(enumNames(descriptor.Enum()), ", ")
	case protoreflect.Int32Kind:
		return fmt.Sprintf("a whole number from %d to %d", math.MinInt32, math.MaxInt32)
	case protoreflect.Uint32Kind:
		return fmt.Sprintf("a whole number from 0 to %d", uint32(math.MaxUint32))
	}
	return "a whole number"
}
