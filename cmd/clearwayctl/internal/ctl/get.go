package ctl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
)

func (a *app) getCommand() *cobra.Command {
	request := &clearwayv1.ListRequest{}
	cmd := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "Show resources of a kind, or one by name",
		Long: `Show resources of a kind, or one by name. Kinds are known in any case, in plural, and by short names:

` + view.KindNames() + `

-o json and -o yaml print one resource for a name, else {"items": [...]}; the result can be applied again.
A name that does not exist ends with exit code 3; a kind without resources is no error.`,
		Example: `  clearwayctl get pools
  clearwayctl get ippool pods -o yaml
  clearwayctl get nodes -l rack=r1 -o wide
  clearwayctl get blocks --node node1`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name, err := named(args)
			if err != nil {
				return err
			}
			request.Kind, request.Name = kind, name
			return a.list(cmd, request)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&request.LabelSelector, "selector", "l", "", "only those whose labels match: `k=v,k2!=v,k3 in (a,b)`")
	flags.StringVar(&request.Node, "node", "", "only those of node `NAME`")
	flags.StringVar(&request.Pool, "pool", "", "only those of pool `NAME`")
	flags.StringVar(&request.Address, "address", "", "only the Block, Assignment or Route that holds `ADDRESS`, or is this prefix")
	return cmd
}

// list makes one List call and prints its answer. What was asked for by name, or is one prefix, must exist.
func (a *app) list(cmd *cobra.Command, request *clearwayv1.ListRequest) error {
	return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
		objects, warnings, err := calls.List(ctx, request)
		if err != nil {
			return err
		}
		return a.show(cmd, request, objects, warnings)
	})
}

// show prints the answer to a List call.
func (a *app) show(
	cmd *cobra.Command, request *clearwayv1.ListRequest, objects []clearwayv1.Object, warnings []string,
) error {
	if len(objects) == 0 && len(warnings) == 0 && request.Name+request.Address != "" {
		return missing(request.Kind, request.Name+request.Address)
	}
	err := a.print(cmd, request.Kind, objects, request.Name != "")
	return errors.Join(err, warn(cmd, warnings))
}

func missing(kind, name string) error {
	return daemon.Exit(daemon.ExitNotFound, fmt.Errorf("there is no %s %q", kind, name))
}

// named reads KIND, KIND NAME or KIND/NAME.
func named(args []string) (kind, name string, err error) {
	kind = args[0]
	if before, after, found := strings.Cut(kind, "/"); found {
		if len(args) > 1 || after == "" {
			return "", "", daemon.Usage("%q and a further name: write KIND NAME or KIND/NAME", kind)
		}
		kind, name = before, after
	} else if len(args) > 1 {
		name = args[1]
	}
	if kind, err = view.Kind(kind); err != nil {
		return "", "", daemon.Exit(daemon.ExitUsage, err)
	}
	return kind, name, nil
}

// one reads the arguments of a command that is about one resource.
func one(args []string) (kind, name string, err error) {
	kind, name, err = named(args)
	if err == nil && name == "" {
		err = daemon.Usage("a name is wanted: %s NAME", strings.ToLower(kind))
	}
	return kind, name, err
}

func completeKinds(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var kinds []cobra.Completion
	for _, kind := range clearwayv1.Kinds() {
		kinds = append(kinds, strings.ToLower(kind)+"s")
	}
	return kinds, cobra.ShellCompDirectiveNoFileComp
}
