package schema

import (
	"bytes"
	_ "embed"
	"fmt"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

//go:embed rules.yaml
var rulesText []byte

// rulebook is rules.yaml, with every "use" filled in.
type rulebook struct {
	Values   map[string]*value   `yaml:"values"`
	Messages map[string]*message `yaml:"messages"`
}

// message is what holds of a message of the .proto files.
type message struct {
	Kind   *kind             `yaml:"kind"` // of a resource
	Fields map[string]*value `yaml:"fields"`
	Rules  []rule            `yaml:"rules"`
}

// kind is how kubectl names and lists a resource.
type kind struct {
	ShortNames []string `yaml:"shortNames"`
	Columns    []column `yaml:"columns"`
}

type column struct {
	Name string `yaml:"name"`
	Path string `yaml:"path"`
	Type string `yaml:"type"` // default string
	Wide bool   `yaml:"wide"`
}

// value is what holds of a field, or of the entries of a list or map.
type value struct {
	Use           string    `yaml:"use"`
	Required      bool      `yaml:"required"`
	Default       *literal  `yaml:"default"`
	Enum          []string  `yaml:"enum"`
	Minimum       *int64    `yaml:"minimum"`
	Maximum       *int64    `yaml:"maximum"`
	MaxLength     int64     `yaml:"maxLength"`
	Pattern       string    `yaml:"pattern"`
	MinItems      int64     `yaml:"minItems"`
	MaxItems      int64     `yaml:"maxItems"`
	MaxProperties int64     `yaml:"maxProperties"`
	Set           bool      `yaml:"set"` // no entry twice
	Duration      *duration `yaml:"duration"`
	Items         *value    `yaml:"items"` // of a list's or map's entries
	Rules         []rule    `yaml:"rules"`
}

// duration bounds a length of time.
type duration struct {
	Least  string `yaml:"least"`
	Most   string `yaml:"most"`
	OrZero bool   `yaml:"orZero"` // or zero, which means never
	Whole  string `yaml:"whole"`  // seconds, microseconds, or nothing
}

// rule is one rule in CEL. Field is the place under the message that it is told of, as ".blockSize".
type rule struct {
	Rule    string `yaml:"rule"`
	Message string `yaml:"message"`
	Field   string `yaml:"field"`
}

var book = sync.OnceValues(func() (*rulebook, error) { return parse(rulesText) })

func parse(text []byte) (*rulebook, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	read := &rulebook{}
	if err := decoder.Decode(read); err != nil {
		return nil, fmt.Errorf("read the rules: %w", err)
	}
	for name, one := range read.Values {
		if err := read.fill(one); err != nil {
			return nil, fmt.Errorf("value %s: %w", name, err)
		}
	}
	for name, one := range read.Messages {
		for field, value := range one.Fields {
			if err := read.fill(value); err != nil {
				return nil, fmt.Errorf("%s.%s: %w", name, field, err)
			}
		}
	}
	return read, nil
}

// fill takes in what a value uses: what stands at the value itself goes before.
func (b *rulebook) fill(one *value) error {
	if one.Items != nil {
		if err := b.fill(one.Items); err != nil {
			return err
		}
	}
	if one.Use == "" {
		return nil
	}
	used, known := b.Values[one.Use]
	if !known || used.Use != "" {
		return fmt.Errorf("uses %q, which is none of the values that stand by themselves", one.Use)
	}
	own := *one
	*one = *used
	one.Rules = append(append([]rule{}, used.Rules...), own.Rules...)
	one.Required, one.Default = own.Required, own.Default
	return nil
}

// duration's rules, as a value has them.
func (d *duration) rules() []rule {
	within := fmt.Sprintf("duration(self) >= duration('%s') && duration(self) <= duration('%s')", d.Least, d.Most)
	bounds := fmt.Sprintf("must be %s to %s", d.Least, d.Most)
	if d.OrZero {
		within = "duration(self) == duration('0s') || " + within
		bounds = fmt.Sprintf("must be 0s or %s to %s", d.Least, d.Most)
	}
	rules := []rule{{Rule: within, Message: bounds}}
	// CEL has no remainder of durations, but of a whole number of seconds it makes a time.
	const isWhole = ".all(d, timestamp(d.getSeconds()) == timestamp(0) + d)"
	switch d.Whole {
	case "seconds":
		rules = append(rules, rule{Rule: "[duration(self)]" + isWhole, Message: "must be whole seconds"})
	case "microseconds": // a million of it are whole seconds
		tenfold := ".map(d, d" + strings.Repeat(" + d", 9) + ")"
		rules = append(rules, rule{Rule: "[duration(self)]" + strings.Repeat(tenfold, 6) + isWhole, Message: "must be whole microseconds"})
	}
	return rules
}

// durationPattern is Go's form of a duration (time.ParseDuration).
const durationPattern = `^[-+]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$|^[-+]?0$`

// durationLength is longer than any duration that means something.
const durationLength = 40

// literal is a value of YAML as it is written: a zero or an empty one is no missing one.
type literal struct{ yaml.Node }

// UnmarshalYAML keeps the value.
func (l *literal) UnmarshalYAML(node *yaml.Node) error {
	l.Node = *node
	return nil
}

// MarshalYAML writes it again.
func (l *literal) MarshalYAML() (any, error) { return &l.Node, nil }
