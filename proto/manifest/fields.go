package manifest

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// field is one key of a mapping and its value, aliases resolved.
type field struct{ key, value *yaml.Node }

type fields []field

func (f fields) find(name string) (*yaml.Node, bool) {
	for _, field := range f {
		if field.key.Value == name {
			return field.value, true
		}
	}
	return nil, false
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

// resolved follows aliases. An alias of an alias is not YAML, but the bound costs nothing.
func resolved(node *yaml.Node) *yaml.Node {
	for i := 0; node.Kind == yaml.AliasNode && i < maxDepth; i++ {
		node = node.Alias
	}
	return node
}

// visit counts a value against the file's bound: aliases can make a small file huge.
func (r *reader) visit(node *yaml.Node) bool {
	if r.back {
		return true
	}
	r.nodes++
	if r.nodes == maxNodes {
		r.fault(node, "", fmt.Sprintf("the file has more than %d values, each alias counted as often as it is used", maxNodes))
	}
	return r.nodes < maxNodes
}

// mapping returns a mapping's fields with merge keys ("<<") worked in: what stands in the mapping itself goes before
// what is merged, and of two that are merged the first.
func (r *reader) mapping(node *yaml.Node, path string) (fields, bool) {
	if node.Kind != yaml.MappingNode {
		r.fault(node, path, "wants fields (name: value), not "+describe(node))
		return nil, false
	}
	seen := map[string]*yaml.Node{}
	var own, merged fields
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := resolved(node.Content[i]), resolved(node.Content[i+1])
		if !r.visit(value) {
			return nil, false
		}
		if key.ShortTag() == "!!merge" {
			merged = append(merged, r.merge(value, path, 0)...)
			continue
		}
		if key.Kind != yaml.ScalarNode {
			r.fault(key, path, "a field's name is text, not "+describe(key))
			continue
		}
		if first := seen[key.Value]; first != nil {
			r.fault(key, join(path, key.Value), fmt.Sprintf("is given twice, first in line %d", first.Line))
			continue
		}
		seen[key.Value] = key
		own = append(own, field{key, value})
	}
	for _, field := range merged {
		if seen[field.key.Value] == nil {
			seen[field.key.Value] = field.key
			own = append(own, field)
		}
	}
	return own, true
}

// merge returns the fields of a merge key's value: a mapping, or a list of them.
func (r *reader) merge(node *yaml.Node, path string, depth int) fields {
	if !r.visit(node) {
		return nil
	}
	switch {
	case depth > maxDepth:
		r.fault(node, path, "is nested too deeply")
		r.nodes = maxNodes // enough of this file
		return nil
	case node.Kind == yaml.SequenceNode:
		var all fields
		for _, part := range node.Content {
			all = append(all, r.merge(resolved(part), path, depth+1)...)
		}
		return all
	case node.Kind != yaml.MappingNode:
		r.fault(node, path, "a merge (<<) wants fields, not "+describe(node))
		return nil
	}
	var own, deeper fields
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := resolved(node.Content[i]), resolved(node.Content[i+1])
		if key.ShortTag() == "!!merge" {
			deeper = append(deeper, r.merge(value, path, depth+1)...)
		} else if r.visit(value) && key.Kind == yaml.ScalarNode {
			own = append(own, field{key, value})
		}
	}
	return append(own, deeper...)
}

// describe names a value as a message does.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	}
	switch node.ShortTag() {
	case "!!str":
		return fmt.Sprintf("the text %q", shortened(node.Value))
	case "!!int", "!!float":
		return "the number " + shortened(node.Value)
	case "!!bool":
		return node.Value
	case "!!null":
		return "nothing"
	case "!!timestamp":
		return "the time " + node.Value
	}
	return fmt.Sprintf("%s %q", node.Tag, shortened(node.Value))
}

// shortened keeps a pasted certificate from filling the screen.
func shortened(text string) string {
	const longest = 60
	if len(text) <= longest {
		return text
	}
	return text[:longest] + "..."
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
