package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/preflight"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
)

// preflightWish is what the flags of preflight say.
type preflightWish struct {
	places preflight.Places
	wish   preflight.Wish
	pools  []string
	files  []string
}

func (a *app) preflightCommand() *cobra.Command {
	wish := &preflightWish{}
	cmd := &cobra.Command{
		Use:   "preflight",
		Short: "Tell what of this host would keep Pods from their roads",
		Long: `Look at the host that this runs on, before or after Clearway is installed there, and tell what will not work and what to do
about it: forwarding, source filters, router advertisements, the firewall, another network's configuration, ports that are
taken, routes that overlap a pool, missing modules. Nothing is changed.

Pools are those of --pool or --filename, else ipamd is asked for them. As root it sees whose a taken port is. In a container it
needs the host's network, and --root where the host's root is mounted.

FAIL: Pods or their roads will not work. WARN: not in every case. UNKNOWN: it could not be looked at. Exit code 4: something
failed.`,
		Example: `  sudo clearwayctl preflight --pool 10.244.0.0/16,fd00:10:244::/48
  sudo clearwayctl preflight -f pools.yaml -o json
  clearwayctl preflight --root /host`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.preflight(cmd, wish) },
	}
	flags := cmd.Flags()
	flags.StringVar(&wish.places.Root, "root", "/", "`DIR` where the host's root is seen")
	flags.StringVar(&wish.places.ConfDir, "cni-conf-dir", "/etc/cni/net.d", "`DIR` of the runtime's network configuration, on the host")
	flags.StringVar(&wish.places.PluginDir, "cni-bin-dir", "/opt/cni/bin", "`DIR` of the runtime's network plugins, on the host")
	flags.StringVar(&wish.places.DataDir, "data-dir", "/var/lib/clearway", "`DIR` of the agent's data, on the host")
	flags.StringSliceVar(&wish.pools, "pool", nil, "`PREFIX` of a pool; may be repeated")
	flags.StringArrayVarP(&wish.files, "filename", "f", nil, "take pools from "+filesHelp)
	flags.Uint16Var(&wish.wish.BGPPort, "bgp-port", 179, "`PORT` that the agent will listen on; 0: it listens on none")
	flags.Uint32Var(&wish.wish.RouteMetric, "route-metric", 20, "`METRIC` of the agent's routes")
	return cmd
}

func (a *app) preflight(cmd *cobra.Command, wish *preflightWish) error {
	if err := a.poolsOf(cmd, wish); err != nil {
		return err
	}
	if !filepath.IsAbs(wish.places.Root) {
		absolute, err := filepath.Abs(wish.places.Root)
		if err != nil {
			return err
		}
		wish.places.Root = absolute
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	facts := preflight.Gather(ctx, wish.places)
	wish.wish.ConfDir, wish.wish.PluginDir = wish.places.ConfDir, wish.places.PluginDir
	if len(wish.pools) == 0 && len(wish.files) == 0 && facts.Faults["pool_overlap"] == nil {
		pools, err := a.poolsOfServer(cmd)
		if err != nil {
			facts.Faults["pool_overlap"] = fmt.Errorf("ipamd cannot be asked for pools, and there is no --pool: %w", err)
		}
		wish.wish.Pools = pools
	}
	findings := preflight.Judge(facts, wish.wish)
	if err := a.printFindings(cmd, findings); err != nil {
		return err
	}
	if preflight.Worst(findings) == preflight.Fail {
		return daemon.Exit(daemon.ExitNo, nil)
	}
	return nil
}

// poolsOf takes the pools that the flags name.
func (a *app) poolsOf(cmd *cobra.Command, wish *preflightWish) error {
	for _, text := range wish.pools {
		prefix, why := policy.ParsePrefix(text)
		if why != "" {
			return daemon.Usage("--pool %q %s", text, why)
		}
		wish.wish.Pools = append(wish.wish.Pools, prefix)
	}
	if len(wish.files) == 0 {
		return nil
	}
	items, err := readFiles(wish.files, cmd.InOrStdin())
	if err != nil {
		return err
	}
	var objects []clearwayv1.Object
	for _, item := range items {
		objects = append(objects, item.Object)
	}
	wish.wish.Pools = append(wish.wish.Pools, prefixesOf(objects)...)
	return nil
}

func (a *app) poolsOfServer(cmd *cobra.Command) (pools []netip.Prefix, err error) {
	err = a.call(cmd, func(ctx context.Context, calls *client.Client) error {
		objects, err := listAll(ctx, calls, "IPPool")
		pools = prefixesOf(objects)
		return err
	})
	return pools, err
}

// prefixesOf are the prefixes of the pools among some resources.
func prefixesOf(objects []clearwayv1.Object) (prefixes []netip.Prefix) {
	for _, object := range objects {
		if pool, ok := object.(*clearwayv1.IPPool); ok {
			if prefix, err := netip.ParsePrefix(pool.GetSpec().GetCidr()); err == nil { // ipamd refuses others
				prefixes = append(prefixes, prefix)
			}
		}
	}
	return prefixes
}

func (a *app) printFindings(cmd *cobra.Command, findings []preflight.Finding) error {
	if _, structured := a.structured(); structured {
		return a.printValue(cmd, map[string]any{"items": findings})
	}
	var rows [][]string
	for _, f := range findings {
		rows = append(rows, []string{string(f.Verdict), f.Check, f.Detail})
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	err := view.Rows(out, a.style(), []string{"VERDICT", "CHECK", "DETAIL"}, rows)
	for _, f := range findings {
		if f.Remedy != "" {
			fmt.Fprintf(out, "\n%s: %s\n", f.Check, f.Remedy)
		}
	}
	return errors.Join(err, out.Flush())
}
