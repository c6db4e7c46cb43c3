package ctl

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/proto/clearway/v1"
)

func (a *app) ipamCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ipam", Short: "Show how addresses are used, and who holds one; check, save and move them"}
	cmd.AddCommand(a.ipamShowCommand(), a.ipamBlocksCommand(), a.ipamAssignmentsCommand(), a.ipamMigrateCommand(), a.ipamHistoryCommand(),
		a.ipamStoreCommand(), a.ipamRecoverCommand(), a.ipamCheckCommand(), a.ipamExportCommand(), a.ipamImportCommand())
	return cmd
}

func (a *app) ipamShowCommand() *cobra.Command {
	var address, pool string
	cmd := &cobra.Command{
		Use:   "show [POOL]",
		Short: "Show each pool's use, in all and by node; or what one address belongs to",
		Long: `Show each pool's use, in all and by node: addresses in blocks (ADDRESSES, of which ASSIGNED and COOLING), in no block
(FREE), in blocks that rest (RESTING) or whose node is gone (ORPHANED), what nodes could do without and would be called
back when a Pod elsewhere waits (CALLABLE), and what is left in pieces smaller than the smallest block (STRANDED). Of one
pool a sentence says it: why a claim is refused. Or, with --ip, what one address belongs to: its state (Assigned, Cooling,
Free, Unclaimed, Gateway, Reserved), its holder, block and pool. An address in no pool ends with exit code 3.`,
		Example: `  clearwayctl ipam show
  clearwayctl ipam show pods
  clearwayctl ipam show --ip 10.244.3.7
  clearwayctl ipam show -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && (cmd.Flags().Changed("pool") || cmd.Flags().Changed("ip")) {
				return errors.New("name the pool once, and no --ip beside it")
			}
			return cobra.MaximumNArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				pool = args[0]
			}
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
