package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/proto/clearway/v1"
)

// poolUse is how a pool's addresses are used.
type poolUse struct {
	Pool string `json:"pool"`
	CIDR string `json:"cidr,omitempty"`
	// Blocks that somebody has or that rest, and how many of the pool's block size still fit.
	Blocks     int64 `json:"blocks"`
	FreeBlocks int64 `json:"freeBlocks"`
	// Addresses in owned blocks, and those of them that are assigned and that rest. Those of blocks that rest are in
	// Resting, of gone nodes in Orphaned.
	Addresses int64 `json:"addresses"`
	Assigned  int64 `json:"assigned"`
	Cooling   int64 `json:"cooling"`
	Resting   int64 `json:"resting"`
	Orphaned  int64 `json:"orphaned"`
	// Addresses in no block: to be had, and in pieces too small for a block.
	Free     int64 `json:"free"`
	Stranded int64 `json:"stranded"`
	// Addresses that nodes could do without, and that are called back when a Pod elsewhere waits.
	Callable int64      `json:"callable"`
	Nodes    []*nodeUse `json:"nodes"`

	byNode map[string]*nodeUse // the same
}

// nodeUse is a node's part in a pool.
type nodeUse struct {
	Node      string `json:"node"`
	Blocks    int64  `json:"blocks"`
	Addresses int64  `json:"addresses"`
	Assigned  int64  `json:"assigned"`
	Cooling   int64  `json:"cooling"`
	Orphaned  int64  `json:"orphaned"`
	Callable  int64  `json:"callable"`
}

// showUse shows the pools' use. An agent knows its own blocks only: then they are all there is to show.
func (a *app) showUse(ctx context.Context, cmd *cobra.Command, calls *client.Client, pool string) error {
	var pools []clearwayv1.Object
	var warnings []string
	if !calls.Local() {
		var err error
		if pools, warnings, err = calls.List(ctx, &clearwayv1.ListRequest{Kind: "IPPool", Name: pool}); err != nil {
			return err
		}
		if pool != "" && len(pools) == 0 {
			return missing("IPPool", pool)
		}
	}
	blocks, more, err := calls.List(ctx, &clearwayv1.ListRequest{Kind: "Block", Pool: pool})
	if err != nil {
		return err
	}
	use := usage(pools, blocks)
	if _, structured := a.structured(); structured {
		err = a.printValue(cmd, map[string]any{"items": use})
	} else {
		err = a.printUse(cmd, use, calls.Local())
		if pool != "" && len(use) == 1 && !calls.Local() && err == nil {
			fmt.Fprintln(cmd.OutOrStdout(), "\n"+use[0].sentence())
		}
	}
	return errors.Join(err, warn(cmd, append(warnings, more...)))
}

// usage adds the blocks up by pool and node. Pools that are gone but still have blocks are shown too.
func usage(pools, blocks []clearwayv1.Object) []*poolUse {
	byPool := map[string]*poolUse{}
	for _, object := range pools {
		if pool, ok := object.(*clearwayv1.IPPool); ok {
			status, name := pool.GetStatus(), pool.GetMetadata().GetName()
			use := newPoolUse(name)
			use.CIDR, use.FreeBlocks = pool.GetSpec().GetCidr(), status.GetFreeBlocks()
			use.Free, use.Stranded = status.GetFreeAddresses(), status.GetStrandedAddresses()
			byPool[name] = use
		}
	}
	for _, object := range blocks {
		if block, ok := object.(*clearwayv1.Block); ok {
			name := block.GetSpec().GetPool()
			if byPool[name] == nil {
				byPool[name] = newPoolUse(name)
			}
			byPool[name].add(block)
		}
	}
	all := make([]*poolUse, 0, len(byPool))
	for _, use := range byPool {
		slices.SortFunc(use.Nodes, func(a, b *nodeUse) int { return view.Natural(a.Node, b.Node) })
		all = append(all, use)
	}
	slices.SortFunc(all, func(a, b *poolUse) int { return view.Natural(a.Pool, b.Pool) })
	return all
}

func newPoolUse(name string) *poolUse {
	return &poolUse{Pool: name, Nodes: []*nodeUse{}, byNode: map[string]*nodeUse{}}
}

