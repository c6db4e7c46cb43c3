package ctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
)

const poweredOffHelp = "the node's machine is off and will not come back with its Pods: give its blocks on after the cooldown"

// deletion is what the flags of a delete say.
type deletion struct {
	files          []string
	poweredOff     bool
	ignoreNotFound bool
	wait           bool
}

func (a *app) deleteCommand() *cobra.Command {
	var how deletion
	cmd := &cobra.Command{
		Use:   "delete KIND NAME | delete -f FILE",
		Short: "Delete a resource, or all that the files name",
		Long: `Delete a resource, or all that the files name, the last one first. Each is deleted by itself: one that is still
in use is refused, and the others go on. An IPPool of which nodes have blocks is drained: it gives no new address, and is
gone when its last block came back. Applying it anew before that takes the deletion back.`,
		Example: `  clearwayctl delete ippool pods
  clearwayctl delete ippool pods --wait --timeout 10m
  clearwayctl delete -f pools.yaml --ignore-not-found
  clearwayctl delete node node7 --powered-off`,
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: completeKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			requests, err := how.requests(cmd, args)
			if err != nil {
				return err
			}
			if how.wait {
				return a.callWaiting(cmd, func(ctx context.Context, calls *client.Client) error {
					return how.runAndWait(ctx, a, cmd, calls, requests)
				})
			}
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				_, err := how.run(ctx, cmd, calls, requests)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&how.wait, "wait", false, waitHelp)
	cmd.Flags().StringArrayVarP(&how.files, "filename", "f", nil, filesHelp)
	how.addFlags(cmd)
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	return cmd
}

func (d *deletion) addFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&d.poweredOff, "powered-off", false, poweredOffHelp)
	cmd.Flags().BoolVar(&d.ignoreNotFound, "ignore-not-found", false, "what does not exist is no error")
}

func (d *deletion) requests(cmd *cobra.Command, args []string) ([]*clearwayv1.DeleteRequest, error) {
	var requests []*clearwayv1.DeleteRequest
	switch {
	case len(d.files) > 0 && len(args) > 0:
		return nil, daemon.Usage("give KIND NAME or -f FILE, not both")
	case len(d.files) == 0 && len(args) == 0:
		return nil, daemon.Usage("what to delete is not said: give KIND NAME or -f FILE")
	case len(args) > 0:
		kind, name, err := one(args)
		if err != nil {
			return nil, err
		}
		requests = append(requests, &clearwayv1.DeleteRequest{Kind: kind, Name: name})
	default:
		items, err := readFiles(d.files, cmd.InOrStdin())
		if err != nil {
			return nil, err
		}
		for _, item := range slices.Backward(items) {
			requests = append(requests, &clearwayv1.DeleteRequest{
				Kind: item.Object.GetKind(), Name: item.Object.GetMetadata().GetName(),
			})
		}
	}
	return requests, d.complete(requests)
}

// complete fills in what all requests have, and refuses --powered-off for what has no power switch.
func (d *deletion) complete(requests []*clearwayv1.DeleteRequest) error {
	for _, request := range requests {
		if d.poweredOff && request.Kind != "Node" {
			return daemon.Usage("--powered-off is about nodes, not %s", view.Lower(placeholder(request)))
		}
		request.PoweredOff, request.RequestKey = d.poweredOff, uuid.NewString()
	}
	return nil
}

// runAndWait is run, and waits until what is drained is gone.
func (d *deletion) runAndWait(
	ctx context.Context, a *app, cmd *cobra.Command, calls *client.Client, requests []*clearwayv1.DeleteRequest,
) error {
	round, cancel := a.asking(ctx)
	draining, err := d.run(round, cmd, calls, requests)
	cancel()
	if err != nil || len(draining) == 0 {
		return err
	}
	said := map[string]string{}
	return a.poll(ctx, func(ctx context.Context) (bool, error) {
		for i := len(draining) - 1; i >= 0; i-- {
			request := draining[i]
			left, _, err := calls.List(ctx, &clearwayv1.ListRequest{Kind: request.Kind, Name: request.Name})
			if err != nil {
				return false, err
			}
			name := view.Lower(placeholder(request))
			switch {
			case len(left) == 0:
				fmt.Fprintf(cmd.OutOrStdout(), "%s deleted\n", name)
				draining = slices.Delete(draining, i, i+1)
			case left[0].GetMetadata().GetDeletionTimestamp() == nil:
				return false, fmt.Errorf("%s: it was applied anew, and is no longer being deleted", name)
			case said[name] != remains(left[0]):
				said[name] = remains(left[0])
				fmt.Fprintf(cmd.OutOrStdout(), "%s draining: %s\n", name, said[name])
			}
		}
		return len(draining) == 0, nil
	})
}

// remains tells what of a resource that is drained is still there.
func remains(object clearwayv1.Object) string {
	pool, _ := object.(*clearwayv1.IPPool)
	for _, condition := range pool.GetStatus().GetConditions() {
		if condition.GetType() == "Drained" {
			return condition.GetMessage()
		}
	}
	return "it is still in use"
}

// run deletes, and returns the requests of which something is still there, drained.
func (d *deletion) run(
	ctx context.Context, cmd *cobra.Command, calls *client.Client, requests []*clearwayv1.DeleteRequest,
) (draining []*clearwayv1.DeleteRequest, err error) {
	var failures []error
	absent := 0
	for _, request := range requests {
		name := view.Lower(placeholder(request))
		switch left, err := calls.Delete(ctx, request); {
		case err == nil && left != nil:
			draining = append(draining, request)
			if !d.wait {
				fmt.Fprintf(cmd.OutOrStdout(), "%s draining: %s; it is gone when its last block came back\n", name, remains(left))
			}
		case err == nil:
			fmt.Fprintf(cmd.OutOrStdout(), "%s deleted\n", name)
		case client.IsCode(err, codes.NotFound) && d.ignoreNotFound:
		default:
			if client.IsCode(err, codes.NotFound) {
				absent++
			}
			failures = append(failures, fmt.Errorf("%s: %w", name, err))
		}
	}
	if absent < len(failures) {
		return draining, daemon.Exit(daemon.ExitFailed, errors.Join(failures...))
	}
	return draining, errors.Join(failures...) // none, or each is not found
}

// placeholder is an object with a request's kind and name, for messages.
func placeholder(request *clearwayv1.DeleteRequest) clearwayv1.Object {
	object, err := clearwayv1.New(strings.ToLower(request.Kind))
	if err != nil {
		panic(err) // kinds were checked when the arguments were read
	}
	object.GetMetadata().Name = request.Name
	return object
}
