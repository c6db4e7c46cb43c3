package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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
	// Addresses in owned blocks, and those of them that are assigned and that rest.
	Addresses int64      `json:"addresses"`
	Assigned  int64      `json:"assigned"`
	Cooling   int64      `json:"cooling"`
	Nodes     []*nodeUse `json:"nodes"`

	byNode map[string]*nodeUse // the same
}

// nodeUse is a node's part in a pool.
type nodeUse struct {
	Node      string `json:"node"`
	Blocks    int64  `json:"blocks"`
	Addresses int64  `json:"addresses"`
	Assigned  int64  `json:"assigned"`
	Cooling   int64  `json:"cooling"`
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
	if node == "" {
		return
	}
	use := p.byNode[node]
	if use == nil {
		use = &nodeUse{Node: node}
		p.byNode[node], p.Nodes = use, append(p.Nodes, use)
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
		free := view.Many(pool.FreeBlocks)
		if local {
			free = "" // only ipamd knows
		}
		pools = append(pools, []string{pool.Pool, pool.CIDR, text(pool.Blocks), free, text(pool.Addresses),
			text(pool.Assigned), text(pool.Cooling), percent(pool.Assigned, pool.Addresses)})
		for _, node := range pool.Nodes {
			nodes = append(nodes, []string{pool.Pool, node.Node, text(node.Blocks), text(node.Addresses),
				text(node.Assigned), text(node.Cooling), percent(node.Assigned, node.Addresses)})
		}
	}
	if len(pools) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "there are no ippools")
		return nil
	}
	err := view.Rows(out, a.style(),
		[]string{"POOL", "CIDR", "BLOCKS", "FREEBLOCKS", "ADDRESSES", "ASSIGNED", "COOLING", "USED"}, pools)
	if err == nil && len(nodes) > 0 {
		fmt.Fprintln(out)
		err = view.Rows(out, a.style(),
			[]string{"POOL", "NODE", "BLOCKS", "ADDRESSES", "ASSIGNED", "COOLING", "USED"}, nodes)
	}
	return errors.Join(err, out.Flush())
}

func text(value int64) string { return strconv.FormatInt(value, 10) }

func percent(part, whole int64) string {
	if whole == 0 {
		return ""
	}
	return fmt.Sprintf("%d%%", part*100/whole)
}
