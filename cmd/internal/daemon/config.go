package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/clearway/clearway/proto/manifest/nearest"
)

// maxConfigBytes bounds a configuration file: real ones have a kilobyte.
const maxConfigBytes = 1 << 20

// configFile is what a configuration file said: the text of each flag, and where it stands.
type configFile struct {
	name   string
	values map[string]any
	lines  map[string]int
}

func (c configFile) where(key string) string {
	return fmt.Sprintf("%s:%d", c.name, c.lines[key])
}

// readConfig reads the file, if one is named. Its keys must be names of flags.
func readConfig(name string, flags *pflag.FlagSet) (configFile, error) {
	file := configFile{name: name, values: map[string]any{}, lines: map[string]int{}}
	if name == "" {
		return file, nil
	}
	document, err := readYAML(name)
	if err != nil || document == nil {
		return file, err
	}
	if document.Kind != yaml.MappingNode {
		return file, fmt.Errorf("%s:%d: a mapping of flag names to values is wanted", name, document.Line)
	}
	var faults []error
	for i := 0; i+1 < len(document.Content); i += 2 {
		if err := file.add(document.Content[i], document.Content[i+1], flags); err != nil {
			faults = append(faults, err)
		}
	}
	return file, errors.Join(faults...)
}

// readYAML returns the root of the file's one document, or nil when the file is empty.
func readYAML(name string) (*yaml.Node, error) {
	reader, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	defer reader.Close()
	content, err := io.ReadAll(io.LimitReader(reader, maxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	if len(content) > maxConfigBytes {
		return nil, fmt.Errorf("--config: %s is larger than %d bytes", name, maxConfigBytes)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document, second yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) || len(document.Content) == 0 && err == nil {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: one YAML document is wanted, and there are more", name)
	}
	if root := document.Content[0]; root.ShortTag() != "!!null" {
		return root, nil
	}
	return nil, nil
}

func (c configFile) add(key, value *yaml.Node, flags *pflag.FlagSet) error {
	name := key.Value
	c.lines[name] = key.Line
	if flags.Lookup(name) == nil {
		return fmt.Errorf("%s: key %q is unknown%s", c.where(name), name, nearest.Hint(name, flagNames(flags)))
	}
	if _, twice := c.values[name]; twice {
		return fmt.Errorf("%s: key %q is given twice", c.where(name), name)
	}
	text, err := flagText(value)
	if err != nil {
		return fmt.Errorf("%s: key %q: %w", c.where(name), name, err)
	}
	c.values[name] = text
	return nil
}

// flagText writes a YAML value as it would stand on the command line: a list as "a,b", a map as "k=v,...".
func flagText(value *yaml.Node) (string, error) {
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	switch value.Kind {
	case yaml.ScalarNode:
		return scalarText(value)
	case yaml.SequenceNode:
		return joinText(value.Content, 1)
	case yaml.MappingNode:
		return joinText(value.Content, 2)
	}
	return "", errors.New("a value, a list or a map is wanted")
}

func scalarText(value *yaml.Node) (string, error) {
	if value.Kind != yaml.ScalarNode || value.ShortTag() == "!!null" {
		return "", fmt.Errorf("line %d: a plain value is wanted", value.Line)
	}
	return value.Value, nil
}

// joinText joins plain values: each by itself, or each pair as "key=value" in order of keys.
func joinText(nodes []*yaml.Node, group int) (string, error) {
	var parts []string
	for i := 0; i+group <= len(nodes); i += group {
		var fields []string
		for _, node := range nodes[i : i+group] {
			text, err := scalarText(node)
			if err != nil {
				return "", err
			}
			if strings.Contains(text, ",") {
				return "", fmt.Errorf("line %d: %q has a comma", node.Line, text)
			}
			fields = append(fields, text)
		}
		parts = append(parts, strings.Join(fields, "="))
	}
	if group == 2 {
		sort.Strings(parts)
	}
	return strings.Join(parts, ","), nil
}

func flagNames(flags *pflag.FlagSet) []string {
	var names []string
	flags.VisitAll(func(flag *pflag.Flag) { names = append(names, flag.Name) })
	return names
}
