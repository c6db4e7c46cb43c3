package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/proto/clearway/v1"
)

// Format is a text form.
type Format string

// The formats.
const (
	JSON Format = "json"
	YAML Format = "yaml"
)

// Write writes one resource, or any other message of the API, with a line's end behind it.
func Write(to io.Writer, format Format, message proto.Message) error {
	text, err := encode(format, message)
	if err != nil {
		return err
	}
	_, err = to.Write(text)
	return err
}

// WriteList writes {"items": [...]}. Items are encoded one after the other: a list of 100,000 routes takes no more
// memory than its largest item.
func WriteList(to io.Writer, format Format, objects []clearwayv1.Object) error {
	separator, indent := ",", "    "
	switch {
	case len(objects) == 0 && format == JSON:
		_, err := io.WriteString(to, "{\n  \"items\": []\n}\n")
		return err
	case len(objects) == 0:
		_, err := io.WriteString(to, "items: []\n")
		return err
	case format == JSON:
		io.WriteString(to, "{\n  \"items\": [")
	default:
		io.WriteString(to, "items:")
		separator, indent = "", "  "
	}
	for i, object := range objects {
		text, err := encode(format, object)
		if err != nil {
			return err
		}
		if i > 0 {
			io.WriteString(to, separator)
		}
		if _, err := io.WriteString(to, "\n"+listed(format, string(bytes.TrimRight(text, "\n")), indent)); err != nil {
			return err
		}
	}
	end := "\n"
	if format == JSON {
		end = "\n  ]\n}\n"
	}
	_, err := io.WriteString(to, end)
	return err
}

// listed indents an item of a list; in YAML its first line begins with the dash.
func listed(format Format, text, indent string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = indent + line
		}
	}
	if format == YAML {
		lines[0] = "-" + lines[0][1:]
	}
	return strings.Join(lines, "\n")
}

func encode(format Format, message proto.Message) ([]byte, error) {
	root := messageNode(message.ProtoReflect(), "")
	var text bytes.Buffer
	switch format {
	case JSON:
		writeJSON(&text, root, "\n")
		text.WriteByte('\n')
		return text.Bytes(), nil
	case YAML:
		encoder := yaml.NewEncoder(&text)
		encoder.SetIndent(2)
		encoder.CompactSeqIndent()
		if err := encoder.Encode(root); err != nil {
			return nil, fmt.Errorf("encode %s: %w", message.ProtoReflect().Descriptor().Name(), err)
		}
		return text.Bytes(), nil
	}
	return nil, fmt.Errorf("format %q is unknown; it is %s or %s", format, JSON, YAML)
}

// writeJSON writes a tree of the kinds that messageNode makes. newline is a line's end with the indentation there.
func writeJSON(to *bytes.Buffer, node *yaml.Node, newline string) {
	open, closing, step := "[", "]", 1
	switch {
	case node.Kind == yaml.ScalarNode && node.Tag == "!!str":
		to.Write(jsonText(node.Value))
		return
	case node.Kind == yaml.ScalarNode:
		to.WriteString(node.Value)
		return
	case node.Kind == yaml.MappingNode:
		open, closing, step = "{", "}", 2
	}
	to.WriteString(open)
	for i := 0; i < len(node.Content); i += step {
		if i > 0 {
			to.WriteByte(',')
		}
		to.WriteString(newline + "  ")
		if step == 2 {
			to.Write(jsonText(node.Content[i].Value))
			to.WriteString(": ")
		}
		writeJSON(to, node.Content[i+step-1], newline+"  ")
	}
	if len(node.Content) > 0 {
		to.WriteString(newline)
	}
	to.WriteString(closing)
}

// jsonText quotes text without escaping <, > and &, which mean nothing here. Control characters that JSON lets through
// are escaped: YAML does not take them, and terminals act on them.
func jsonText(text string) []byte {
	var quoted bytes.Buffer
	encoder := json.NewEncoder(&quoted)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // a string cannot fail
	plain := bytes.TrimRight(quoted.Bytes(), "\n")
	if !bytes.ContainsFunc(plain, unprintable) {
		return plain
	}
	var escaped bytes.Buffer
	for _, char := range string(plain) {
		if unprintable(char) {
			fmt.Fprintf(&escaped, `\u%04x`, char)
		} else {
			escaped.WriteRune(char)
		}
	}
	return escaped.Bytes()
}

// unprintable are the characters above space that YAML 1.2 (section 5.1) only takes escaped.
func unprintable(char rune) bool {
	return char >= 0x7f && char < 0xa0 || char == 0xfeff || char == 0xfffe || char == 0xffff
}
