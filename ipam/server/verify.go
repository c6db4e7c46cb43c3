package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const (
	// verifyTime is how long a node has for a comparison: a dump of its kernel.
	verifyTime = 10 * time.Second
	// probeTime is how long it has with probes: a thousand of them, 64 at once with a second each, take 16 s at most.
	probeTime = 25 * time.Second
	// maxProbes is how many addresses one node is asked to reach.
	maxProbes = 1000
	// logDiffers: what a node has of the ownership log is not what ipamd has.
	logDiffers = "LogDiffers"
)

// verification is what all nodes found.
type verification struct {
	mu         sync.Mutex // guards all following fields while nodes are asked
	mismatches []*clearwayv1.RouteMismatch
	warnings   []string
	sum        clearwayv1.VerifyRoutesResponse
}

// VerifyRoutes implements IPAMService.
func (i *ipamService) VerifyRoutes(
	request *clearwayv1.VerifyRoutesRequest, stream grpc.ServerStreamingServer[clearwayv1.VerifyRoutesResponse],
) error {
	if err := i.s.mustLead(); err != nil {
		return err
	}
	found, err := i.s.verifyTwice(stream.Context(), request)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(found.mismatches, maxListed) {
		if err := stream.Send(&clearwayv1.VerifyRoutesResponse{Mismatches: part}); err != nil {
			return err
		}
	}
	return stream.Send(&clearwayv1.VerifyRoutesResponse{
		Warnings: found.warnings, Nodes: found.sum.GetNodes(), Routes: found.sum.GetRoutes(), Blocks: found.sum.GetBlocks(),
		Probed: found.sum.GetProbed(), Reached: found.sum.GetReached(), Omitted: found.sum.GetOmitted(),
	})
}

