package schema

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// group and version of the resources in Kubernetes: together they are their apiVersion.
const (
	group   = "clearway.io"
	version = "v1"
)

// definition is a CustomResourceDefinition (apiextensions.k8s.io/v1), as far as ours have parts.
type definition struct {
	APIVersion string         `yaml:"apiVersion"`
	Kind       string         `yaml:"kind"`
	Metadata   metadata       `yaml:"metadata"`
	Spec       definitionSpec `yaml:"spec"`
}

type metadata struct {
	Name   string            `yaml:"name"`
	Labels map[string]string `yaml:"labels"`
}

type definitionSpec struct {
	Group    string        `yaml:"group"`
	Scope    string        `yaml:"scope"`
	Names    names         `yaml:"names"`
	Versions []versionSpec `yaml:"versions"`
}

type names struct {
	Kind       string   `yaml:"kind"`
	ListKind   string   `yaml:"listKind"`
	Plural     string   `yaml:"plural"`
	Singular   string   `yaml:"singular"`
	ShortNames []string `yaml:"shortNames,omitempty"`
	Categories []string `yaml:"categories"`
}

type versionSpec struct {
	Name         string          `yaml:"name"`
	Served       bool            `yaml:"served"`
	Storage      bool            `yaml:"storage"`
	Subresources map[string]any  `yaml:"subresources"`
	Columns      []printerColumn `yaml:"additionalPrinterColumns"`
	Schema       struct {
		OpenAPI *node `yaml:"openAPIV3Schema"`
	} `yaml:"schema"`
}

type printerColumn struct {
	Name     string `yaml:"name"`
	Type     string `yaml:"type"`
	JSONPath string `yaml:"jsonPath"`
	Priority int    `yaml:"priority,omitempty"`
}

// node is a JSONSchemaProps.
type node struct {
	Description   string           `yaml:"description,omitempty"`
	Type          string           `yaml:"type"`
	Format        string           `yaml:"format,omitempty"`
	Default       *literal         `yaml:"default,omitempty"`
	Enum          []string         `yaml:"enum,omitempty"`
	Minimum       *int64           `yaml:"minimum,omitempty"`
	Maximum       *int64           `yaml:"maximum,omitempty"`
	MaxLength     int64            `yaml:"maxLength,omitempty"`
	Pattern       string           `yaml:"pattern,omitempty"`
	MinItems      int64            `yaml:"minItems,omitempty"`
	MaxItems      int64            `yaml:"maxItems,omitempty"`
	MaxProperties int64            `yaml:"maxProperties,omitempty"`
	Required      []string         `yaml:"required,omitempty"`
	Properties    map[string]*node `yaml:"properties,omitempty"`
	Additional    *node            `yaml:"additionalProperties,omitempty"`
	Items         *node            `yaml:"items,omitempty"`
	ListType      string           `yaml:"x-kubernetes-list-type,omitempty"`
	ListMapKeys   []string         `yaml:"x-kubernetes-list-map-keys,omitempty"`
	Validations   []validation     `yaml:"x-kubernetes-validations,omitempty"`
}

type validation struct {
	Rule      string `yaml:"rule"`
	Message   string `yaml:"message,omitempty"`
	FieldPath string `yaml:"fieldPath,omitempty"`
}

// CRD is the CustomResourceDefinition of a resource's message, in YAML. The descriptor should come with comments, which
// become descriptions. Its name is the file's, without ending.
func CRD(resource protoreflect.MessageDescriptor) (name string, text []byte, err error) {
	rules, err := book()
	if err != nil {
		return "", nil, err
	}
	own := rules.Messages[string(resource.Name())]
	if own == nil || own.Kind == nil {
		return "", nil, fmt.Errorf("%s is no kind that the rules know", resource.Name())
	}
	kind := string(resource.Name())
	singular := strings.ToLower(kind)
	made := definition{
		APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition",
		Metadata: metadata{
			Name:   singular + "s." + group,
			Labels: map[string]string{"app.kubernetes.io/name": "clearway", "app.kubernetes.io/part-of": "clearway"},
		},
		Spec: definitionSpec{
			Group: group, Scope: "Cluster",
			Names: names{
				Kind: kind, ListKind: kind + "List", Plural: singular + "s", Singular: singular,
				ShortNames: own.Kind.ShortNames, Categories: []string{"clearway"},
			},
		},
	}
	one := versionSpec{
		Name: version, Served: true, Storage: true,
		Subresources: map[string]any{"status": map[string]any{}}, Columns: own.Kind.printed(),
	}
	if one.Schema.OpenAPI, err = rules.resource(resource); err != nil {
		return "", nil, fmt.Errorf("%s: %w", kind, err)
	}
	made.Spec.Versions = []versionSpec{one}
	var out bytes.Buffer
	out.WriteString("# Written by 'make generate' from proto/clearway/v1 and proto/schema/rules.yaml.\n")
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	encoder.CompactSeqIndent()
	if err := encoder.Encode(made); err != nil {
		return "", nil, fmt.Errorf("%s: %w", kind, err)
	}
	return made.Metadata.Name, out.Bytes(), nil
}

// Kinds are the kinds that have a CustomResourceDefinition, in no order.
func Kinds() ([]string, error) {
	rules, err := book()
	if err != nil {
		return nil, err
	}
	var kinds []string
	for name, one := range rules.Messages {
		if one.Kind != nil {
			kinds = append(kinds, name)
		}
	}
	return kinds, nil
}

