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
}

func (a *app) deleteCommand() *cobra.Command {
	var how deletion
	cmd := &cobra.Command{
		Use:   "delete KIND NAME | delete -f FILE",
		Short: "Delete a resource, or all that the files name",
		Long: `Delete a resource, or all that the files name, the last one first. Each is deleted by itself: one that is still
in use is refused, and the others go on.`,
		Example: `  clearwayctl delete ippool pods
  clearwayctl delete -f pools.yaml --ignore-not-found
  clearwayctl delete node node7 --powered-off`,
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: completeKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			requests, err := how.requests(cmd, args)
			if err != nil {
				return err
			}
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				return how.run(ctx, cmd, calls, requests)
			})
		},
	}
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

func (d *deletion) run(
	ctx context.Context, cmd *cobra.Command, calls *client.Client, requests []*clearwayv1.DeleteRequest,
) error {
	var failures []error
	absent := 0
	for _, request := range requests {
		name := view.Lower(placeholder(request))
		switch err := calls.Delete(ctx, request); {
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
		return daemon.Exit(daemon.ExitFailed, errors.Join(failures...))
	}
	return errors.Join(failures...) // none, or each is not found
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
