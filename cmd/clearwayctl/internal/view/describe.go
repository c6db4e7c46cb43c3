package view

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

// Describe writes all there is to say of a resource, a field a line, with its events at the end.
func Describe(to io.Writer, object clearwayv1.Object, happened []*clearwayv1.Event, now time.Time) error {
	d := &description{to: to, now: now}
	meta := object.GetMetadata()
	d.line(0, "Name", meta.GetName())
	d.line(0, "Kind", object.GetKind())
	d.optional("Labels", Labels(meta.GetLabels()))
	d.optional("Annotations", Labels(meta.GetAnnotations()))
	d.optional("UID", meta.GetUid())
	d.optional("Version", meta.GetResourceVersion())
	d.optional("Created", d.time(meta.GetCreationTimestamp()))
	message := object.ProtoReflect()
	for _, part := range []protoreflect.Name{"spec", "status"} {
		field := message.Descriptor().Fields().ByName(part)
		if field != nil && message.Has(field) {
			d.line(0, title(string(part)), "")
			d.message(message.Get(field).Message(), 1)
		}
	}
	if d.err == nil && len(happened) > 0 {
		d.line(0, "Events", "")
		d.err = indented(to, func(to io.Writer) error {
			return Table(to, "Event", asObjects(happened), Style{Now: now})
		})
	}
	return d.err
}

// Message writes the fields of any message of the API, a field a line.
func Message(to io.Writer, message proto.Message, now time.Time) error {
	d := &description{to: to, now: now}
	d.message(message.ProtoReflect(), 0)
	return d.err
}

func asObjects[T clearwayv1.Object](typed []T) []clearwayv1.Object {
	var objects []clearwayv1.Object
	for _, object := range typed {
		objects = append(objects, object)
	}
	return objects
}

// description writes lines and keeps the first error.
type description struct {
	to  io.Writer
	now time.Time
	err error
}

// nameWidth is the column that values begin in, at the least.
const nameWidth = 24

func (d *description) line(depth int, name, value string) {
	if d.err != nil {
		return
	}
	head := strings.Repeat("  ", depth) + name + ":"
	if value != "" {
		head = fmt.Sprintf("%-*s %s", nameWidth, head, printable(value))
	}
	_, d.err = fmt.Fprintln(d.to, head)
}

func (d *description) optional(name, value string) {
	if value != "" {
		d.line(0, name, value)
	}
}

// time writes a time and how long ago it was.
func (d *description) time(at *timestamppb.Timestamp) string {
	if at == nil {
		return ""
	}
	if ahead := at.AsTime().Sub(d.now); ahead > 0 {
		return fmt.Sprintf("%s (in %s)", clock(at), Span(ahead))
	}
	return fmt.Sprintf("%s (%s ago)", clock(at), orText(Age(d.now, at), "long"))
}

// message writes the fields that have a value, in the schema's order.
func (d *description) message(message protoreflect.Message, depth int) {
	known := message.Descriptor().Fields()
	for i := range known.Len() {
		field := known.Get(i)
		if message.Has(field) {
			d.field(title(field.JSONName()), message.Get(field), field, depth)
		}
	}
}

func (d *description) field(name string, value protoreflect.Value, field protoreflect.FieldDescriptor, depth int) {
	switch {
	case field.IsMap():
		labels := map[string]string{}
		value.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
			labels[key.String()] = value.String()
			return true
		})
		for i, key := range slices.Sorted(maps.Keys(labels)) {
			if i == 0 {
				d.line(depth, name, "")
			}
			d.line(depth+1, key, labels[key])
		}
	case field.IsList():
		d.list(name, value.List(), field, depth)
	case field.Kind() == protoreflect.MessageKind:
		d.nested(name, value.Message(), depth)
	default:
		d.line(depth, name, scalar(value, field))
	}
}

func (d *description) nested(name string, message protoreflect.Message, depth int) {
	switch typed := message.Interface().(type) {
	case *timestamppb.Timestamp:
		d.line(depth, name, d.time(typed))
	case *clearwayv1.Condition:
		d.condition(typed, depth+1)
	case *clearwayv1.LabelSelector:
		d.line(depth, name, Selector(typed))
	case clearwayv1.Object:
		d.line(depth, name, typed.GetMetadata().GetName())
		if spec := message.Descriptor().Fields().ByName("spec"); message.Has(spec) {
			d.message(message.Get(spec).Message(), depth+1)
		}
	default:
		d.line(depth, name, "")
		d.message(message, depth+1)
	}
}

// list writes plain values in one line, messages one after the other.
func (d *description) list(name string, values protoreflect.List, field protoreflect.FieldDescriptor, depth int) {
	if field.Kind() != protoreflect.MessageKind {
		var texts []string
		for i := range values.Len() {
			texts = append(texts, scalar(values.Get(i), field))
		}
		d.line(depth, name, strings.Join(texts, ", "))
		return
	}
	if field.Message() == (&clearwayv1.Condition{}).ProtoReflect().Descriptor() {
		d.line(depth, name, "")
		name = ""
	}
	for i := range values.Len() {
		d.nested(fmt.Sprintf("%s %d", name, i+1), values.Get(i).Message(), depth)
	}
}

// condition writes "True, Claimed: one block of each family", with when that began.
func (d *description) condition(condition *clearwayv1.Condition, depth int) {
	text := condition.GetStatus()
	for _, part := range []struct{ before, text string }{
		{", ", condition.GetReason()}, {": ", condition.GetMessage()}, {", since ", d.time(condition.GetLastTransitionTime())},
	} {
		if part.text != "" {
			text += part.before + part.text
		}
	}
	d.line(depth, condition.GetType(), text)
}

func scalar(value protoreflect.Value, field protoreflect.FieldDescriptor) string {
	if field.Kind() == protoreflect.EnumKind {
		return manifest.EnumText(field.Enum(), value.Enum())
	}
	return value.String()
}

// firstWords are those that are not written as they are in a field's name.
var firstWords = map[string]string{
	"as": "AS", "cidr": "CIDR", "cidrs": "CIDRs", "uid": "UID", "med": "MED", "ifname": "Interface", "ip": "IP", "bgp": "BGP", "bfd": "BFD",
}

// title writes a field's name as words: "minBlockSize" is "Min block size", "peerASN" is "Peer ASN".
func title(name string) string {
	words := split(name)
	for i, word := range words {
		switch {
		case i == 0 && firstWords[word] != "":
			words[i] = firstWords[word]
		case i == 0:
			words[i] = strings.ToUpper(word[:1]) + word[1:]
		case word != strings.ToUpper(word):
			words[i] = strings.ToLower(word)
		}
	}
	return strings.Join(words, " ")
}

// split cuts a name before each capital that follows a small letter, or leads one: "localASNumber" is local AS Number.
func split(name string) []string {
	capital := func(i int) bool { return unicode.IsUpper(rune(name[i])) }
	var words []string
	begin := 0
	for i := 1; i < len(name); i++ {
		if capital(i) && (!capital(i-1) || i+1 < len(name) && !capital(i+1)) {
			words, begin = append(words, name[begin:i]), i
		}
	}
	return append(words, name[begin:])
}

// indented writes what the function writes, each line two spaces in.
func indented(to io.Writer, write func(io.Writer) error) error {
	var text strings.Builder
	if err := write(&text); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		if _, err := io.WriteString(to, "  "+line); err != nil {
			return err
		}
	}
	return nil
}
