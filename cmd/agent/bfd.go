package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/clearway/clearway/bgp/bfd"
	"github.com/clearway/clearway/cmd/internal/daemon"
)

const (
	bfdSocket      = "/run/clearway/bfd.sock"
	bfdSocketUsage = "`PATH` of the unix socket of clearway-agent bfd"
)

// bfdCommand is the process that runs the BFD sessions, so that they outlive the agent.
func bfdCommand() *cobra.Command {
	socket, log := bfdSocket, daemon.Log{}
	cmd := &cobra.Command{
		Use:   "bfd",
		Short: "Run the BFD sessions that the agent wants, beside it",
		Long: `clearway-agent bfd is a small process of its own beside the agent. It runs the BFD sessions (RFC 5880, single hop and
multihop) that the agent asks for by a unix socket, and goes on with them when the agent is killed or upgraded, so that
peers which end BGP when BFD is down do not.

It keeps what was asked for in bfd.json beside the socket, for when it is itself started anew. SIGTERM is a restart: the
next process goes on with the sessions, and peers notice nothing if it is there within their detection time.`,
		Example: `  clearway-agent bfd
  clearway-agent bfd --bfd-socket /run/clearway/bfd.sock --log-format json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := log.New(os.Stderr)
			if err != nil {
				return err
			}
			if err := checkSocket("--bfd-socket", socket); err != nil {
				return err
			}
			return runBFD(cmd.Context(), socket, logger)
		},
	}
	cmd.Flags().StringVar(&socket, "bfd-socket", socket, bfdSocketUsage)
	log.AddFlags(cmd.Flags())
	daemon.Bind(cmd)
	return cmd
}

func runBFD(ctx context.Context, socket string, logger *slog.Logger) error {
	listener, err := daemon.ListenUnix(socket, daemon.SocketPrivate)
	if err != nil {
		return err
	}
	defer listener.Close()
	file := filepath.Join(filepath.Dir(socket), "bfd.json")
	engine := bfd.New(logger)
	if err := engine.Load(file, time.Now()); err != nil {
		logger.Error("the sessions of before wait for the agent", "error", err)
	}
	logger.Info("starting", "version", daemon.Version().Version)
	server := &bfd.Server{Engine: engine, File: file, Logger: logger}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return engine.Run(ctx) })
	group.Go(func() error { return server.Serve(ctx, listener) })
	return errors.Join(group.Wait(), engine.Leave(file, time.Now()))
}

// checkSocket holds a path to what a unix socket's address takes: sockaddr_un has 108 bytes, one of them a NUL (unix(7)).
func checkSocket(flag, path string) error {
	const longest = 107
	switch {
	case path == "":
		return daemon.Usage("%s is empty: give a path", flag)
	case len(path) > longest:
		return daemon.Usage("%s %q has %d bytes; a unix socket's path has at most %d", flag, path, len(path), longest)
	}
	return nil
}