// verifyTwice looks, and where something differs has those nodes look again: what is there both times is told.
func (s *Server) verifyTwice(ctx context.Context, request *clearwayv1.VerifyRoutesRequest) (*verification, error) {
	nodes, err := s.nodesOf(request.GetNode())
	if err != nil {
		return nil, err
	}
	first, err := s.verifyOnce(ctx, nodes, request.GetProbe())
	if err != nil || len(first.mismatches) == 0 {
		return first, err
	}
	select {
	case <-time.After(checkPause):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	seen, differing := map[string]bool{}, map[string]bool{}
	for _, one := range first.mismatches {
		seen[mismatchKey(one)], differing[one.GetNode()] = true, true
	}
	second, err := s.verifyOnce(ctx, sortedNames(differing), request.GetProbe())
	if err != nil {
		return nil, err
	}
	first.mismatches = slices.DeleteFunc(second.mismatches, func(one *clearwayv1.RouteMismatch) bool { return !seen[mismatchKey(one)] })
	first.sum.Omitted = second.sum.GetOmitted()
	for _, warning := range second.warnings {
		if !slices.Contains(first.warnings, warning) {
			first.warnings = append(first.warnings, warning)
		}
	}
	return first, nil
}

func mismatchKey(one *clearwayv1.RouteMismatch) string {
	return one.GetReason() + " " + one.GetNode() + " " + one.GetPrefix()
}

// nodesOf lists the node of that name, or all.
func (s *Server) nodesOf(only string) ([]string, error) {
	var nodes []string
	if err := s.view(func(st *state) { nodes = sortedNames(st.nodes) }); err != nil {
		return nil, err
	}
	if only == "" {
		return nodes, nil
	}
	if !slices.Contains(nodes, only) {
		return nil, errNotFound(kindNode, only)
	}
	return []string{only}, nil
}

// verifyOnce asks the nodes, a bounded number of them at once.
func (s *Server) verifyOnce(ctx context.Context, nodes []string, probe bool) (*verification, error) {
	found := &verification{}
	var targets []*clearwayv1.ProbeTarget
	if probe {
		if err := s.view(func(st *state) { targets = st.probeTargets() }); err != nil {
			return nil, err
		}
	}
	digest, certain := s.ownersDigest()
	var group errgroup.Group
	group.SetLimit(askAtOnce)
	for i, node := range nodes {
		group.Go(func() error {
			answer, err := s.verifyNode(ctx, node, sample(targets, i))
			found.take(node, answer, err, !certain || answer.GetOwnersDigest() == uint64(digest))
			return nil
		})
	}
	_ = group.Wait() // its parts return no errors
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slices.SortFunc(found.mismatches, func(a, b *clearwayv1.RouteMismatch) int { return strings.Compare(mismatchKey(a), mismatchKey(b)) })
	slices.Sort(found.warnings)
	return found, nil
}

// sample is the part of the targets that one node is asked to reach: all, or, where there are more than one node can, the
// next of them for each node, so that all together reach all.
func sample(targets []*clearwayv1.ProbeTarget, node int) []*clearwayv1.ProbeTarget {
	if len(targets) <= maxProbes {
		return targets
	}
	at := node * maxProbes % len(targets)
	return slices.Concat(targets[at:], targets[:at])[:maxProbes]
}

// probeTargets names one address of each block that has one: the lowest that is held, by the nodes' mirrors.
func (s *state) probeTargets() []*clearwayv1.ProbeTarget {
	lowest := map[string]netip.Addr{}
	for _, of := range s.assignments {
		for address, spec := range of {
			if have, ok := lowest[spec.GetBlock()]; !ok || address.Less(have) {
				lowest[spec.GetBlock()] = address
			}
		}
	}
	var targets []*clearwayv1.ProbeTarget
	for _, block := range sortedNames(lowest) {
		targets = append(targets, &clearwayv1.ProbeTarget{Block: block, Address: lowest[block].String()})
	}
	return targets
}

func (s *Server) verifyNode(ctx context.Context, node string, targets []*clearwayv1.ProbeTarget) (*clearwayv1.VerifyAnswer, error) {
	patience := verifyTime
	if len(targets) > 0 {
		patience = probeTime
	}
	var answer *clearwayv1.VerifyAnswer
	query := &clearwayv1.Query{Verify: &clearwayv1.VerifyQuery{Probes: targets}}
	err := s.question(ctx, node, query, patience, func(got piece) error {
		if got.verified != nil {
			answer = got.verified
		}
		return nil
	})
	if err == nil && answer == nil {
		err = errors.New("its agent is older than this ipamd, and does not compare routes")
	}
	return answer, err
}

// take adds what one node answered, or why it did not.
func (v *verification) take(node string, answer *clearwayv1.VerifyAnswer, err error, sameLog bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		v.warnings = append(v.warnings, fmt.Sprintf("node %s is not compared: %v", node, err))
		return
	}
	v.sum.Nodes++
	v.sum.Routes += answer.GetRoutes()
	v.sum.Blocks += answer.GetBlocks()
	v.sum.Probed += answer.GetProbed()
	v.sum.Reached += answer.GetReached()
	v.sum.Omitted += answer.GetOmitted()
	for _, one := range answer.GetMismatches() {
		one.Node = node
		v.mismatches = append(v.mismatches, one)
	}
	if !sameLog {
		v.mismatches = append(v.mismatches, &clearwayv1.RouteMismatch{
			Reason: logDiffers, Node: node,
			Detail: "what the node has of the ownership log, by which it judges routes, is not what ipamd has",
		})
	}
}

// ownersDigest stands for what the ownership log says of blocks now; it is not certain while the store recovers.
func (s *Server) ownersDigest() (digest clearwayv1.OwnersDigest, certain bool) {
	err := s.view(func(st *state) {
		certain = !st.recovering()
		for prefix := range st.blocks {
			if entry := st.blockEntry(prefix); !entry.GetDeleted() {
				digest.Add(prefix.String(), entry.GetBlock().GetNode(), entry.GetBlock().GetState())
			}
		}
	})
	return digest, certain && err == nil
}
