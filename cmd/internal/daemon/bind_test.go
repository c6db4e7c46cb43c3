package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"pgregory.net/rapid"
)

type settings struct {
	listen    string
	metric    int
	endpoints []string
	labels    string
	force     bool
}

// program is a command with one flag of each type, and a subcommand with one of its own.
func program(got *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "clearway-test", RunE: func(*cobra.Command, []string) error { return nil }}
	cmd.PersistentFlags().StringVar(&got.listen, "listen", "default:1", "")
	cmd.PersistentFlags().IntVar(&got.metric, "route-metric", 20, "")
	cmd.PersistentFlags().StringSliceVar(&got.endpoints, "etcd-endpoints", nil, "")
	cmd.Flags().StringVar(&got.labels, "labels", "", "")
	sub := &cobra.Command{Use: "sub", RunE: func(*cobra.Command, []string) error { return nil }}
	sub.Flags().BoolVar(&got.force, "force", false, "")
	cmd.AddCommand(sub)
	Bind(cmd)
	return cmd
}

func run(t testing.TB, cmd *cobra.Command, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetErr(&out)
	cmd.SetOut(&out)
	return Run(t.Context(), cmd), out.String()
}

func write(t testing.TB, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "clearway.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// The first that is given of flag, variable, file and default wins, whatever the others say.
func TestBindPrecedence(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		want, args := "default:1", []string(nil)
		if rapid.Bool().Draw(r, "file") {
			want = "file:1"
			args = append(args, "--config", write(t, "listen: file:1\n"))
		}
		t.Setenv("CLEARWAY_LISTEN", "")
		if rapid.Bool().Draw(r, "env") {
			want = "env:1"
			t.Setenv("CLEARWAY_LISTEN", want)
		}
		if rapid.Bool().Draw(r, "flag") {
			want = "flag:1"
			args = append(args, "--listen", want)
		}
		if rapid.Bool().Draw(r, "sub") {
			args = append([]string{"sub"}, args...)
		}
		var got settings
		if code, out := run(t, program(&got), args...); code != 0 || got.listen != want {
			r.Fatalf("%v: exit %d %s, listen %q, want %q", args, code, out, got.listen, want)
		}
	})
}

func TestBindTypes(t *testing.T) {
	file := write(t, "route-metric: 30\netcd-endpoints: [http://a:1, http://b:2]\nlabels: {Zone: b, rack: r1}\n")
	t.Setenv("CLEARWAY_CONFIG", file)
	var got settings
	if code, out := run(t, program(&got)); code != 0 {
		t.Fatal(out)
	}
	if got.metric != 30 || strings.Join(got.endpoints, " ") != "http://a:1 http://b:2" || got.labels != "Zone=b,rack=r1" {
		t.Errorf("got %+v", got)
	}
	t.Setenv("CLEARWAY_ETCD_ENDPOINTS", "http://c:3,http://d:4")
	if code, out := run(t, program(&got)); code != 0 || strings.Join(got.endpoints, " ") != "http://c:3 http://d:4" {
		t.Errorf("got %+v %s", got, out)
	}
}

// A subcommand's own flags are said in the call, or not at all.
func TestBindLeavesSubcommandFlags(t *testing.T) {
	t.Setenv("CLEARWAY_FORCE", "true")
	var got settings
	if code, out := run(t, program(&got), "sub"); code != 0 || got.force {
		t.Errorf("exit %d %s, force %v", code, out, got.force)
	}
}

func TestBindSatisfiesRequired(t *testing.T) {
	for _, env := range []string{"", "x:1"} {
		t.Setenv("CLEARWAY_LISTEN", env)
		var got settings
		cmd := program(&got)
		if err := cmd.MarkPersistentFlagRequired("listen"); err != nil {
			t.Fatal(err)
		}
		if code, out := run(t, cmd); (code == 0) != (env != "") {
			t.Errorf("CLEARWAY_LISTEN=%q: exit %d %s", env, code, out)
		}
	}
}

func TestNamedErrorsOfConfig(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"listen: a:1\nlsten: b:1\n", `clearway.yaml:2: key "lsten" is unknown; did you mean "listen"?`},
		{"listen: a:1\nlisten: b:1\n", `clearway.yaml:2: key "listen" is given twice`},
		{"route-metric: many\n", `clearway.yaml:1: invalid value "many" for "route-metric"`},
		{"listen:\n", `clearway.yaml:1: key "listen": line 1: a plain value is wanted`},
		{"etcd-endpoints: [[a]]\n", `key "etcd-endpoints": line 1: a plain value is wanted`},
		{"- listen\n", `clearway.yaml:1: a mapping of flag names to values is wanted`},
		{"listen: [\n", `clearway.yaml: yaml: line`},
		{"listen: a\n---\nlisten: b\n", `one YAML document is wanted`},
		{"force: true\n", `key "force" is unknown`},
		{"config: x\n", `key "config" is unknown`},
	} {
		var got settings
		code, out := run(t, program(&got), "--config", write(t, c.text))
		if code != ExitUsage || !strings.Contains(out, c.want) {
			t.Errorf("%q: exit %d, %q; want %q", c.text, code, out, c.want)
		}
	}
	for _, text := range []string{"", "# nothing\n", "---\n"} {
		var got settings
		if code, out := run(t, program(&got), "--config", write(t, text)); code != 0 {
			t.Errorf("%q: exit %d %s", text, code, out)
		}
	}
	t.Setenv("CLEARWAY_ROUTE_METRIC", "few")
	var got settings
	if code, out := run(t, program(&got)); code != ExitUsage ||
		!strings.Contains(out, `CLEARWAY_ROUTE_METRIC: invalid value "few" for "route-metric"`) {
		t.Errorf("exit %d %s", code, out)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("listen: a\nlabels: {a: b}\netcd-endpoints: [x]\n")
	f.Add("a: &a [*a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		var got settings
		run(t, program(&got), "--config", write(t, text))
	})
}
