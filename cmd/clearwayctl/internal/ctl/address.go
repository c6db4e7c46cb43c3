package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

// showAddress tells what an address belongs to. In no pool is "not found".
func (a *app) showAddress(ctx context.Context, cmd *cobra.Command, calls *client.Client, text string) error {
	address, err := netip.ParseAddr(text)
	if err != nil || address.Zone() != "" {
		return daemon.Usage("--ip %q is no IP address", text)
	}
	answer, err := askAddress(ctx, calls, address.Unmap().String())
	if err != nil {
		return err
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	format, structured := a.structured()
	switch {
	case structured:
		err = manifest.Write(out, format, answer)
	case answer.GetState() == "Outside":
		return daemon.Exit(daemon.ExitNotFound, errors.New(outside(answer, address)))
	default:
		fmt.Fprintln(out, answer.GetSummary())
		answer.Summary = ""
		err = view.Message(out, answer, time.Now())
	}
	if err = errors.Join(err, out.Flush()); err == nil && answer.GetState() == "Outside" {
		err = daemon.Exit(daemon.ExitNotFound, nil)
	}
	return err
}

func outside(answer *clearwayv1.ShowAddressResponse, address netip.Addr) string {
	if answer.GetSummary() != "" {
		return answer.GetSummary()
	}
	return fmt.Sprintf("%s is in no pool", address)
}

// askAddress asks ipamd, or makes the answer from what an agent has.
func askAddress(ctx context.Context, calls *client.Client, address string) (*clearwayv1.ShowAddressResponse, error) {
	answer, err := calls.ShowAddress(ctx, address)
	if !calls.Local() || !client.IsCode(err, codes.Unimplemented) {
		return answer, err
	}
	block, err := first[*clearwayv1.Block](ctx, calls, &clearwayv1.ListRequest{Kind: "Block", Address: address})
	if err != nil {
		return nil, err
	}
	if block == nil {
		return &clearwayv1.ShowAddressResponse{State: "Outside", Summary: address + " is in no block of this node"}, nil
	}
	held, err := first[*clearwayv1.Assignment](ctx, calls, &clearwayv1.ListRequest{Kind: "Assignment", Address: address})
	if err != nil {
		return nil, err
	}
	if held == nil {
		return &clearwayv1.ShowAddressResponse{
			State: "Free", Block: block, Summary: fmt.Sprintf("%s is assigned to nobody, in this node's block %s",
				address, block.GetSpec().GetCidr()),
		}, nil
	}
	return &clearwayv1.ShowAddressResponse{
		State: "Assigned", Block: block, Assignment: held,
		Summary: fmt.Sprintf("%s is held by Pod %s/%s on this node", address,
			held.GetSpec().GetPod().GetNamespace(), held.GetSpec().GetPod().GetName()),
	}, nil
}

// first returns the first of what is listed, or nil.
func first[T clearwayv1.Object](ctx context.Context, calls *client.Client, request *clearwayv1.ListRequest) (T, error) {
	var none T
	objects, _, err := calls.List(ctx, request)
	if err != nil || len(objects) == 0 {
		return none, err
	}
	typed, ok := objects[0].(T)
	if !ok {
		return none, fmt.Errorf("the server answered with a %s where a %s was asked for", objects[0].GetKind(), request.Kind)
	}
	return typed, nil
}
