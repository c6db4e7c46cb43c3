package ctl

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

// style is how tables are shown.
func (a *app) style() view.Style {
	return view.Style{Wide: a.output == "wide", NoHeader: a.noHeaders, Now: time.Now()}
}

// structured tells whether the answer is for a program, and in which form.
func (a *app) structured() (manifest.Format, bool) {
	return manifest.Format(a.output), a.output == "json" || a.output == "yaml"
}

// print writes objects of one kind: for a program, one object by itself when one was named.
func (a *app) print(cmd *cobra.Command, kind string, objects []clearwayv1.Object, named bool) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	format, structured := a.structured()
	var err error
	switch {
	case structured && named && len(objects) == 1:
		err = manifest.Write(out, format, objects[0])
	case structured:
		err = manifest.WriteList(out, format, view.Sorted(objects))
	case len(objects) == 0:
		fmt.Fprintf(cmd.ErrOrStderr(), "there are no %ss\n", strings.ToLower(kind))
	default:
		err = view.Table(out, kind, objects, a.style())
	}
	return errors.Join(err, out.Flush())
}

// printValue writes a plain Go value for a program; its JSON names are the keys of either form.
func (a *app) printValue(cmd *cobra.Command, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	if a.output == "yaml" {
		if text, err = blockYAML(text); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), string(text))
	return err
}

// blockYAML writes JSON as YAML of the plain form, its keys in the same order.
func blockYAML(text []byte) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	plain(&document)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	encoder.CompactSeqIndent()
	err := encoder.Encode(&document)
	return bytes.TrimRight(out.Bytes(), "\n"), err
}

func plain(node *yaml.Node) {
	if len(node.Content) > 0 || node.Kind == yaml.ScalarNode {
		node.Style = 0
	}
	for _, inner := range node.Content {
		plain(inner)
	}
}

// warn prints what is missing from an answer, and makes that the command's failure: a script must not take a part for
// the whole.
func warn(cmd *cobra.Command, warnings []string) error {
	for _, warning := range warnings {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", warning)
	}
	if len(warnings) > 0 {
		return fmt.Errorf("the answer is not complete: %s", plural(len(warnings), "warning"))
	}
	return nil
}

func plural(count int, noun string) string {
	if count == 1 {
		return "1 " + noun
	}
	if strings.HasSuffix(noun, "ss") {
		noun += "e"
	}
	return fmt.Sprintf("%d %ss", count, noun)
}
