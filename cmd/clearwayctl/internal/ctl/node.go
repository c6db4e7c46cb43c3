package ctl

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/proto/clearway/v1"
)

func (a *app) nodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Show, drain and remove nodes"}
	cmd.AddCommand(a.nodeListCommand(), a.nodeDeleteCommand(), a.nodeDrainCommand(), a.nodeUndrainCommand())
	return cmd
}

func (a *app) nodeListCommand() *cobra.Command {
	request := &clearwayv1.ListRequest{Kind: "Node"}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show the nodes: phase, addresses, blocks, sessions established of those wanted, kernel routes",
		Example: `  clearwayctl node list
  clearwayctl node list -l rack=r1 -o wide`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				objects, warnings, err := calls.List(ctx, request)
				if err != nil {
					return err
				}
				if _, structured := a.structured(); !structured && !calls.Local() {
					noteRecovery(ctx, cmd, calls)
				}
				return a.show(cmd, request, objects, warnings)
			})
		},
	}
	cmd.Flags().StringVarP(&request.LabelSelector, "selector", "l", "", "only those whose labels match: `k=v,k2!=v,k3 in (a,b)`")
	return cmd
}

func (a *app) nodeDeleteCommand() *cobra.Command {
	var how deletion
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Remove a node",
		Long: `Remove a node. Its blocks stay its own until its agent comes back: silence alone gives nothing on. With --powered-off
you vouch that the machine is off and will not come back with its Pods: then its blocks rest for the cooldown and are
given on. If it is wrong, two machines answer for the same addresses.`,
		Example: `  clearwayctl node delete node7
  clearwayctl node delete node7 --powered-off`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			requests, err := how.requests(cmd, []string{"Node", args[0]})
			if err != nil {
				return err
			}
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				_, err := how.run(ctx, cmd, calls, requests)
				return err
			})
		},
	}
	how.addFlags(cmd)
	return cmd
}
