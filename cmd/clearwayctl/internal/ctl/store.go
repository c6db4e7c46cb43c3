package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

func (a *app) ipamStoreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "store",
		Short: "Show how ipamd's store is: leader, size, alarms, and whether it recovers from a restore",
		Long: `Show how ipamd's store is: its incarnation and revision, where the leader is, etcd's size and alarms, and whether it
recovers from a restore and which nodes it awaits. A store that recovers, or has a fault, ends with exit code 4.`,
		Example: `  clearwayctl ipam store
  clearwayctl ipam store -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				answer, err := calls.ShowStore(ctx)
				if err != nil {
					return err
				}
				return a.printStore(cmd, answer)
			})
		},
	}
}

func (a *app) printStore(cmd *cobra.Command, answer *clearwayv1.ShowStoreResponse) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	var err error
	if format, structured := a.structured(); structured {
		err = manifest.Write(out, format, answer)
	} else {
		err = view.Rows(out, a.style(), []string{"STORE", ""}, storeRows(answer))
	}
	if err = errors.Join(err, out.Flush()); err != nil {
		return err
	}
	if answer.GetRecovery() != nil || answer.GetHealth() == nil || len(answer.GetHealth().GetFaults()) > 0 {
		return daemon.Exit(daemon.ExitNo, nil)
	}
	return nil
}

func storeRows(answer *clearwayv1.ShowStoreResponse) [][]string {
	leader := answer.GetLeader()
	if leader == "" {
		leader = "none"
	}
	rows := [][]string{
		{"incarnation", answer.GetIncarnation()}, {"revision", text(answer.GetRevision())}, {"leader", leader},
	}
	if health := answer.GetHealth(); health != nil {
		quota := "not known"
		if health.GetQuota() > 0 {
			quota = megabytes(health.GetQuota())
		}
		rows = append(rows,
			[]string{"etcd", fmt.Sprintf("%s, %d of %d members answer", health.GetVersion(), health.GetMembersAnswering(), health.GetMembers())},
			[]string{"size", fmt.Sprintf("%s, in use %s, quota %s", megabytes(health.GetSize()), megabytes(health.GetSizeInUse()), quota)})
		for _, fault := range health.GetFaults() {
			rows = append(rows, []string{"fault", fault})
		}
	} else {
		rows = append(rows, []string{"etcd", "does not answer"})
	}
	recovery := answer.GetRecovery()
	if recovery == nil {
		return append(rows, []string{"recovering", "no"})
	}
	rows = append(rows, []string{"recovering", recovery.GetReason()},
		[]string{"since", recovery.GetStartedTime().AsTime().Format(time.RFC3339)},
		[]string{"claims open", "not before " + recovery.GetEarliest().AsTime().Format(time.RFC3339)})
	for _, name := range recovery.GetAwaited() {
		rows = append(rows, []string{"awaited", name})
	}
	for _, refused := range recovery.GetRefused() {
		rows = append(rows, []string{"refused", refused})
	}
	return rows
}

func megabytes(size int64) string { return fmt.Sprintf("%.1f MiB", float64(size)/(1<<20)) }

// noteRecovery says on standard error that the store recovers. Not to know is no failure of the command.
func noteRecovery(ctx context.Context, cmd *cobra.Command, calls *client.Client) {
	answer, err := calls.ShowStore(ctx)
	recovery := answer.GetRecovery()
	if err != nil || recovery == nil {
		return
	}
	awaited := "nodes that it does not know may still come"
	if names := recovery.GetAwaited(); len(names) > 0 {
		awaited = "awaited: " + strings.Join(names, ", ")
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "the store is recovering (%s); no block is given; %s\n", recovery.GetReason(), awaited)
}

func (a *app) ipamRecoverCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Say that the store was restored from a backup: blocks are given again when every node has reported its own",
		Long: `Say that ipamd's store was restored from a backup, or is made anew in the place of one that was lost. ipamd sees
most restores by itself; say it before agents reach ipamd where it may not: when a data folder was copied back, or for an
empty store. No block is given until every known node has reported its own, or was deleted with --powered-off, and the
recoveryWait is over. Pods go on getting addresses from the blocks that their nodes have.`,
		Example: `  clearwayctl ipam recover --reason "folder of Monday"`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				incarnation, err := calls.Recover(ctx, reason)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "the store recovers, as incarnation %s\n", incarnation)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` that is kept for whoever asks")
	return cmd
}
