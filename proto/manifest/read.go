package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest/nearest"
)

// Bounds of what one file may hold. They are far above any real file.
const (
	maxBytes     = 8 << 20
	maxResources = 1000
	maxNodes     = 500_000 // YAML values visited, each alias as often as it is used
	maxDepth     = 40      // of merge keys; the schema bounds all else
)

// Item is one resource of a file.
type Item struct {
	Object clearwayv1.Object
	File   string
	Line   int // where it begins

	places map[string]place // of its fields, by path
}

type place struct{ line, column int }

// Fault makes a fault of this item's field, at the field's place in the file, or, when the file does not have the
// field, at the nearest one around it.
func (i Item) Fault(field, message string) *Fault {
	at, found := i.places[field]
	for around := field; !found && around != ""; at, found = i.places[around] {
		around = around[:max(strings.LastIndexAny(around, ".["), 0)]
	}
	if !found {
		at = place{line: i.Line}
	}
	return &Fault{
		File: i.File, Line: at.line, Column: at.column,
		Resource: clearwayv1.KeyOf(i.Object), Field: field, Message: message,
	}
}

// Read reads the resources of a file that are to be applied; name is the file's name in faults. The error, if any, is
// Faults, or that of the reader. On an error there are no items: a file is taken as a whole.
func Read(name string, from io.Reader) ([]Item, error) {
	return read(&reader{file: name}, from)
}

// ReadBack reads what Write and WriteList wrote: of every kind, and with all that Read drops.
func ReadBack(name string, from io.Reader) ([]Item, error) {
	return read(&reader{file: name, back: true}, from)
}

func read(r *reader, from io.Reader) ([]Item, error) {
	if !r.back {
		from = io.LimitReader(from, maxBytes+1)
	}
	content, err := io.ReadAll(from)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", r.file, err)
	}
	if len(content) > maxBytes && !r.back {
		r.fault(nil, "", fmt.Sprintf("the file is larger than %d MiB", maxBytes>>20))
		return nil, r.faults.result()
	}
	r.stream(content)
	if err := r.faults.result(); err != nil {
		return nil, err
	}
	return r.items, nil
}

// Unique refuses two items of one kind and name: which of them would hold?
func Unique(items []Item) error {
	var faults Faults
	first := map[string]Item{}
	for _, item := range items {
		key := clearwayv1.KeyOf(item.Object)
		if other, twice := first[key]; twice {
			faults = append(faults, item.Fault("", fmt.Sprintf("is given twice, first at %s:%d", other.File, other.Line)))
			continue
		}
		first[key] = item
	}
	if len(faults) == 0 {
		return nil
	}
	return faults
}

// reader is the state of reading one file.
type reader struct {
	file   string
	back   bool // our own output: no bounds, nothing dropped, every kind
	items  []Item
	faults Faults
	nodes  int // visited

	resource string           // the resource being read
	places   map[string]place // of its fields
}

func (r *reader) fault(at *yaml.Node, field, message string) {
	if len(r.faults) == maxKept {
		return
	}
	fault := &Fault{File: r.file, Resource: r.resource, Field: field, Message: message}
	if at != nil {
		fault.Line, fault.Column = at.Line, at.Column
	}
	r.faults = append(r.faults, fault)
}

func (r *reader) stream(content []byte) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			r.faults = append(r.faults, syntaxFault(r.file, content, err))
			return
		}
		for _, root := range document.Content {
			r.document(root)
		}
		if len(r.items) > maxResources && !r.back {
			r.fault(nil, "", fmt.Sprintf("the file has more than %d resources: split it", maxResources))
			return
		}
	}
}

// document reads one document: a resource, a list of resources, or nothing.
func (r *reader) document(root *yaml.Node) {
	root = resolved(root)
	if isNull(root) {
		return
	}
	r.resource = ""
	fields, ok := r.mapping(root, "")
	if !ok {
		return
	}
	items, isList := fields.find("items")
	if !isList {
		r.object(root, fields)
		return
	}
	for _, field := range fields {
		switch field.key.Value {
		case "items", "apiVersion", "kind", "metadata":
		default:
			r.fault(field.key, field.key.Value, "unknown field of a list; a list has items")
		}
	}
	r.list(items)
}

func (r *reader) list(items *yaml.Node) {
	if items.Kind != yaml.SequenceNode {
		r.fault(items, "items", "wants a list of resources")
		return
	}
	for _, item := range items.Content {
		item = resolved(item)
		r.resource = ""
		if fields, ok := r.mapping(item, ""); ok {
			r.object(item, fields)
		}
	}
}

// object reads one resource.
func (r *reader) object(root *yaml.Node, fields fields) {
	r.resource, r.places = "", map[string]place{}
	object := r.kind(root, fields)
	if object == nil {
		return
	}
	r.resource = resourceName(object.GetKind(), fields)
	r.message(fields, object.ProtoReflect(), "")
	version, given := fields.find("apiVersion")
	switch {
	case !given:
		r.fault(root, "apiVersion", fmt.Sprintf("is missing; %s is wanted", clearwayv1.APIVersion))
	case object.GetApiVersion() != clearwayv1.APIVersion:
		r.fault(version, "apiVersion", fmt.Sprintf("is %q; %s is wanted", version.Value, clearwayv1.APIVersion))
	}
	if object.GetMetadata().GetName() == "" {
		r.fault(root, "metadata.name", "is missing")
	}
	r.items = append(r.items, Item{Object: object, File: r.file, Line: root.Line, places: r.places})
}

// resourceName is the resource as faults name it, from what is known before it is read.
func resourceName(kind string, fields fields) string {
	metadata, _ := fields.find("metadata")
	if metadata == nil || metadata.Kind != yaml.MappingNode {
		return kind
	}
	for i := 0; i+1 < len(metadata.Content); i += 2 {
		if metadata.Content[i].Value == "name" && metadata.Content[i+1].Value != "" {
			return kind + "/" + metadata.Content[i+1].Value
		}
	}
	return kind
}

// kind makes the empty object that the document's kind names, or nil: nothing else can be judged without it.
func (r *reader) kind(root *yaml.Node, fields fields) clearwayv1.Object {
	all := strings.Join(writable(), ", ")
	value, given := fields.find("kind")
	if !given || value.Value == "" {
		r.fault(root, "kind", "is missing; the kinds to apply are "+all)
		return nil
	}
	object, err := clearwayv1.New(value.Value)
	if err != nil || object.GetKind() != value.Value {
		hint := nearest.Hint(value.Value, clearwayv1.Kinds())
		r.fault(value, "kind", fmt.Sprintf("%q is unknown%s", value.Value, orElse(hint, "; the kinds to apply are "+all)))
		return nil
	}
	if !clearwayv1.Writable(value.Value) && !r.back {
		r.fault(value, "kind", fmt.Sprintf("%s is read only: Clearway writes it; the kinds to apply are %s", value.Value, all))
		return nil
	}
	return object
}

func writable() []string {
	var kinds []string
	for _, kind := range clearwayv1.Kinds() {
		if clearwayv1.Writable(kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}
