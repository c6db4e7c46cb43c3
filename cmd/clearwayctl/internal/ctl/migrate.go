package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
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

// migration moves Pods from one pool to another: the one is drained to the other, and Pods move as they are restarted.
type migration struct {
	*app
	from, to     string
	wait, cancel bool
}

func (a *app) ipamMigrateCommand() *cobra.Command {
	m := &migration{app: a}
	cmd := &cobra.Command{
		Use:   "migrate --from POOL --to POOL",
		Short: "Move Pods from one pool to another, and show what remains",
		Long: `Move Pods from one pool to another: the first is drained to the second (spec.drain, spec.drainTo). From then on it gives
no new address, who asks for it by name gets one of the second, and nodes give its blocks back as they empty. A Pod keeps
its address until it is restarted: the command restarts none, and shows which hold one still.

The pools keep how far it is, not this command: the same command again shows where it stands. --cancel takes it back.
Without --wait the exit code is 0 when the move has begun. With --wait it is 0 when no node has a block of the first pool
any more, and 4 when --timeout is over before.`,
		Example: `  clearwayctl ipam migrate --from pods --to pods2
  clearwayctl ipam migrate --from pods --to pods2 --wait --timeout 1h
  clearwayctl ipam migrate --from pods --cancel`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return m.run(cmd) },
	}
	cmd.Flags().StringVar(&m.from, "from", "", "pool `NAME` that is to be emptied")
	cmd.Flags().StringVar(&m.to, "to", "", "pool `NAME` that serves instead")
	cmd.Flags().BoolVar(&m.wait, "wait", false, waitHelp)
	cmd.Flags().BoolVar(&m.cancel, "cancel", false, "let the first pool give addresses again; who moved stays where it is")
	_ = cmd.MarkFlagRequired("from")
	cmd.MarkFlagsMutuallyExclusive("wait", "cancel")
	cmd.MarkFlagsMutuallyExclusive("to", "cancel")
	cmd.MarkFlagsOneRequired("to", "cancel")
	return cmd
}

func (m *migration) run(cmd *cobra.Command) error {
	if m.from == m.to {
		return daemon.Usage("--from and --to are both %q; name two pools", m.from)
	}
	return m.callWaiting(cmd, func(ctx context.Context, calls *client.Client) error {
		round, cancel := m.asking(ctx)
		defer cancel()
		if m.cancel {
			return m.takeBack(round, cmd, calls)
		}
		if err := m.begin(round, cmd, calls); err != nil {
			return err
		}
		if m.wait {
			return m.follow(ctx, cmd, calls)
		}
		left, err := m.look(round, calls)
		if err != nil {
			return err
		}
		return m.show(cmd, left)
	})
}

// maxTries bounds the race with others who change the pool.
const maxTries = 5

// begin drains the one pool to the other, if it is not so already.
func (m *migration) begin(ctx context.Context, cmd *cobra.Command, calls *client.Client) error {
	for range maxTries {
		from, err := readPool(ctx, calls, m.from)
		if err != nil {
			return err
		}
		to, err := readPool(ctx, calls, m.to)
		if err != nil {
			return err
		}
		if from.GetSpec().GetDrain() && from.GetSpec().GetDrainTo() == m.to {
			return nil
		}
		if err := check(from, to); err != nil {
			return err
		}
		if err := m.warnings(ctx, cmd, calls, from, to); err != nil {
			return err
		}
		from.Spec.Drain, from.Spec.DrainTo = true, m.to
		if err := applyPool(ctx, calls, from); !client.IsCode(err, codes.Aborted) {
			return err
		}
	}
	return fmt.Errorf("ippool/%s is changed by others again and again; try later", m.from)
}

// check refuses what would leave Pods without addresses. The rest ipamd refuses.
func check(from, to *clearwayv1.IPPool) error {
	name := to.GetMetadata().GetName()
	switch {
	case from.GetMetadata().GetDeletionTimestamp() != nil:
		return fmt.Errorf("ippool/%s is being deleted, which drains it; there is nothing to begin", from.GetMetadata().GetName())
	case from.GetSpec().GetDrainTo() != "":
		return fmt.Errorf("ippool/%s is drained to %s already; say --to %s, or --cancel first", from.GetMetadata().GetName(),
			from.GetSpec().GetDrainTo(), from.GetSpec().GetDrainTo())
	case to.GetStatus().GetPhase() != "Active":
		return fmt.Errorf("ippool/%s gives no addresses: its phase is %s", name, to.GetStatus().GetPhase())
	}
	return nil
}

