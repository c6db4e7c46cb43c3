package migrate

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"go.yaml.in/yaml/v3"

	"github.com/clearway/clearway/proto/manifest"
)

var update = flag.Bool("update", false, "write what the plans are into testdata")

// TestPlans reads clusters as text, and compares their plans with what a person has read. Each file has the objects, and the plan.
func TestPlans(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			system, _, _ := strings.Cut(filepath.Base(file), "-")
			got := planOf(t, System(strings.TrimSuffix(system, ".txtar")), archive.Files[0].Data)
			if *update {
				archive.Files = append(archive.Files[:1], txtar.File{Name: "plan", Data: []byte(got)})
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if len(archive.Files) < 2 || string(archive.Files[1].Data) != got {
				t.Errorf("the plan is now (-update writes it):\n%s", got)
			}
		})
	}
}

func planOf(t *testing.T, system System, text []byte) string {
	t.Helper()
	plan, err := Make(system, objectsOf(t, text), Options{Network: "clearway"})
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	var out bytes.Buffer
	if err := manifest.WriteList(&out, manifest.YAML, plan.Resources); err != nil {
		t.Fatal(err)
	}
	text = out.Bytes()
	out = bytes.Buffer{}
	status := false
	for line := range strings.Lines(string(text)) { // what is wanted has none
		if status = strings.HasPrefix(line, "  status:") || status && strings.HasPrefix(line, "    "); !status {
			out.WriteString(line)
		}
	}
	for _, node := range plan.Nodes {
		fmt.Fprintf(&out, "\nnode %s uid %s boot %s machine %s\n", node.GetNode(), node.GetNodeUid(), node.GetBootId(), node.GetMachineId())
		for _, block := range node.GetBlocks() {
			fmt.Fprintf(&out, "  block %s of %s\n", block.GetCidr(), block.GetPool())
		}
		for _, one := range node.GetAssignments() {
			fmt.Fprintf(&out, "  %s %s/%s %s (%s/%s)\n", one.GetAddress(), one.GetAttachment().GetNetwork(), one.GetAttachment().GetContainerId(),
				one.GetAttachment().GetIfname(), one.GetPod().GetNamespace(), one.GetPod().GetName())
		}
	}
	out.WriteString("\n")
	for _, found := range plan.Findings {
		fmt.Fprintf(&out, "%s %s: %s\n", found.Weight, found.Object, found.Text)
	}
	return out.String()
}

func objectsOf(t *testing.T, text []byte) (all []map[string]any) {
	t.Helper()
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var one map[string]any
		if decoder.Decode(&one) != nil {
			return all
		}
		all = append(all, one)
	}
}

func TestSelector(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "<nil>",
		"all()":                           "<nil>",
		"has(rack)":                       "rack Exists []",
		"!has(node-role.kubernetes.io/x)": "node-role.kubernetes.io/x DoesNotExist []",
		"rack == 'r1' && zone != \"z2\"":  "rack In [r1]; zone NotIn [z2]",
		"rack in {'r1', 'r2'}":            "rack In [r1 r2]",
		"rack not in { 'r1' }":            "rack NotIn [r1]",
		"rack == 'r1' || has(x)":          "error",
		"rack contains 'r'":               "error",
		"(has(x))":                        "error",
		"rack in {r1}":                    "error",
	} {
		made, err := selector(text)
		got := "<nil>"
		var terms []string
		for _, one := range made.GetMatchExpressions() {
			terms = append(terms, fmt.Sprint(one.GetKey(), " ", one.GetOperator(), " ", one.GetValues()))
		}
		if len(terms) > 0 {
			got = strings.Join(terms, "; ")
		}
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, not %s (%v)", text, got, want, err)
		}
	}
}

// FuzzMake: whatever the objects say, there is a plan, or an error, and no panic.
func FuzzMake(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		if archive, err := txtar.ParseFile(file); err == nil {
			f.Add(archive.Files[0].Data)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var all []map[string]any
		for decoder := yaml.NewDecoder(bytes.NewReader(text)); len(all) < 100; {
			var one map[string]any
			if decoder.Decode(&one) != nil {
				break
			}
			all = append(all, one)
		}
		for _, system := range Systems() {
			_, _ = Make(system, all, Options{Network: "clearway"})
		}
	})
}
