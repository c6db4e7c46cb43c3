package ctl

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
)

func (a *app) bgpCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bgp", Short: "Show BGP sessions and routes as the nodes have them"}
	cmd.AddCommand(a.bgpPeersCommand(), a.bgpRoutesCommand(), a.bgpTraceCommand(), a.bgpVerifyCommand())
	return cmd
}

func (a *app) bgpPeersCommand() *cobra.Command {
	request := &clearwayv1.ListRequest{Kind: "BGPSession"}
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "Show the nodes' sessions: state, prefixes received, accepted and advertised, and why one is not up",
		Example: `  clearwayctl bgp peers
  clearwayctl bgp peers --node node1 -o wide
  clearwayctl --socket /run/clearway/agent.sock bgp peers`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.list(cmd, request) },
	}
	cmd.Flags().StringVar(&request.Node, "node", "", "only the sessions of node `NAME`")
	return cmd
}

func (a *app) bgpRoutesCommand() *cobra.Command {
	request := &clearwayv1.ListRequest{Kind: "Route"}
	cmd := &cobra.Command{
		Use:   "routes [learned|advertised]",
		Short: "Show what nodes advertise and have learned, what became of it, and why",
		Long: `Show what nodes advertise and have learned, what became of it (Installed, Pending, Rejected, Unresolved, Failed,
Advertised), and why. ipamd asks each node's agent; a node that does not answer is named in a warning, and the exit
code is 1. With --prefix, a prefix that nobody has ends with exit code 3.`,
		Example: `  clearwayctl bgp routes --node node1
  clearwayctl bgp routes learned --prefix 10.244.3.0/26
  clearwayctl bgp routes --prefix 10.244.3.7 -o json`,
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1)),
		ValidArgs: []string{"learned", "advertised"},
		RunE: func(cmd *cobra.Command, args []string) error {
			direction, err := directionOf(args)
			if err != nil {
				return err
			}
			return a.routes(cmd, request, direction)
		},
	}
	cmd.Flags().StringVar(&request.Node, "node", "", "only those of node `NAME`")
	cmd.Flags().StringVar(&request.Address, "prefix", "", "only this `PREFIX`, or, for an address, the prefixes that hold it")
	return cmd
}

// directionOf reads the argument: a Route's direction, or empty for both.
func directionOf(args []string) (string, error) {
	if len(args) == 0 {
		return "", nil
	}
	switch strings.ToLower(args[0]) {
	case "learned":
		return "Learned", nil
	case "advertised":
		return "Advertised", nil
	}
	return "", daemon.Usage("%q is neither learned nor advertised", args[0])
}

func (a *app) routes(cmd *cobra.Command, request *clearwayv1.ListRequest, direction string) error {
	return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
		objects, warnings, err := calls.List(ctx, request)
		if err != nil {
			return err
		}
		var chosen []clearwayv1.Object
		for _, object := range objects {
			route, ok := object.(*clearwayv1.Route)
			if ok && (direction == "" || route.GetSpec().GetDirection() == direction) {
				chosen = append(chosen, object)
			}
		}
		return a.show(cmd, request, chosen, warnings)
	})
}
