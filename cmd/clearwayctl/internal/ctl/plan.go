package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/clearway/clearway/bgp/fleet"
	"github.com/clearway/clearway/bgp/plan"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

// planLimits are what a plan warns of: what tor-config gives routers, and what a mesh is fit for.
var planLimits = plan.Limits{MaxPrefixes: 1000, MaxMesh: 300}

const planLong = `It says which sessions would come, go or begin anew (and the fields that force it), which prefixes each peer would be told, told
no more, or told otherwise, in how many sessions each node's blocks would be told, and which limits would be passed: --max-prefixes
of a family told to one peer, --max-mesh sessions of the node mesh on one node, a block told to nobody. It goes by the code that
the agents run. What filters would take of what peers tell is not foretold.`

func addPlanFlags(cmd *cobra.Command, limits *plan.Limits) {
	*limits = planLimits
	cmd.Flags().IntVar(&limits.MaxPrefixes, "max-prefixes", limits.MaxPrefixes, "the most prefixes `N` of one family that routers take of a node; 0: any number")
	cmd.Flags().IntVar(&limits.MaxMesh, "max-mesh", limits.MaxMesh, "the most sessions `N` of the node mesh on one node; 0: any number")
}

func (a *app) planCommand() *cobra.Command {
	var files []string
	var limits plan.Limits
	cmd := &cobra.Command{
		Use:   "plan -f FILE",
		Short: "Foretell what applying resources would do to BGP on every node; nothing is changed",
		Long: "Foretell what applying resources would do to BGP on every node; nothing is changed.\n\n" + planLong + `

The server checks the resources as apply does. Exit codes: 0 no session would end; 1 failed, or refused; 4 a session would go or
begin anew, a limit would be passed, or something could not be done as it is written.`,
		Example: `  clearwayctl plan -f peers.yaml
  clearwayctl plan -f peers/ -o json
  clearwayctl apply -f peers.yaml --plan`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := readFiles(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				foretold, err := a.foretell(ctx, calls, items, limits)
				if err != nil {
					return err
				}
				if err := a.printPlan(cmd, cmd.OutOrStdout(), foretold); err != nil {
					return err
				}
				if foretold.Disturbs() {
					return daemon.Exit(daemon.ExitNo, nil)
				}
				return nil
			})
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, filesHelp)
	addPlanFlags(cmd, &limits)
	_ = cmd.MarkFlagRequired("filename")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	return cmd
}

// foretell has the server check the resources, and compares the fleet before them with the one after.
func (a *app) foretell(ctx context.Context, calls *client.Client, items []manifest.Item, limits plan.Limits) (plan.Plan, error) {
	if a.socket != "" {
		return plan.Plan{}, daemon.Usage("a plan is of all nodes, so it asks ipamd: leave --socket out")
	}
	_, err := calls.Apply(ctx, &clearwayv1.ApplyRequest{Resources: resources(items), DryRun: true, RequestKey: uuid.NewString()})
	if err != nil {
		return plan.Plan{}, refused(err, items)
	}
	objects, err := listAll(ctx, calls, fleetKinds...)
	if err != nil {
		return plan.Plan{}, err
	}
	before := fleet.New(objects...)
	var changes []clearwayv1.Object
	for _, item := range items {
		changes = append(changes, item.Object)
	}
	return plan.Compare(before, before.With(changes...), limits), nil
}

func (a *app) printPlan(cmd *cobra.Command, to io.Writer, foretold plan.Plan) error {
	if _, structured := a.structured(); structured {
		return a.printValue(cmd, foretold)
	}
	out := bufio.NewWriter(to)
	var rows [][]string
	for _, node := range foretold.Nodes {
		for _, one := range node.Sessions {
			fields := strings.Join(one.Forcing, ", ")
			if len(one.Later) > 0 {
				fields = strings.Join(one.Later, ", ") + " (with the next session)"
			}
			rows = append(rows, []string{node.Node, one.Peer, one.Origin, string(one.Effect), fields,
				prefixesText(one.Gained), prefixesText(one.Lost), prefixesText(one.Changed)})
		}
	}
	var err error
	if len(rows) > 0 {
		err = view.Rows(out, a.style(), []string{"NODE", "PEER", "ORIGIN", "EFFECT", "FIELDS", "GAINED", "LOST", "CHANGED"}, rows)
	}
	for _, node := range foretold.Nodes {
		for _, ways := range node.Ways {
			fmt.Fprintf(out, "%s: its %s blocks are told in %d sessions, and would be in %d\n", node.Node, ways.Family, ways.Before, ways.After)
		}
	}
	for _, limit := range foretold.Limits {
		fmt.Fprintf(out, "limit: %s\n", limit)
	}
	for _, problem := range foretold.Problems {
		fmt.Fprintf(out, "problem: %s\n", problem)
	}
	fmt.Fprintf(out, "%d sessions would come, %d go, %d begin anew, %d change and stay up; %d stay as they are\n",
		foretold.Added, foretold.Gone, foretold.Reset, foretold.Kept, foretold.Same)
	return errors.Join(err, out.Flush())
}

// prefixesText shows few prefixes as they are, and of many how many there are; -o json has them all.
func prefixesText(list []netip.Prefix) string {
	const most = 2
	if len(list) > most {
		return fmt.Sprintf("%d prefixes", len(list))
	}
	var texts []string
	for _, prefix := range list {
		texts = append(texts, prefix.String())
	}
	return strings.Join(texts, ",")
}
