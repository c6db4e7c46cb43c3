package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/proto/manifest/nearest"
)

// Exit codes, for scripts to trust.
const (
	ExitDone     = 0
	ExitFailed   = 1
	ExitUsage    = 2 // a flag, argument, variable or configuration key is wrong: nothing was done
	ExitNotFound = 3
	ExitNo       = 4 // the answer to the question asked is "no"
)

// exitError is an error that knows the exit code it ends the program with.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// Exit gives an error an exit code other than ExitFailed. A nil err ends the program with the code and no message.
func Exit(code int, err error) error {
	if err == nil {
		err = errSilent
	}
	return &exitError{code: code, err: err}
}

var errSilent = errors.New("")

// Main runs the command with the process's arguments and ends the process. The command's context ends at the first
// SIGTERM or SIGINT; a second one kills.
func Main(cmd *cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	code := Run(ctx, cmd)
	stop()
	os.Exit(code)
}

// Run executes the command, prints its error to its error stream, and returns the exit code. What goes wrong before a
// command's RunE is called (flags, arguments, environment, configuration file) is ExitUsage.
func Run(ctx context.Context, cmd *cobra.Command) int {
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if cmd.Version == "" {
		cmd.Version = Version().String()
		cmd.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	}
	reached := false
	prepare(cmd, &reached)
	called, err := cmd.ExecuteContextC(ctx)
	if err == nil {
		return ExitDone
	}
	code := ExitFailed
	if !reached {
		code = ExitUsage
	}
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
	}
	report(cmd, called, err, code)
	return code
}

// report prints one line for each line of the error, led by the program's name once.
func report(root, called *cobra.Command, err error, code int) {
	if err.Error() == "" {
		return
	}
	fmt.Fprintf(root.ErrOrStderr(), "%s: %s\n", root.Name(), err)
	if code == ExitUsage {
		fmt.Fprintf(root.ErrOrStderr(), "See '%s --help'.\n", called.CommandPath())
	}
}

// prepare notes when a command's own work begins, and makes a group of subcommands refuse what it does not know,
// where cobra would print its help and report success.
func prepare(cmd *cobra.Command, reached *bool) {
	if work := cmd.RunE; work != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*reached = true
			return work(cmd, args)
		}
	}
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = group
	}
	for _, sub := range cmd.Commands() {
		prepare(sub, reached)
	}
}

func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 && !cmd.HasParent() {
		return cmd.Help()
	}
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	list := strings.Join(names, ", ")
	if len(args) == 0 {
		return fmt.Errorf("%s wants one of: %s", cmd.CommandPath(), list)
	}
	if hint := nearest.Hint(args[0], names); hint != "" {
		return fmt.Errorf("command %q is unknown%s", args[0], hint)
	}
	return fmt.Errorf("command %q is unknown; it is one of: %s", args[0], list)
}
