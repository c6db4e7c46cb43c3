// Generate writes the templates of the Helm chart from deploy/kubernetes, which stays the one source: each template is a
// file of it with a few places replaced. A place that is no longer there, or twice, is an error.
//
// It is run by "make generate", in the repository's root.
package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

const (
	source = "deploy/kubernetes"
	chart  = "deploy/helm/clearway/templates"
)

// place is a text of a source that a template has otherwise.
type place struct{ from, to string }

// template is a file of the chart.
type template struct {
	from   string // below source
	to     string // below chart; empty: from's last part
	when   string // the condition of the whole; empty: always
	keep   bool   // when the chart is removed
	places []place
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "generate the chart:", err)
		os.Exit(1)
	}
}

func run() error {
	all, err := templates()
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, one := range all {
		name, text, err := one.render()
		if err != nil {
			return fmt.Errorf("%s: %w", one.from, err)
		}
		kept[name] = true
		if err := os.WriteFile(filepath.Join(chart, name), []byte(text), 0o644); err != nil { //nolint:gosec // for everybody to read
			return err
		}
	}
	return dropOthers(kept)
}

// byHand are the templates that have no source: what the kustomization generates.
const byHand = "configmaps.yaml"

// dropOthers removes templates of former sources.
func dropOthers(kept map[string]bool) error {
	files, err := filepath.Glob(filepath.Join(chart, "*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if name := filepath.Base(file); !kept[name] && name != byHand {
			if err := os.Remove(file); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t template) render() (name, text string, err error) {
	read, err := os.ReadFile(filepath.Join(source, t.from))
	if err != nil {
		return "", "", err
	}
	text = string(read)
	if strings.Contains(text, "{{") {
		return "", "", fmt.Errorf("has {{, which a template would take for its own")
	}
	for _, p := range t.places {
		if n := strings.Count(text, p.from); n != 1 {
			return "", "", fmt.Errorf("has %d times, and should have once: %q", n, p.from)
		}
		text = strings.Replace(text, p.from, p.to, 1)
	}
	text = labelled(text)
	if t.keep {
		text = strings.Replace(text, "\nspec:\n", "\n  annotations: {helm.sh/resource-policy: keep}\nspec:\n", 1)
	}
	if t.when != "" {
		text = "{{- if " + t.when + " }}\n" + text + "{{- end }}\n"
	}
	const head = "{{- /* Written by 'make generate' from " + source + "/%s. */}}\n"
	return cmp.Or(t.to, filepath.Base(t.from)), fmt.Sprintf(head, t.from) + text, nil
}

// A document's own name, and the labels behind it where there are any: on the same line, as people write them, or on lines
// of their own, as the definitions are written.
var (
	named = regexp.MustCompile(`(?m)^metadata:\n  name: (\S+)\n(?:  labels: \{([^}]*)\}\n|  labels:\n((?:    \S.*\n)+))?`)
	pair  = regexp.MustCompile(`,\s*`)
)

// labelled gives each document the chart's labels beside its own.
func labelled(text string) string {
	return named.ReplaceAllStringFunc(text, func(found string) string {
		parts := named.FindStringSubmatch(found)
		lines := []string{"metadata:", "  name: " + parts[1], "  labels:", `    {{- include "clearway.labels" . | nindent 4 }}`}
		own := strings.Split(parts[3], "\n")
		if parts[2] != "" {
			own = pair.Split(parts[2], -1)
		}
		for _, one := range own {
			if one = strings.TrimSpace(one); one != "" && !strings.HasPrefix(one, "app.kubernetes.io/part-of:") {
				lines = append(lines, "    "+one)
			}
		}
		return strings.Join(lines, "\n") + "\n"
	})
}