// warnings tell what the pools' own fields will not tell: that the new one is small, or not for all nodes.
func (m *migration) warnings(ctx context.Context, cmd *cobra.Command, calls *client.Client, from, to *clearwayv1.IPPool) error {
	if need, room := from.GetStatus().GetAssigned(), roomIn(to); room < need {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: %d addresses are assigned in %s, and %s has room for about %d\n", need, m.from, m.to, room)
	}
	if len(to.GetSpec().GetNodeSelector().GetMatchLabels())+len(to.GetSpec().GetNodeSelector().GetMatchExpressions()) == 0 {
		return nil
	}
	selected, _, err := calls.List(ctx, &clearwayv1.ListRequest{Kind: "Node", LabelSelector: view.Selector(to.GetSpec().GetNodeSelector())})
	if err != nil {
		return err
	}
	left, err := m.look(ctx, calls)
	if err != nil {
		return err
	}
	for _, node := range left.Nodes {
		known := slices.ContainsFunc(selected, func(o clearwayv1.Object) bool { return o.GetMetadata().GetName() == node.Node })
		if node.Blocks > 0 && !known {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: node %s has blocks of %s, and the nodeSelector of %s does not take it\n", node.Node, m.from, m.to)
		}
	}
	return nil
}

// roomIn is about how many more addresses a pool can give, saturating.
func roomIn(pool *clearwayv1.IPPool) int64 {
	status := pool.GetStatus()
	free := status.GetBlockAddresses() - status.GetAssigned()
	family, size := int32(32), pool.GetSpec().GetBlockSize()
	if strings.Contains(pool.GetSpec().GetCidr(), ":") {
		family = 128
	}
	if size == 0 {
		size = family - 6 // the default of both
	}
	const plenty = 1 << 40
	if status.GetFreeBlocks() > plenty || family-size > 16 {
		return plenty
	}
	return free + status.GetFreeBlocks()<<(family-size)
}

func readPool(ctx context.Context, calls *client.Client, name string) (*clearwayv1.IPPool, error) {
	pool, err := first[*clearwayv1.IPPool](ctx, calls, &clearwayv1.ListRequest{Kind: "IPPool", Name: name})
	if err == nil && pool == nil {
		err = missing("IPPool", name)
	}
	return pool, err
}

// applyPool applies a pool as it was read and changed: codes.Aborted when somebody else was faster.
func applyPool(ctx context.Context, calls *client.Client, pool *clearwayv1.IPPool) error {
	_, err := calls.Apply(ctx, &clearwayv1.ApplyRequest{
		Resources: []*clearwayv1.Resource{clearwayv1.Wrap(pool)}, RequestKey: uuid.NewString(),
	})
	return err
}

// takeBack lets the drained pool give addresses again.
func (m *migration) takeBack(ctx context.Context, cmd *cobra.Command, calls *client.Client) error {
	for range maxTries {
		pool, err := readPool(ctx, calls, m.from)
		if err != nil {
			return err
		}
		if !pool.GetSpec().GetDrain() {
			fmt.Fprintf(cmd.OutOrStdout(), "ippool/%s is not drained\n", m.from)
			return nil
		}
		pool.Spec.Drain, pool.Spec.DrainTo = false, ""
		err = applyPool(ctx, calls, pool)
		if err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "ippool/%s is no longer drained\n", m.from)
		}
		if !client.IsCode(err, codes.Aborted) {
			return err
		}
	}
	return fmt.Errorf("ippool/%s is changed by others again and again; try later", m.from)
}

// remainder is what is left in the pool that is emptied.
type remainder struct {
	From      string          `json:"from"`
	To        string          `json:"to"`
	Done      bool            `json:"done"`
	Blocks    int64           `json:"blocks"`
	Addresses int64           `json:"addresses"`
	Nodes     []*nodeMove     `json:"nodes"`
	Pods      []remainingHold `json:"pods"`

	byNode map[string]*nodeMove // the same as Nodes
}

// nodeMove is one node's part: its blocks and addresses in the old pool, and its addresses in the new one.
type nodeMove struct {
	Node      string `json:"node"`
	Blocks    int64  `json:"blocks"`
	Addresses int64  `json:"addresses"`
	Moved     int64  `json:"addressesTo"`
}

type remainingHold struct {
	Address   string `json:"address"`
	Node      string `json:"node"`
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Container string `json:"container"`
}

