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

// verifyAtLeast is the least time that a comparison gets: all nodes are asked, twice where something differs.
const verifyAtLeast = 2 * time.Minute

func (a *app) bgpVerifyCommand() *cobra.Command {
	request := &clearwayv1.VerifyRoutesRequest{}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Compare every node's kernel, what its peers tell, and etcd's ownership; probe remote blocks if asked",
		Long: `Have every node compare its kernel, what its peers tell, and the ownership log, and compare what it has of the log with
ipamd's. Each mismatch is told with one reason; only what is there in two looks, some seconds apart, is one.

With --probe each node also tries to reach one address of each remote block in which a Pod has one, by ICMP and by TCP (a
refused connection is an answer), 64 at once and at most 1000 a node.

Exit codes: 0 all is as it should be; 1 nodes did not answer (each is named); 4 something differs.`,
		Example: `  clearwayctl bgp verify
  clearwayctl bgp verify --probe
  clearwayctl bgp verify --node node7 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.socket != "" {
				return daemon.Usage("a comparison takes ipamd: leave --socket out, and name the node with --node")
			}
			a.timeout = max(a.timeout, verifyAtLeast)
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				answer, err := calls.VerifyRoutes(ctx, request)
				if err != nil {
					return err
				}
				return a.printVerify(cmd, request, answer)
			})
		},
	}
	cmd.Flags().StringVar(&request.Node, "node", "", "only node `NAME`")
	cmd.Flags().BoolVar(&request.Probe, "probe", false, "try to reach an address of each remote block")
	return cmd
}

func (a *app) printVerify(cmd *cobra.Command, request *clearwayv1.VerifyRoutesRequest, answer *clearwayv1.VerifyRoutesResponse) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	var rows [][]string
	for _, one := range answer.GetMismatches() {
		rows = append(rows, []string{one.GetReason(), one.GetNode(), one.GetPrefix(), one.GetDetail()})
	}
	var err error
	if format, structured := a.structured(); structured {
		err = manifest.Write(out, format, answer)
	} else {
		if len(rows) > 0 {
			err = view.Rows(out, a.style(), []string{"REASON", "NODE", "PREFIX", "DETAIL"}, rows)
		}
		probes := ""
		if request.GetProbe() {
			probes = fmt.Sprintf("; %d of %d probes were answered", answer.GetReached(), answer.GetProbed())
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s, %s and %s were compared: %s%s\n", plural(int(answer.GetNodes()), "node"),
			plural(int(answer.GetBlocks()), "remote block"), plural(int(answer.GetRoutes()), "route"), mismatches(len(rows)), probes)
		if omitted := answer.GetOmitted(); omitted > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "%d more are not shown: at most 1000 a node are\n", omitted)
		}
	}
	if err = errors.Join(err, out.Flush(), warn(cmd, answer.GetWarnings())); err == nil && len(rows) > 0 {
		err = daemon.Exit(daemon.ExitNo, nil)
	}
	return err
}

func mismatches(count int) string {
	if count == 1 {
		return "1 mismatch"
	}
	return fmt.Sprintf("%d mismatches", count)
}