func (p *poolUse) add(block *clearwayv1.Block) {
	p.Blocks++
	node, status := block.GetSpec().GetNode(), block.GetStatus()
	switch block.GetSpec().GetState() {
	case clearwayv1.BlockState_BLOCK_STATE_COOLING: // nobody's, though its last owner is still named
		p.Resting += status.GetAddresses()
		return
	case clearwayv1.BlockState_BLOCK_STATE_ORPHANED:
		p.Orphaned += status.GetAddresses()
	}
	if node == "" {
		return
	}
	use := p.byNode[node]
	if use == nil {
		use = &nodeUse{Node: node}
		p.byNode[node], p.Nodes = use, append(p.Nodes, use)
	}
	if block.GetSpec().GetState() == clearwayv1.BlockState_BLOCK_STATE_ORPHANED {
		use.Orphaned += status.GetAddresses()
	}
	if callable, err := netip.ParsePrefix(status.GetCallable()); err == nil {
		count := addresses(callable)
		use.Callable, p.Callable = use.Callable+count, p.Callable+count
	}
	use.Blocks++
	use.Addresses += status.GetAddresses()
	use.Assigned += status.GetAssigned()
	use.Cooling += status.GetCooling()
	p.Addresses += status.GetAddresses()
	p.Assigned += status.GetAssigned()
	p.Cooling += status.GetCooling()
}

func (a *app) printUse(cmd *cobra.Command, use []*poolUse, local bool) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	var pools, nodes [][]string
	for _, pool := range use {
		known := []string{view.Many(pool.FreeBlocks), view.Many(pool.Free), text(pool.Callable), text(pool.Stranded)}
		if local {
			known = make([]string, len(known)) // only ipamd knows
		}
		pools = append(pools, []string{pool.Pool, pool.CIDR, text(pool.Blocks), known[0], text(pool.Addresses),
			text(pool.Assigned), text(pool.Cooling), percent(pool.Assigned, pool.Addresses),
			known[1], text(pool.Resting), text(pool.Orphaned), known[2], known[3]})
		for _, node := range pool.Nodes {
			nodes = append(nodes, []string{pool.Pool, node.Node, text(node.Blocks), text(node.Addresses),
				text(node.Assigned), text(node.Cooling), percent(node.Assigned, node.Addresses), text(node.Orphaned), text(node.Callable)})
		}
	}
	if len(pools) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "there are no ippools")
		return nil
	}
	err := view.Rows(out, a.style(),
		[]string{"POOL", "CIDR", "BLOCKS", "FREEBLOCKS", "ADDRESSES", "ASSIGNED", "COOLING", "USED",
			"FREE", "RESTING", "ORPHANED", "CALLABLE", "STRANDED"}, pools)
	if err == nil && len(nodes) > 0 {
		fmt.Fprintln(out)
		err = view.Rows(out, a.style(),
			[]string{"POOL", "NODE", "BLOCKS", "ADDRESSES", "ASSIGNED", "COOLING", "USED", "ORPHANED", "CALLABLE"}, nodes)
	}
	return errors.Join(err, out.Flush())
}

// sentence tells a pool's use, and so why a claim is refused.
func (p *poolUse) sentence() string {
	text := fmt.Sprintf("Pool %s (%s): %s addresses are in no block and can be claimed. Nodes have %d addresses in blocks, of which "+
		"%d are assigned and %d rest; %d could be called back from them for a Pod that waits. %d are in blocks that rest, %d in blocks "+
		"of nodes that are gone.", p.Pool, p.CIDR, view.Many(p.Free), p.Addresses, p.Assigned, p.Cooling, p.Callable, p.Resting, p.Orphaned)
	if p.Stranded > 0 {
		text += fmt.Sprintf(" %d are stranded in pieces smaller than the pool's smallest block.", p.Stranded)
	}
	return text
}

// addresses is how many there are in a prefix, at most 2^62.
func addresses(prefix netip.Prefix) int64 {
	return 1 << min(prefix.Addr().BitLen()-prefix.Bits(), 62)
}

func text(value int64) string { return strconv.FormatInt(value, 10) }

func percent(part, whole int64) string {
	if whole == 0 {
		return ""
	}
	return fmt.Sprintf("%d%%", part*100/whole)
}
