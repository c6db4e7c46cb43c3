package ctl

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/proto/clearway/v1"
)

func (a *app) ipamCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ipam", Short: "Show how addresses are used, and who holds one"}
	cmd.AddCommand(a.ipamShowCommand(), a.ipamBlocksCommand(), a.ipamAssignmentsCommand())
	return cmd
}

func (a *app) ipamShowCommand() *cobra.Command {
	var address, pool string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show each pool's use, in all and by node; or what one address belongs to",
		Long: `Show each pool's use, in all and by node; or, with --ip, what one address belongs to: its state (Assigned, Cooling,
Free, Unclaimed, Gateway, Reserved), its holder, block and pool. An address in no pool ends with exit code 3.`,
		Example: `  clearwayctl ipam show
  clearwayctl ipam show --ip 10.244.3.7
  clearwayctl ipam show -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				if cmd.Flags().Changed("ip") {
					return a.showAddress(ctx, cmd, calls, address)
				}
				return a.showUse(ctx, cmd, calls, pool)
			})
		},
	}
	cmd.Flags().StringVar(&address, "ip", "", "`ADDRESS` to tell about")
	cmd.Flags().StringVar(&pool, "pool", "", "only pool `NAME`")
	cmd.MarkFlagsMutuallyExclusive("ip", "pool")
	return cmd
}

func (a *app) ipamBlocksCommand() *cobra.Command {
	request := &clearwayv1.ListRequest{Kind: "Block"}
	cmd := &cobra.Command{
		Use:   "blocks",
		Short: "Show the blocks: owner, state, and addresses assigned of those there are",
		Example: `  clearwayctl ipam blocks --pool pods
  clearwayctl ipam blocks --node node1 -o wide`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.list(cmd, request) },
	}
	cmd.Flags().StringVar(&request.Node, "node", "", "only those of node `NAME`")
	cmd.Flags().StringVar(&request.Pool, "pool", "", "only those of pool `NAME`")
	cmd.Flags().StringVar(&request.Address, "ip", "", "only the one that holds `ADDRESS`")
	return cmd
}

func (a *app) ipamAssignmentsCommand() *cobra.Command {
	request := &clearwayv1.ListRequest{Kind: "Assignment"}
	cmd := &cobra.Command{
		Use:   "assignments",
		Short: "Show which Pod holds which address",
		Example: `  clearwayctl ipam assignments --node node1
  clearwayctl --socket /run/clearway/agent.sock ipam assignments -o wide`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.list(cmd, request) },
	}
	cmd.Flags().StringVar(&request.Node, "node", "", "only those of node `NAME`")
	cmd.Flags().StringVar(&request.Pool, "pool", "", "only those of pool `NAME`")
	cmd.Flags().StringVar(&request.Address, "ip", "", "only that of `ADDRESS`")
	return cmd
}
