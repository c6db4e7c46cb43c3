package ctl

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/internal/daemon"
)

// pollEvery is how often a command that waits looks.
const pollEvery = time.Second

const waitHelp = "wait until it is done, or until --timeout is over where that is given; then the exit code is 4"

// callWaiting is call for work that may wait for long: its deadline is --timeout only where that was given. What asks
// a server within it has a deadline of its own, by asking.
func (a *app) callWaiting(cmd *cobra.Command, work func(context.Context, *client.Client) error) error {
	calls, err := a.open()
	if err != nil {
		return err
	}
	defer calls.Close()
	ctx := cmd.Context()
	if cmd.Flags().Changed("timeout") {
		limited, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		ctx = limited
	}
	return work(ctx, calls)
}

// asking bounds one round of calls within a longer wait.
func (a *app) asking(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, a.timeout)
}

// poll calls look until it says that there is nothing more to wait for. When the time is over it is the answer "no".
func (a *app) poll(ctx context.Context, look func(context.Context) (done bool, err error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		round, cancel := a.asking(ctx)
		done, err := look(round)
		cancel()
		switch {
		case done && err == nil:
			return nil
		case ctx.Err() != nil:
			return daemon.Exit(daemon.ExitNo, errors.New("it is not done yet, and the time is over; the same command goes on with it"))
		case err != nil:
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
