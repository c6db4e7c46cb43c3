package manifest

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// messageNode makes the tree of a message: its fields in the schema's order. path tells where the message stands.
func messageNode(message protoreflect.Message, path string) *yaml.Node {
	node := &yaml.Node{Kind: yaml.MappingNode}
	known := message.Descriptor().Fields()
	for i := range known.Len() {
		descriptor := known.Get(i)
		if !message.Has(descriptor) && !shownEmpty(descriptor, path) {
			continue
		}
		name := descriptor.JSONName()
		node.Content = append(node.Content, textNode(name), fieldNode(message.Get(descriptor), descriptor, join(path, name)))
	}
	if len(node.Content) == 0 {
		node.Style = yaml.FlowStyle // {}
	}
	return node
}

// shownEmpty tells which fields are written though they have no value: spec and status, and what a status counts.
func shownEmpty(descriptor protoreflect.FieldDescriptor, path string) bool {
	if descriptor.Kind() == protoreflect.MessageKind {
		return path == "" && (descriptor.Name() == "spec" || descriptor.Name() == "status")
	}
	inStatus := path == "status" || strings.HasSuffix(path, ".status")
	if !inStatus || descriptor.IsList() || descriptor.HasPresence() {
		return false
	}
	return descriptor.Kind() != protoreflect.StringKind && descriptor.Kind() != protoreflect.EnumKind
}

func fieldNode(value protoreflect.Value, descriptor protoreflect.FieldDescriptor, path string) *yaml.Node {
	switch {
	case descriptor.IsMap():
		return mapNode(value.Map(), descriptor.MapValue(), path)
	case descriptor.IsList():
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range value.List().Len() {
			list.Content = append(list.Content, valueNode(value.List().Get(i), descriptor, path))
		}
		return list
	}
	return valueNode(value, descriptor, path)
}

func mapNode(entries protoreflect.Map, descriptor protoreflect.FieldDescriptor, path string) *yaml.Node {
	values := map[string]protoreflect.Value{}
	entries.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		values[key.String()] = value
		return true
	})
	node := &yaml.Node{Kind: yaml.MappingNode}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		node.Content = append(node.Content, textNode(key), valueNode(values[key], descriptor, path))
	}
	return node
}

func valueNode(value protoreflect.Value, descriptor protoreflect.FieldDescriptor, path string) *yaml.Node {
	switch descriptor.Kind() {
	case protoreflect.MessageKind:
		if value.Message().Descriptor().FullName() == timestamp {
			return textNode(timeText(value.Message()))
		}
		return messageNode(value.Message(), path)
	case protoreflect.EnumKind:
		return textNode(EnumText(descriptor.Enum(), value.Enum()))
	case protoreflect.BoolKind:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(value.Bool())}
	case protoreflect.StringKind:
		return textNode(value.String())
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: value.String()}
}

func timeText(message protoreflect.Message) string {
	fields := message.Descriptor().Fields()
	seconds, nanos := message.Get(fields.ByName("seconds")).Int(), message.Get(fields.ByName("nanos")).Int()
	return time.Unix(seconds, nanos).UTC().Format(time.RFC3339Nano)
}

// otherwise matches plain text that YAML 1.1, which kubectl and many tools read, takes for a truth or a number in base
// sixty: "yes", and communities like "64512:20".
var otherwise = regexp.MustCompile(`^(?i:y|n|yes|no|on|off)$|^[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?$`)

func textNode(text string) *yaml.Node {
	node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	if otherwise.MatchString(text) || strings.ContainsAny(text, "\n\r\t") {
		node.Style = yaml.DoubleQuotedStyle
	}
	return node
}