// look adds up what is left.
func (m *migration) look(ctx context.Context, calls *client.Client) (*remainder, error) {
	left := &remainder{From: m.from, To: m.to, Nodes: []*nodeMove{}, Pods: []remainingHold{}, byNode: map[string]*nodeMove{}}
	blocks, _, err := calls.List(ctx, &clearwayv1.ListRequest{Kind: "Block", Pool: m.from})
	if err != nil {
		return nil, err
	}
	for _, object := range blocks {
		block, ok := object.(*clearwayv1.Block)
		if ok && block.GetSpec().GetState() != clearwayv1.BlockState_BLOCK_STATE_COOLING {
			left.Blocks++
			left.of(block.GetSpec().GetNode()).Blocks++
		}
	}
	if err := m.holders(ctx, calls, left); err != nil {
		return nil, err
	}
	slices.SortFunc(left.Nodes, func(a, b *nodeMove) int { return view.Natural(a.Node, b.Node) })
	left.Done = left.Blocks == 0 && left.Addresses == 0
	return left, nil
}

func (m *migration) holders(ctx context.Context, calls *client.Client, left *remainder) error {
	held, _, err := calls.List(ctx, &clearwayv1.ListRequest{Kind: "Assignment", Pool: m.from})
	if err != nil {
		return err
	}
	for _, object := range held {
		if one, ok := object.(*clearwayv1.Assignment); ok {
			spec := one.GetSpec()
			left.Addresses++
			left.of(spec.GetNode()).Addresses++
			left.Pods = append(left.Pods, remainingHold{
				spec.GetAddress(), spec.GetNode(), spec.GetPod().GetNamespace(), spec.GetPod().GetName(), spec.GetAttachment().GetContainerId(),
			})
		}
	}
	moved, _, err := calls.List(ctx, &clearwayv1.ListRequest{Kind: "Assignment", Pool: m.to})
	for _, object := range moved {
		if one, ok := object.(*clearwayv1.Assignment); ok {
			left.of(one.GetSpec().GetNode()).Moved++
		}
	}
	return err
}

func (r *remainder) of(node string) *nodeMove {
	if r.byNode[node] == nil {
		r.byNode[node] = &nodeMove{Node: node}
		r.Nodes = append(r.Nodes, r.byNode[node])
	}
	return r.byNode[node]
}

func (r *remainder) String() string {
	if r.Done {
		return fmt.Sprintf("ippool/%s is empty: no node has a block of it. \"clearwayctl delete ippool %s\" removes it", r.From, r.From)
	}
	return fmt.Sprintf("ippool/%s: %d addresses in %d blocks remain", r.From, r.Addresses, r.Blocks)
}

// follow tells each change until nothing is left.
func (m *migration) follow(ctx context.Context, cmd *cobra.Command, calls *client.Client) error {
	var last *remainder
	_, structured := m.structured()
	err := m.poll(ctx, func(ctx context.Context) (bool, error) {
		pool, err := readPool(ctx, calls, m.from)
		if err == nil && !pool.GetSpec().GetDrain() {
			err = fmt.Errorf("ippool/%s: somebody took the drain back", m.from)
		}
		if err != nil {
			return false, err
		}
		left, err := m.look(ctx, calls)
		if err != nil {
			return false, err
		}
		if !structured && (last == nil || left.String() != last.String()) {
			fmt.Fprintln(cmd.OutOrStdout(), left)
		}
		last = left
		return left.Done, nil
	})
	if last == nil || last.Done && !structured {
		return err
	}
	return errors.Join(err, m.show(cmd, last))
}

// show is the whole of what is left.
func (m *migration) show(cmd *cobra.Command, left *remainder) error {
	if _, structured := m.structured(); structured {
		return m.printValue(cmd, left)
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	fmt.Fprintln(out, left)
	var err error
	if len(left.Nodes) > 0 {
		var rows [][]string
		for _, node := range left.Nodes {
			rows = append(rows, []string{node.Node, text(node.Blocks), text(node.Addresses), text(node.Moved)})
		}
		fmt.Fprintln(out)
		err = view.Rows(out, m.style(), []string{"NODE", "BLOCKS", "REMAIN", "MOVED"}, rows)
	}
	if err == nil && len(left.Pods) > 0 {
		err = m.showPods(out, left.Pods)
	}
	return errors.Join(err, out.Flush())
}

func (m *migration) showPods(out io.Writer, pods []remainingHold) error {
	const some = 20
	shown := pods
	if m.output != "wide" && len(pods) > some {
		shown = pods[:some]
	}
	var rows [][]string
	for _, one := range shown {
		rows = append(rows, []string{one.Address, one.Node, one.Namespace, one.Pod, one.Container})
	}
	fmt.Fprintln(out, "\nThese hold an address of it, and keep it until they are restarted:")
	err := view.Rows(out, m.style(), []string{"ADDRESS", "NODE", "NAMESPACE", "POD", "CONTAINER"}, rows)
	if more := len(pods) - len(shown); more > 0 {
		fmt.Fprintf(out, "and %d more; -o wide shows all\n", more)
	}
	return err
}
