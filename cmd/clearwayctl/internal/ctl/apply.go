package ctl

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/clearway/clearway/bgp/plan"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

func (a *app) applyCommand() *cobra.Command {
	var files []string
	var dryRun, planFirst bool
	var limits plan.Limits
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Create or change resources: all that the files hold, or, when any is refused, none",
		Long: `Create or change resources: all that the files hold, or, when any is refused, none.

Up to 100 at once. A file is YAML (several documents are separated by ---) or JSON. It is checked strictly: unknown fields, wrong types and
bad values are told with file, line and column, all at once. What the server sets (status, metadata.uid, generation,
creationTimestamp) is left aside, so the output of get -o yaml can be edited and applied. A metadata.resourceVersion is
kept: the apply is refused when the resource has changed since it was read; take it out to apply regardless.

With --plan it first shows what would become of BGP on every node, as the command plan does, and applies only when no session
would go or begin anew and no limit would be passed; else nothing is changed, and the exit code is 4.`,
		Example: `  clearwayctl apply -f pools.yaml -f peers/
  clearwayctl apply -f pools.yaml --dry-run
  clearwayctl get pools -o yaml | sed s/r1/r2/ | clearwayctl apply -f -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := readFiles(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			if len(items) > clearwayv1.MaxApply {
				return fmt.Errorf("nothing was done: %d resources are more than the %d that one apply takes, all or none; "+
					"split them into several files, and apply one after the other", len(items), clearwayv1.MaxApply)
			}
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				if planFirst {
					if err := a.planFirst(ctx, cmd, calls, items, limits); err != nil {
						return err
					}
				}
				return a.apply(ctx, cmd, calls, items, dryRun)
			})
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, filesHelp)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "let the server check and answer, and change nothing")
	cmd.Flags().BoolVar(&planFirst, "plan", false, "show what would become of BGP first, and apply only when nothing would be disturbed")
	addPlanFlags(cmd, &limits)
	_ = cmd.MarkFlagRequired("filename")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	return cmd
}

// planFirst shows the plan beside what apply itself answers, and is the refusal when the plan disturbs anything.
func (a *app) planFirst(ctx context.Context, cmd *cobra.Command, calls *client.Client, items []manifest.Item, limits plan.Limits) error {
	foretold, err := a.foretell(ctx, calls, items, limits)
	if err != nil {
		return err
	}
	table := *a
	table.output = "table"
	if err := table.printPlan(cmd, cmd.ErrOrStderr(), foretold); err != nil {
		return err
	}
	if foretold.Disturbs() {
		return daemon.Exit(daemon.ExitNo, errors.New("nothing was changed: the plan above disturbs sessions; apply without --plan to do it all the same"))
	}
	return nil
}

func (a *app) apply(
	ctx context.Context, cmd *cobra.Command, calls *client.Client, items []manifest.Item, dryRun bool,
) error {
	results, err := calls.Apply(ctx, &clearwayv1.ApplyRequest{
		Resources: resources(items), DryRun: dryRun, RequestKey: uuid.NewString(),
	})
	if err != nil {
		return refused(err, items)
	}
	for i, result := range results {
		for _, warning := range result.GetWarnings() {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s: %s\n", view.Lower(items[i].Object), warning)
		}
	}
	if _, structured := a.structured(); structured {
		var objects []clearwayv1.Object
		for _, result := range results {
			objects = append(objects, result.GetResource().Object())
		}
		return a.print(cmd, "", objects, len(objects) == 1)
	}
	for i, result := range results {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s%s\n", view.Lower(items[i].Object), action(result.GetAction()), dry(dryRun))
	}
	return nil
}

func action(done clearwayv1.ApplyResult_Action) string {
	switch done {
	case clearwayv1.ApplyResult_ACTION_CREATED:
		return "created"
	case clearwayv1.ApplyResult_ACTION_CONFIGURED:
		return "configured"
	case clearwayv1.ApplyResult_ACTION_UNCHANGED:
		return "unchanged"
	}
	return "applied"
}

func dry(run bool) string {
	if run {
		return " (dry run)"
	}
	return ""
}

// refused says that nothing was changed, and, for each fault, where in the files it stands.
func refused(err error, items []manifest.Item) error {
	var known *client.Error
	if !errors.As(err, &known) {
		return err
	}
	if known.Code == codes.Aborted {
		return fmt.Errorf("nothing was changed: %w; read the resource again, or take metadata.resourceVersion out", err)
	}
	if len(known.Violations) == 0 {
		return err
	}
	var faults manifest.Faults
	for _, violation := range known.Violations {
		if index := int(violation.GetIndex()); index >= 0 && index < len(items) {
			faults = append(faults, items[index].Fault(violation.GetField(), violation.Sentence()))
		}
	}
	if len(faults) != len(known.Violations) {
		return fmt.Errorf("nothing was changed:\n%w", err)
	}
	return daemon.Exit(daemon.ExitFailed, fmt.Errorf("nothing was changed:\n%w", faults))
}
