package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

const editHint = `# Change the resource, save and leave the editor. Lines that begin with '#' are left aside.
# Leave it unchanged, or empty, to cancel. status is shown only.
#
`

func (a *app) editCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "edit KIND NAME",
		Short: "Change a resource in an editor",
		Long: `Change a resource in the editor that $VISUAL or $EDITOR names, else vi. When the change is refused the editor is
opened again with the reasons on top; leaving it unchanged then gives up, and keeps the text in a file. A change that
somebody else made meanwhile is never overwritten.`,
		Example: `  clearwayctl edit bgppeer tor-r1
  EDITOR=nano clearwayctl edit pool pods`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name, err := one(args)
			if err != nil {
				return err
			}
			if !clearwayv1.Writable(kind) {
				return daemon.Usage("%s is read only: Clearway writes it", kind)
			}
			return a.edit(cmd, kind, name)
		},
	}
}

func (a *app) edit(cmd *cobra.Command, kind, name string) error {
	before, err := a.current(cmd, kind, name)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp("", "clearway-edit-*.yaml")
	if err != nil {
		return err
	}
	file.Close()
	kept := false
	defer func() {
		if !kept {
			os.Remove(file.Name())
		}
	}()
	text, reasons := before, ""
	for {
		changed, err := edited(cmd, file.Name(), editHint+reasons, text)
		if err != nil {
			return err
		}
		if blank(changed) || bytes.Equal(changed, before) {
			fmt.Fprintln(cmd.ErrOrStderr(), "nothing was changed")
			return nil
		}
		if reasons != "" && bytes.Equal(changed, text) {
			kept = true
			return fmt.Errorf("nothing was changed; the text is kept in %s", file.Name())
		}
		if err = a.applyEdited(cmd, kind, name, file.Name(), changed); err == nil {
			return nil
		}
		text, reasons = changed, comment(err.Error())
	}
}

// current reads the resource as YAML.
func (a *app) current(cmd *cobra.Command, kind, name string) ([]byte, error) {
	var text bytes.Buffer
	err := a.call(cmd, func(ctx context.Context, calls *client.Client) error {
		objects, _, err := calls.List(ctx, &clearwayv1.ListRequest{Kind: kind, Name: name})
		if err != nil {
			return err
		}
		if len(objects) == 0 {
			return missing(kind, name)
		}
		return manifest.Write(&text, manifest.YAML, objects[0])
	})
	return text.Bytes(), err
}

// edited writes the text with its head into the file, opens the editor, and returns what it left, without comments.
func edited(cmd *cobra.Command, file, head string, text []byte) ([]byte, error) {
	if err := os.WriteFile(file, append([]byte(head), text...), 0o600); err != nil {
		return nil, err
	}
	editor := "vi"
	for _, variable := range []string{"EDITOR", "VISUAL"} {
		if value := os.Getenv(variable); value != "" {
			editor = value
		}
	}
	// Through the shell, as git and kubectl do: the variable may hold arguments.
	run := exec.CommandContext(cmd.Context(), "sh", "-c", editor+` "$1"`, "sh", file)
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := run.Run(); err != nil {
		return nil, fmt.Errorf("editor %q: %w", editor, err)
	}
	left, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return withoutComments(left), nil
}

func withoutComments(text []byte) []byte {
	var kept bytes.Buffer
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte("#")) {
			kept.Write(line)
		}
	}
	return kept.Bytes()
}

func blank(text []byte) bool { return len(bytes.TrimSpace(text)) == 0 }

func comment(text string) string {
	return "# It was refused:\n#   " + strings.ReplaceAll(text, "\n", "\n#   ") + "\n#\n"
}

func (a *app) applyEdited(cmd *cobra.Command, kind, name, file string, text []byte) error {
	items, err := manifest.Read("edited", bytes.NewReader(text))
	if err != nil {
		return err
	}
	if len(items) != 1 || items[0].Object.GetKind() != kind || items[0].Object.GetMetadata().GetName() != name {
		return errors.New("kind and name cannot be edited, and there must be one resource")
	}
	err = a.call(cmd, func(ctx context.Context, calls *client.Client) error {
		return a.apply(ctx, cmd, calls, items, false)
	})
	if err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s was refused: %v\n", view.Lower(items[0].Object), err)
	}
	return err
}
