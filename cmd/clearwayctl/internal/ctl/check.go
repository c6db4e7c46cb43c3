package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

// checkTime is the least time that a check gets: it asks every node, twice where something differs.
const checkTime = time.Minute

func (a *app) ipamCheckCommand() *cobra.Command {
	request := &clearwayv1.CheckBooksRequest{}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Compare what etcd, ipamd, the nodes' journals, their mirror, BGP and kernels say, and mend what is safe",
		Long: `Compare the books: etcd, ipamd's memory, each node's journal, the mirror of it, what the node advertises, and learned
routes that its kernel did not take. Each difference is told with one reason; only what is there in two looks, some
seconds apart, is one. It ends with exit code 4 when something differs and was not mended, and 1 when a node did not answer.

With --repair it mends what is safe to mend: a node registers again or mirrors its journal anew, a block that has rested is
freed, records of nodes that do not exist are deleted, ipamd reads its store anew. It frees no address because something is
not known.`,
		Example: `  clearwayctl ipam check
  clearwayctl ipam check --repair --dry-run
  clearwayctl ipam check --node node7 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if request.GetDryRun() && !request.GetRepair() {
				return daemon.Usage("--dry-run is about --repair, which is missing")
			}
			a.timeout = max(a.timeout, checkTime)
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				answer, err := calls.CheckBooks(ctx, request)
				if err != nil {
					return err
				}
				return a.printCheck(cmd, answer)
			})
		},
	}
	cmd.Flags().StringVar(&request.Node, "node", "", "only the books of node `NAME`")
	cmd.Flags().BoolVar(&request.Repair, "repair", false, "mend what is safe to mend")
	cmd.Flags().BoolVar(&request.DryRun, "dry-run", false, "with --repair: tell what would be done")
	return cmd
}

func (a *app) printCheck(cmd *cobra.Command, answer *clearwayv1.CheckBooksResponse) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	left := 0
	var rows [][]string
	for _, one := range answer.GetDifferences() {
		repair := one.GetRepair()
		switch {
		case one.GetRepaired():
			repair += " (done)"
		case repair == "":
			repair = "none that is safe"
		}
		if !one.GetRepaired() {
			left++
		}
		rows = append(rows, []string{one.GetReason(), one.GetNode(), one.GetSubject(), one.GetDetail(), repair})
	}
	var err error
	if format, structured := a.structured(); structured {
		err = manifest.Write(out, format, answer)
	} else {
		if len(rows) > 0 {
			err = view.Rows(out, a.style(), []string{"REASON", "NODE", "SUBJECT", "DETAIL", "REPAIR"}, rows)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s, %s and %s were compared: %s\n", plural(int(answer.GetNodes()), "node"),
			plural(int(answer.GetBlocks()), "block"), plural(int(answer.GetAssignments()), "assignment"),
			plural(len(rows), "difference"))
	}
	if err = errors.Join(err, out.Flush(), warn(cmd, answer.GetWarnings())); err == nil && left > 0 {
		err = daemon.Exit(daemon.ExitNo, nil)
	}
	return err
}
