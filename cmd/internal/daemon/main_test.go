package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestExitCodes(t *testing.T) {
	build := func() *cobra.Command {
		root := &cobra.Command{Use: "tool"}
		answer := func(use string, err error) *cobra.Command {
			return &cobra.Command{Use: use, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return err }}
		}
		group := &cobra.Command{Use: "group"}
		group.AddCommand(answer("fine", nil))
		root.AddCommand(group, answer("fails", errors.New("broke")), answer("gone", Exit(ExitNotFound, errors.New("none"))),
			answer("no", Exit(ExitNo, nil)), answer("bad", Usage("flag %q", "x")))
		return root
	}
	for _, c := range []struct {
		args string
		code int
		out  string
	}{
		{"", 0, "Usage:"},
		{"group fine", 0, ""},
		{"fails", 1, "tool: broke\n"},
		{"gone", 3, "tool: none\n"},
		{"no", 4, ""},
		{"bad", 2, "tool: flag \"x\"\nSee 'tool bad --help'.\n"},
		{"fails extra", 2, `unknown command "extra"`},
		{"fails --what", 2, "unknown flag: --what"},
		{"group", 2, "tool group wants one of: fine"},
		{"group fien", 2, `tool: command "fien" is unknown; did you mean "fine"?`},
		{"group zzz", 2, `command "zzz" is unknown; it is one of: fine`},
		{"zzz", 2, `command "zzz" is unknown`},
		{"--version", 0, "tool "},
		{"group --help", 0, "Usage:"},
	} {
		code, out := run(t, build(), strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.out) || c.out == "" && out != "" {
			t.Errorf("%q: exit %d, %q; want %d, %q", c.args, code, out, c.code, c.out)
		}
	}
}

func TestLog(t *testing.T) {
	var out strings.Builder
	logger, err := (&Log{Level: "warn", Format: "json"}).New(&out)
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("quiet")
	logger.Warn("loud")
	if got := out.String(); !strings.Contains(got, `"msg":"loud"`) || strings.Contains(got, "quiet") {
		t.Errorf("got %q", got)
	}
	for _, bad := range []Log{{"loud", "text"}, {"INFO", "text"}, {"info", "xml"}} {
		if _, err := bad.New(&out); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
