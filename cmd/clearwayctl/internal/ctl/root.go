package ctl

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/internal/daemon"
)

// app is what the flags that every command has say.
type app struct {
	servers   string
	socket    string
	tls       daemon.TLS
	timeout   time.Duration
	output    string
	noHeaders bool
}

// outputs are the values of --output.
var outputs = []string{"table", "wide", "json", "yaml"}

// New makes the command.
func New() *cobra.Command {
	a := &app{}
	cmd := &cobra.Command{
		Use:   "clearwayctl",
		Short: "Look at and change Clearway's address pools, blocks, peers and routes",
		Long: `clearwayctl is the operator's hand and eye: it calls ipamd (--server), or the agent of one node (--socket; it
answers for its own blocks, assignments, sessions and routes, also while ipamd is away).

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 the answer to the question is "no".`,
		Example: `  export CLEARWAY_SERVER=192.0.2.10:7470 CLEARWAY_TLS_CERT=me.crt CLEARWAY_TLS_KEY=me.key CLEARWAY_TLS_CA=ca.crt
  clearwayctl apply -f pools.yaml
  clearwayctl get pools
  clearwayctl ipam show --ip 10.244.3.7
  clearwayctl --socket /run/clearway/agent.sock bgp peers`,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.check() },
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&a.servers, "server", "127.0.0.1:7470", "`ADDR:PORT` of ipamd; several, with commas, are tried in order")
	flags.StringVar(&a.socket, "socket", "", "`PATH` of an agent's socket: ask that node instead of ipamd")
	flags.DurationVar(&a.timeout, "timeout", 10*time.Second, "how long the whole command may wait for answers")
	flags.StringVarP(&a.output, "output", "o", "table", "`FORM` of the answer: "+strings.Join(outputs, ", "))
	flags.BoolVar(&a.noHeaders, "no-headers", false, "tables without the line of column names")
	a.tls.AddClientFlags(flags)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(asCompletions(outputs), cobra.ShellCompDirectiveNoFileComp))
	cmd.AddCommand(a.applyCommand(), a.planCommand(), a.getCommand(), a.describeCommand(), a.deleteCommand(), a.editCommand(),
		a.ipamCommand(), a.bgpCommand(), a.nodeCommand(), a.torConfigCommand(), a.preflightCommand(), a.moveInCommand(), a.pkiCommand(), a.versionCommand())
	daemon.Bind(cmd)
	return cmd
}

func asCompletions(values []string) []cobra.Completion { return values }

// check refuses bad values of the common flags before any command begins.
func (a *app) check() error {
	if !slices.Contains(outputs, a.output) {
		return fmt.Errorf("--output %q is unknown; it is one of %s", a.output, strings.Join(outputs, ", "))
	}
	if a.timeout <= 0 {
		return fmt.Errorf("--timeout %s is not above zero", a.timeout)
	}
	if _, err := daemon.ParseServers(a.servers); err != nil && a.socket == "" {
		return fmt.Errorf("--server: %w", err)
	}
	return nil
}

// call runs work with a client, within the deadline.
func (a *app) call(cmd *cobra.Command, work func(context.Context, *client.Client) error) error {
	calls, err := a.open()
	if err != nil {
		return err
	}
	defer calls.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	return work(ctx, calls)
}

func (a *app) open() (*client.Client, error) {
	servers, _ := daemon.ParseServers(a.servers) // was checked
	return client.Open(client.Options{
		Servers: servers, Socket: a.socket, TLS: a.tls,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}
