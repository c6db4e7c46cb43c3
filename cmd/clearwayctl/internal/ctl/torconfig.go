package ctl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/bgp/fleet"
	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/tor"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
)

// rackLabel is the label that --rack goes by.
const rackLabel = "rack"

// torWish is what the flags of tor-config say.
type torWish struct {
	vendor, rack string
	nodes        []string
	ranges       []string
	files        []string
	options      tor.Options
}

func (a *app) torConfigCommand() *cobra.Command {
	wish := &torWish{}
	cmd := &cobra.Command{
		Use:   "tor-config --peer NAME --vendor VENDOR",
		Short: "Write a router's side of BGPPeers, in its vendor's language",
		Long: `Write a router's side of BGPPeers, from the same resources that the nodes' sessions are made of: AS numbers, a neighbour
for each node (or, with --range, a listen range), timers, BFD, graceful restart as a helper, TCP-MD5 (a placeholder: resources
have no password), multipath, the most prefixes a node may tell, filters that let pools' prefixes through, the graceful-shutdown
community (RFC 8326), and the declared aggregates that are this router's to make.

--peer takes several names, and shell patterns of them: all of them are sessions of the one router. FRR's and BIRD's text is
loaded into those daemons by the project's own tests; that of sonic (which runs FRR), eos, nxos and junos is not.`,
		Example: `  clearwayctl tor-config --peer tor-r1 --vendor frr
  clearwayctl tor-config --peer 'tor1-*' --rack r1 --range subnets --vendor eos
  clearwayctl tor-config --peer tor-r1 --range 192.0.2.0/24 --vendor bird -f resources.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.torConfig(cmd, wish) },
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&wish.options.Peers, "peer", nil, "`NAME` or pattern of a BGPPeer; several are one router's")
	flags.StringVar(&wish.vendor, "vendor", "", "`VENDOR` to write for: "+strings.Join(tor.Vendors(), ", "))
	flags.StringSliceVar(&wish.nodes, "node", nil, "only the session of node `NAME`; may be repeated")
	flags.StringVar(&wish.rack, "rack", "", "only nodes whose label "+rackLabel+" is `VALUE`")
	flags.StringSliceVar(&wish.ranges, "range", nil,
		"listen on `PREFIX` in place of one neighbour a node; \"subnets\": on the nodes' own; may be repeated")
	flags.IntVar(&wish.options.MaxPrefixes, "max-prefixes", 1000, "the most prefixes `N` of one family that a node may tell; 0: any number")
	flags.BoolVar(&wish.options.SummaryOnly, "summary-only", false, "tell other peers aggregates without their parts")
	flags.StringArrayVarP(&wish.files, "filename", "f", nil, "read resources from "+filesHelp+", and ask no server")
	_ = cmd.MarkFlagRequired("peer")
	_ = cmd.MarkFlagRequired("vendor")
	_ = cmd.RegisterFlagCompletionFunc("vendor", cobra.FixedCompletions(asCompletions(tor.Vendors()), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) torConfig(cmd *cobra.Command, wish *torWish) error {
	if err := wish.read(); err != nil {
		return err
	}
	resources, err := a.fleet(cmd, wish.files)
	if err != nil {
		return err
	}
	router, err := tor.Derive(resources, wish.options)
	if missing := (*tor.NotFoundError)(nil); errors.As(err, &missing) {
		return daemon.Exit(daemon.ExitNotFound, err)
	}
	if err != nil {
		return err
	}
	text, err := tor.Write(wish.vendor, router)
	if err != nil {
		return err
	}
	for _, note := range router.Notes {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: %s\n", note)
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), text)
	return err
}

// read makes options of what was written.
func (w *torWish) read() error {
	if !slices.Contains(tor.Vendors(), w.vendor) {
		return daemon.Usage("--vendor %q is unknown; it is one of %s", w.vendor, strings.Join(tor.Vendors(), ", "))
	}
	if w.options.MaxPrefixes < 0 {
		return daemon.Usage("--max-prefixes %d is below zero", w.options.MaxPrefixes)
	}
	for _, text := range w.ranges {
		if text == "subnets" {
			w.options.Subnets = true
			continue
		}
		prefix, why := policy.ParsePrefix(text)
		if why != "" {
			return daemon.Usage("--range %q %s, or subnets", text, why)
		}
		w.options.Ranges = append(w.options.Ranges, prefix)
	}
	slices.SortFunc(w.options.Ranges, netip.Prefix.Compare)
	w.options.Ranges = slices.Compact(w.options.Ranges)
	w.options.Takes = func(node *clearwayv1.Node) bool {
		return (len(w.nodes) == 0 || slices.Contains(w.nodes, node.GetMetadata().GetName())) &&
			(w.rack == "" || node.GetStatus().GetLabels()[rackLabel] == w.rack)
	}
	return nil
}

// fleetKinds are what BGP goes by.
var fleetKinds = []string{"BGPConfiguration", "BGPPeer", "BGPFilter", "IPPool", "Node", "Block"}

// fleet reads the resources that BGP goes by: from files where there are any, else from ipamd.
func (a *app) fleet(cmd *cobra.Command, files []string) (*fleet.Fleet, error) {
	if len(files) > 0 {
		items, err := readFiles(files, cmd.InOrStdin())
		if err != nil {
			return nil, err
		}
		var objects []clearwayv1.Object
		for _, item := range items {
			objects = append(objects, item.Object)
		}
		return fleet.New(objects...), nil
	}
	var objects []clearwayv1.Object
	err := a.call(cmd, func(ctx context.Context, calls *client.Client) (err error) {
		objects, err = listAll(ctx, calls, fleetKinds...)
		return err
	})
	return fleet.New(objects...), err
}

// listAll lists all resources of some kinds.
func listAll(ctx context.Context, calls *client.Client, kinds ...string) ([]clearwayv1.Object, error) {
	var objects []clearwayv1.Object
	for _, kind := range kinds {
		found, _, err := calls.List(ctx, &clearwayv1.ListRequest{Kind: kind})
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
	return objects, nil
}
