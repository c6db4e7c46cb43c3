package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/bgp/trace"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
)

// traceTime is the least time that a trace gets: it asks every node, each of which has five seconds.
const traceTime = 30 * time.Second

func (a *app) bgpTraceCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "trace PREFIX|ADDRESS",
		Short: "Follow a block from its owner to all kernels, and say where the chain breaks",
		Long: `Follow a block from its owner to the kernels of all nodes: who owns it by etcd, whom the owner tells, who hears of it
from whom, which rule took or refused it, what was chosen, and which kernels have it. The kernels themselves are looked into.
The last line says the first place where the chain breaks, or that it is whole.

Exit codes: 0 the chain is whole; 1 nodes did not answer (each is named); 3 the address is in no pool; 4 the chain breaks.`,
		Example: `  clearwayctl bgp trace 10.244.3.7
  clearwayctl bgp trace 10.244.3.0/26 -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := targetOf(args[0])
			if err != nil {
				return err
			}
			if a.socket != "" {
				return daemon.Usage("a trace is of all nodes, so it asks ipamd: leave --socket out")
			}
			a.timeout = max(a.timeout, traceTime)
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				in, warnings, err := traceInput(ctx, calls, target)
				if err != nil {
					return err
				}
				return a.printTrace(cmd, trace.Follow(in), warnings)
			})
		},
	}
}

// targetOf reads an address, or a prefix in its own form.
func targetOf(text string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(text); err == nil && address.Zone() == "" {
		address = address.Unmap()
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, daemon.Usage("%q is neither an address nor a prefix: write it as 10.244.3.7 or 10.244.3.0/26", text)
	}
	if prefix != prefix.Masked() {
		return netip.Prefix{}, daemon.Usage("%q has host bits set; the prefix is %s", text, prefix.Masked())
	}
	return prefix, nil
}

// traceInput asks ipamd, and through it every node.
func traceInput(ctx context.Context, calls *client.Client, target netip.Prefix) (trace.Input, []string, error) {
	in := trace.Input{Target: target, Silent: map[string]string{}}
	first := target.Addr().String()
	var warnings []string
	for _, request := range []*clearwayv1.ListRequest{
		{Kind: "IPPool"}, {Kind: "Block", Address: first}, {Kind: "Assignment", Address: first}, {Kind: "Node"}, {Kind: "BGPSession"},
		{Kind: "Route", Address: first, Kernel: true},
	} {
		objects, missing, err := calls.List(ctx, request)
		if err != nil {
			return in, nil, err
		}
		if len(objects) == 0 && request.GetKind() == "Block" && !target.IsSingleIP() {
			if objects, _, err = calls.List(ctx, &clearwayv1.ListRequest{Kind: "Block"}); err != nil { // parts of what is asked for
				return in, nil, err
			}
		}
		warnings = append(warnings, missing...)
		addInput(&in, objects)
	}
	for _, warning := range warnings {
		if node, why, found := strings.Cut(strings.TrimPrefix(warning, "node "), ": "); found {
			in.Silent[node] = why
		}
	}
	return in, warnings, nil
}

func addInput(in *trace.Input, objects []clearwayv1.Object) {
	for _, object := range objects {
		switch object := object.(type) {
		case *clearwayv1.IPPool:
			in.Pools = append(in.Pools, object)
		case *clearwayv1.Block:
			in.Blocks = append(in.Blocks, object)
		case *clearwayv1.Assignment:
			if in.Target.IsSingleIP() {
				in.Holder = object.GetSpec()
			}
		case *clearwayv1.Node:
			in.Nodes = append(in.Nodes, object)
		case *clearwayv1.BGPSession:
			in.Sessions = append(in.Sessions, object)
		case *clearwayv1.Route:
			in.Routes = append(in.Routes, object)
		}
	}
}

func (a *app) printTrace(cmd *cobra.Command, found trace.Trace, warnings []string) error {
	var err error
	if _, structured := a.structured(); structured {
		err = a.printValue(cmd, found)
	} else {
		out := bufio.NewWriter(cmd.OutOrStdout())
		var rows [][]string
		for _, step := range found.Steps {
			state := step.State
			if step.Best {
				state += ", chosen"
			}
			rows = append(rows, []string{step.Step, step.Node, step.Peer, state, step.Detail})
		}
		if len(rows) > 0 {
			err = view.Rows(out, a.style(), []string{"STEP", "NODE", "PEER", "STATE", "DETAIL"}, rows)
		}
		for _, note := range found.Notes {
			fmt.Fprintf(out, "note: %s\n", note)
		}
		fmt.Fprintln(out, found.Summary)
		err = errors.Join(err, out.Flush())
	}
	incomplete := warn(cmd, warnings)
	switch {
	case err != nil:
		return err
	case found.Break == nil:
		return incomplete
	case found.Break.Reason == trace.OutsidePools:
		return daemon.Exit(daemon.ExitNotFound, nil)
	}
	return daemon.Exit(daemon.ExitNo, nil)
}
