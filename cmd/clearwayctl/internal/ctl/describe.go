package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/proto/clearway/v1"
)

func (a *app) describeCommand() *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:   "describe KIND NAME",
		Short: "Tell all about one resource: settings, status, conditions and events",
		Example: `  clearwayctl describe node node1
  clearwayctl describe pool pods`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name, err := one(args)
			if err != nil {
				return err
			}
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				return a.describe(ctx, cmd, calls, &clearwayv1.ListRequest{Kind: kind, Name: name, Node: node})
			})
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "only of node `NAME` (a Route's name is the same on every node)")
	return cmd
}

func (a *app) describe(ctx context.Context, cmd *cobra.Command, calls *client.Client, request *clearwayv1.ListRequest) error {
	objects, warnings, err := calls.List(ctx, request)
	if err != nil {
		return err
	}
	if _, structured := a.structured(); structured || len(objects) == 0 {
		return a.show(cmd, request, objects, warnings)
	}
	events, err := allEvents(ctx, calls)
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("events: %v", err))
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	for i, object := range view.Sorted(objects) {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if err := view.Describe(out, object, regarding(events, clearwayv1.KeyOf(object)), time.Now()); err != nil {
			return err
		}
	}
	return errors.Join(out.Flush(), warn(cmd, warnings))
}

// allEvents lists the events; an agent keeps none.
func allEvents(ctx context.Context, calls *client.Client) ([]clearwayv1.Object, error) {
	if calls.Local() {
		return nil, nil
	}
	events, _, err := calls.List(ctx, &clearwayv1.ListRequest{Kind: "Event"})
	if client.IsCode(err, codes.Unimplemented) {
		return nil, nil
	}
	return events, err
}

// regarding picks the events about one resource.
func regarding(events []clearwayv1.Object, key string) []*clearwayv1.Event {
	var about []*clearwayv1.Event
	for _, object := range events {
		if event, ok := object.(*clearwayv1.Event); ok && event.GetSpec().GetRegarding() == key {
			about = append(about, event)
		}
	}
	return about
}