func (k *kind) printed() []printerColumn {
	var columns []printerColumn
	for _, one := range k.Columns {
		column := printerColumn{Name: one.Name, Type: one.Type, JSONPath: one.Path}
		if column.Type == "" {
			column.Type = "string"
		}
		if one.Wide {
			column.Priority = 1
		}
		columns = append(columns, column)
	}
	return append(columns, printerColumn{Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp"})
}

// resource is the schema of a whole resource: metadata is the API server's own, and it looks at the name alone.
func (b *rulebook) resource(of protoreflect.MessageDescriptor) (*node, error) {
	whole, err := b.message(of)
	if err != nil {
		return nil, err
	}
	whole.Properties["metadata"] = &node{Type: "object"}
	b.loosen(whole.Properties["status"])
	return whole, nil
}

// loosen takes all that is asked of a status: it is what was seen, and only ipamd writes it.
func (b *rulebook) loosen(of *node) {
	if of == nil {
		return
	}
	of.Enum, of.Minimum, of.Maximum, of.MaxLength, of.MaxItems, of.MaxProperties = nil, nil, nil, 0, 0, 0
	of.Pattern, of.MinItems, of.Required, of.Validations, of.Default = "", 0, nil, nil, nil
	for name, property := range of.Properties {
		b.loosen(property)
		if name == "conditions" {
			property.ListType, property.ListMapKeys = "map", []string{"type"}
			property.Items.Required = []string{"type", "status"}
		}
	}
	b.loosen(of.Items)
	b.loosen(of.Additional)
}

func (b *rulebook) message(of protoreflect.MessageDescriptor) (*node, error) {
	made := &node{Type: "object", Description: comment(of), Properties: map[string]*node{}}
	own := b.Messages[string(of.Name())]
	if own == nil {
		own = &message{}
	}
	for name := range own.Fields {
		if of.Fields().ByJSONName(name) == nil {
			return nil, fmt.Errorf("the rules name %s.%s, and there is no such field", of.Name(), name)
		}
	}
	for i := range of.Fields().Len() {
		field := of.Fields().Get(i)
		property, err := b.field(field, own.Fields[field.JSONName()])
		if err != nil {
			return nil, err
		}
		made.Properties[field.JSONName()] = property
		if rules := own.Fields[field.JSONName()]; rules != nil && rules.Required {
			made.Required = append(made.Required, field.JSONName())
		}
	}
	made.Validations = validations(own.Rules)
	return made, nil
}

func validations(rules []rule) []validation {
	var made []validation
	for _, one := range rules {
		made = append(made, validation{Rule: one.Rule, Message: one.Message, FieldPath: one.Field})
	}
	return made
}

func (b *rulebook) field(of protoreflect.FieldDescriptor, rules *value) (*node, error) {
	if rules == nil {
		rules = &value{}
	}
	entries := rules
	if of.IsMap() || of.IsList() {
		entries = rules.Items
	}
	entry := of
	if of.IsMap() {
		entry = of.MapValue()
	}
	made, err := b.single(entry, entries)
	switch {
	case err != nil:
		return nil, err
	case of.IsMap():
		made = &node{Type: "object", Additional: made}
	case of.IsList():
		made = &node{Type: "array", Items: made}
		if rules.Set {
			made.ListType = "set"
		}
	}
	if of.IsMap() || of.IsList() {
		apply(made, rules)
	}
	made.Description = comment(of)
	return made, nil
}

// single is the schema of one value of a field's type.
func (b *rulebook) single(of protoreflect.FieldDescriptor, rules *value) (*node, error) {
	if of.Kind() == protoreflect.MessageKind && of.Message().FullName() != "google.protobuf.Timestamp" {
		made, err := b.message(of.Message())
		if err == nil && rules != nil {
			apply(made, rules)
		}
		return made, err
	}
	made := &node{}
	switch of.Kind() {
	case protoreflect.MessageKind:
		made.Type, made.Format = "string", "date-time"
	case protoreflect.StringKind, protoreflect.EnumKind:
		made.Type = "string"
	case protoreflect.BoolKind:
		made.Type = "boolean"
	case protoreflect.Int32Kind:
		made.Type, made.Format = "integer", "int32"
	case protoreflect.Int64Kind:
		made.Type, made.Format = "integer", "int64"
	case protoreflect.Uint32Kind: // OpenAPI has no unsigned numbers
		made.Type, made.Format, made.Minimum, made.Maximum = "integer", "int64", new(int64), new(int64)
		*made.Maximum = 1<<32 - 1
	default:
		return nil, fmt.Errorf("%s is of type %s, for which the schema has none", of.FullName(), of.Kind())
	}
	if rules != nil {
		apply(made, rules)
	}
	return made, nil
}

// apply puts rules over what the type says.
func apply(to *node, rules *value) {
	to.Default, to.Enum, to.Pattern = rules.Default, rules.Enum, rules.Pattern
	to.MaxLength, to.MinItems, to.MaxItems, to.MaxProperties = rules.MaxLength, rules.MinItems, rules.MaxItems, rules.MaxProperties
	if rules.Minimum != nil {
		to.Minimum = rules.Minimum
	}
	if rules.Maximum != nil {
		to.Maximum = rules.Maximum
	}
	if rules.Duration != nil {
		to.Pattern, to.MaxLength = durationPattern, durationLength
		to.Validations = append(to.Validations, validations(rules.Duration.rules())...)
	}
	to.Validations = append(to.Validations, validations(rules.Rules)...)
}

// comment is what stands above a declaration, as one line.
func comment(of protoreflect.Descriptor) string {
	text := of.ParentFile().SourceLocations().ByDescriptor(of).LeadingComments
	return strings.Join(strings.FieldsFunc(text, unicode.IsSpace), " ")
}
