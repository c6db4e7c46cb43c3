package ctl

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/proto/clearway/v1"
)

// draining moves traffic away from a node, or from some of its sessions. The Node keeps it, so that it outlives the agent.
type draining struct {
	*app
	node    string
	peers   []string
	prepend int32
	now     bool
	wait    bool
}

func (a *app) nodeDrainCommand() *cobra.Command {
	d := &draining{app: a}
	cmd := &cobra.Command{
		Use:   "drain NAME",
		Short: "Move traffic away from a node, or from a way to it, before it is taken down",
		Long: `Move traffic away from a node before it is taken down. Its prefixes are told with the community GRACEFUL_SHUTDOWN
(RFC 8326) and as the last choice; when the node has forwarded at most 10 packets a second for 5 s, they are withdrawn.
Its Pods are to be moved away first: their traffic knows no other way.

With --peer only the sessions of that BGPPeer are drained, in both directions, for a node that has another way: then
their links may carry at most 50 packets a second.

The Node keeps the drain (spec.drain): an agent that restarts goes on with it. With --wait the exit code is 0 when
everything is withdrawn, and 4 when --timeout is over before. --now withdraws whatever flows. "node undrain" ends it.`,
		Example: `  clearwayctl node drain node7 --wait --timeout 10m && ssh node7 reboot
  clearwayctl node drain node7 --peer tor1 --wait
  clearwayctl node undrain node7`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d.node = args[0]
			slices.Sort(d.peers)
			d.peers = slices.Compact(d.peers)
			return d.run(cmd)
		},
	}
	cmd.Flags().StringSliceVar(&d.peers, "peer", nil, "only the sessions of BGPPeer `NAME`; may be given several times")
	cmd.Flags().Int32Var(&d.prepend, "prepend", 0, "put our AS number `N` times more on the AS path, for routers that do not know the community; 0 to 10")
	cmd.Flags().BoolVar(&d.now, "now", false, "withdraw at once, whatever flows")
	cmd.Flags().BoolVar(&d.wait, "wait", false, waitHelp)
	return cmd
}

func (a *app) nodeUndrainCommand() *cobra.Command {
	d := &draining{app: a}
	cmd := &cobra.Command{
		Use:     "undrain NAME",
		Short:   "End a node's drain: everything is told as usual again",
		Example: `  clearwayctl node undrain node7 --wait`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d.node = args[0]
			return d.callWaiting(cmd, func(ctx context.Context, calls *client.Client) error {
				return d.undrain(ctx, cmd, calls)
			})
		},
	}
	cmd.Flags().BoolVar(&d.wait, "wait", false, waitHelp)
	return cmd
}

func (d *draining) run(cmd *cobra.Command) error {
	wanted := &clearwayv1.Drain{Peers: d.peers, Prepend: d.prepend, Withdraw: d.now}
	return d.callWaiting(cmd, func(ctx context.Context, calls *client.Client) error {
		generation, err := d.order(ctx, calls, func(drain *clearwayv1.Drain) *clearwayv1.Drain {
			if drain.GetWithdraw() && slices.Equal(drain.GetPeers(), wanted.GetPeers()) {
				wanted.Withdraw = true // it is done already
			}
			return wanted
		})
		if err != nil {
			return err
		}
		if !d.wait {
			d.say(cmd, "drain ordered")
			return nil
		}
		if err := d.follow(ctx, cmd, calls, generation); err != nil {
			return err
		}
		// From here on the drain is done in the store as well, so that an agent that is started anew withholds from its first word.
		_, err = d.order(ctx, calls, func(drain *clearwayv1.Drain) *clearwayv1.Drain {
			if drain != nil {
				drain.Withdraw = true
			}
			return drain
		})
		if err != nil {
			return err
		}
		if len(d.peers) > 0 {
			d.say(cmd, "drained of "+strings.Join(d.peers, ", ")+": safe to take that way down")
		} else {
			d.say(cmd, "drained: safe to reboot")
		}
		return nil
	})
}

func (d *draining) say(cmd *cobra.Command, what string) {
	fmt.Fprintf(cmd.OutOrStdout(), "node/%s %s\n", d.node, what)
}

// order changes the node's drain, and tells which generation of the Node has it.
func (d *draining) order(ctx context.Context, calls *client.Client, change func(*clearwayv1.Drain) *clearwayv1.Drain) (int64, error) {
	round, cancel := d.asking(ctx)
	defer cancel()
	for range maxTries {
		node, err := d.read(round, calls)
		if err != nil {
			return 0, err
		}
		changed := change(proto.CloneOf(node.GetSpec().GetDrain()))
		if proto.Equal(changed, node.GetSpec().GetDrain()) {
			return node.GetMetadata().GetGeneration(), nil
		}
		if node.Spec == nil {
			node.Spec = &clearwayv1.NodeSpec{}
		}
		node.Spec.Drain = changed
		answer, err := calls.Apply(round, &clearwayv1.ApplyRequest{
			Resources: []*clearwayv1.Resource{clearwayv1.Wrap(node)}, RequestKey: uuid.NewString(),
		})
		switch {
		case client.IsCode(err, codes.Aborted):
			continue
		case err != nil:
			return 0, err
		}
		return answer[0].GetResource().GetNode().GetMetadata().GetGeneration(), nil
	}
	return 0, fmt.Errorf("node/%s is changed by others again and again; try later", d.node)
}

func (d *draining) read(ctx context.Context, calls *client.Client) (*clearwayv1.Node, error) {
	node, err := first[*clearwayv1.Node](ctx, calls, &clearwayv1.ListRequest{Kind: "Node", Name: d.node})
	if err == nil && node == nil {
		err = missing("Node", d.node)
	}
	return node, err
}

// follow tells each change until everything is withdrawn.
func (d *draining) follow(ctx context.Context, cmd *cobra.Command, calls *client.Client, generation int64) error {
	last := ""
	return d.poll(ctx, func(ctx context.Context) (bool, error) {
		node, err := d.read(ctx, calls)
		if err != nil {
			return false, err
		}
		if node.GetSpec().GetDrain() == nil {
			return false, fmt.Errorf("node/%s: somebody took the drain back", d.node)
		}
		status := node.GetStatus()
		now := "waits for the node's agent, which is " + strings.ToLower(status.GetPhase())
		if status.GetDrainGeneration() >= generation && status.GetDrain() != "" {
			now = strings.ToLower(status.GetDrain()) + ": " + status.GetDrainReason()
			if status.GetDrain() == "Drained" {
				return true, nil
			}
		}
		if now != last {
			d.say(cmd, now)
			last = now
		}
		return false, nil
	})
}

func (d *draining) undrain(ctx context.Context, cmd *cobra.Command, calls *client.Client) error {
	generation, err := d.order(ctx, calls, func(*clearwayv1.Drain) *clearwayv1.Drain { return nil })
	if err != nil {
		return err
	}
	if d.wait {
		err = d.poll(ctx, func(ctx context.Context) (bool, error) {
			node, err := d.read(ctx, calls)
			return err == nil && node.GetStatus().GetDrainGeneration() >= generation && node.GetStatus().GetDrain() == "", err
		})
		if err != nil {
			return err
		}
	}
	d.say(cmd, "is not drained")
	return nil
}
