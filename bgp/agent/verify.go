package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/rib"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// maxMismatches bounds one answer: with more, the reason is one, and a thousand show it.
const maxMismatches = 1000

// Unreached is an address that did not answer, and why.
type Unreached struct {
	Address netip.Addr
	Why     string
}

// Verify compares the kernel, what peers tell and the ownership log, and tries to reach the addresses that are asked for.
// There is one reason for each mismatch.
func (a *Agent) Verify(ctx context.Context, query *clearwayv1.VerifyQuery) (*clearwayv1.VerifyAnswer, error) {
	look, err := a.options.FIB.Look()
	if err != nil {
		return nil, err
	}
	var answer *clearwayv1.VerifyAnswer
	var targets map[netip.Addr]*clearwayv1.ProbeTarget
	var own, addresses []netip.Addr
	err = a.ask(ctx, func() {
		answer = a.core.verify(&look)
		addresses, targets = a.core.targets(query.GetProbes())
		own = []netip.Addr{a.core.built.Global.NextHop4, a.core.built.Global.NextHop6}
	})
	if err != nil {
		return nil, err
	}
	if len(addresses) == 0 || a.options.Probe == nil {
		return answer, nil
	}
	probed, unreached := a.options.Probe(ctx, own, addresses)
	answer.Probed, answer.Reached = int64(probed), int64(probed-len(unreached))
	for _, one := range unreached {
		target := targets[one.Address]
		addMismatch(answer, "NoAnswer", target.GetBlock(), fmt.Sprintf("%s does not answer: %s", one.Address, strings.ReplaceAll(one.Why, "\n", "; ")))
	}
	return answer, nil
}

func addMismatch(to *clearwayv1.VerifyAnswer, reason, prefix, detail string) {
	if len(to.Mismatches) >= maxMismatches {
		to.Omitted++
		return
	}
	to.Mismatches = append(to.Mismatches, &clearwayv1.RouteMismatch{Reason: reason, Prefix: prefix, Detail: detail})
}

// targets are the addresses that are to be reached, but for those of own blocks.
func (c *core) targets(asked []*clearwayv1.ProbeTarget) ([]netip.Addr, map[netip.Addr]*clearwayv1.ProbeTarget) {
	var addresses []netip.Addr
	targets := map[netip.Addr]*clearwayv1.ProbeTarget{}
	for _, target := range asked {
		address, err := netip.ParseAddr(target.GetAddress())
		if _, own := c.judge.Own.Lookup(address); err != nil || own {
			continue
		}
		addresses, targets[address] = append(addresses, address), target
	}
	return addresses, targets
}

// verifier is one comparison.
type verifier struct {
	*core
	look   *route.Look
	answer *clearwayv1.VerifyAnswer
	covers bart.Table[struct{}] // what was learned and accepted; learned() compares it with the kernel
}

func (c *core) verify(look *route.Look) *clearwayv1.VerifyAnswer {
	v := &verifier{core: c, look: look, answer: &clearwayv1.VerifyAnswer{}}
	for prefix, entry := range c.table.All {
		if entry.Route != nil {
			v.covers.Insert(prefix, struct{}{})
		}
	}
	v.ownBlocks()
	v.remoteBlocks()
	v.learned()
	v.strays()
	return v.answer
}

func (v *verifier) add(reason string, prefix netip.Prefix, format string, args ...any) {
	addMismatch(v.answer, reason, prefix.String(), fmt.Sprintf(format, args...))
}

// ownBlocks compares what is advertised with what the log says that this node owns, and with its blackholes.
func (v *verifier) ownBlocks() {
	advertised := map[netip.Prefix]bool{}
	for _, advertisement := range v.desired.Advertise {
		advertised[advertisement.Prefix] = true
		block, named := v.judge.Owners.Block(advertisement.Prefix)
		_, splits := v.judge.Owners.Splitting(advertisement.Prefix)
		single := !named && advertisement.Prefix.IsSingleIP() // an address of its own is no block
		if v.ownership.Complete() && !splits && !single && block.Node != v.node {
			v.add("AdvertisedNotOwned", advertisement.Prefix, "it is advertised, and the ownership log %s", whose(block, named))
		}
	}
	for prefix, block := range v.judge.Owners.Blocks {
		if block.Node == v.node && block.State == clearwayv1.BlockState_BLOCK_STATE_OWNED && !block.Splits && !advertised[prefix] {
			v.add("NotAdvertised", prefix, "it is this node's by the ownership log, and is not advertised")
		}
	}
	for _, hole := range v.holes {
		if seen, present := v.look.Ours[hole]; (!present || !seen.Blackhole) && !v.look.Partial {
			v.add("NotBlackholed", hole, "the kernel has no blackhole for this node's block (%s): packets to its free addresses leave the node",
				v.writer(hole))
		}
	}
}

func whose(block policy.Block, named bool) string {
	if !named {
		return "does not have it"
	}
	return "says that it is " + block.Node + "'s"
}

// writer is what the route writer says of a prefix.
func (v *verifier) writer(prefix netip.Prefix) string {
	state, reason := v.installed(prefix)
	return strings.TrimSuffix("the route writer says "+state+": "+reason, ": ")
}

// remoteBlocks compares the log with what peers tell.
func (v *verifier) remoteBlocks() {
	missing := map[netip.Prefix]string{}
	for prefix, block := range v.judge.Owners.Blocks {
		if block.Node == v.node || block.State != clearwayv1.BlockState_BLOCK_STATE_OWNED || block.Splits {
			continue
		}
		v.answer.Blocks++
		entry := v.table.Get(prefix)
		if entry != nil && entry.Route != nil {
			continue // learned compares it with the kernel
		}
		if _, covered := v.covers.LookupPrefix(prefix); covered {
			continue
		}
		if entry != nil && len(entry.Paths) > 0 {
			v.add("Refused", prefix, "%s's block: what %s tells of it is %s: %s", block.Node, entry.Paths[0].Peer,
				entry.Verdicts[0].Decision, v.judge.Explain(entry.Paths[0]))
			continue
		}
		missing[prefix] = block.Node
	}
	up := slices.ContainsFunc(v.speaker.Sessions(), func(s route.Session) bool { return s.State == route.Established })
	if !up && len(missing) > 0 {
		addMismatch(v.answer, "NoSession", "", fmt.Sprintf("no BGP session is established, and %d blocks of other nodes are not known by any", len(missing)))
		return
	}
	for prefix, node := range missing {
		v.add("NotHeard", prefix, "%s's block, and no peer tells of it", node)
	}
}

// learned compares what was chosen with what the kernel has.
func (v *verifier) learned() {
	for prefix, entry := range v.table.All {
		if entry.Route == nil {
			continue
		}
		v.answer.Routes++
		seen, present := v.look.Ours[prefix]
		switch {
		case !present && v.look.Partial:
		case !present:
			v.add("NotInKernel", prefix, "it is accepted, and the kernel does not have it: %s", v.writer(prefix))
		case v.look.HiddenBy(prefix) != "":
			v.add("Hidden", prefix, "packets follow somebody else's route: %s", v.look.HiddenBy(prefix))
		default:
			if why := v.otherHops(entry, seen); why != "" {
				v.add("HopsDiffer", prefix, "%s", why)
			}
		}
	}
}

// otherHops compares the ways out, where the chosen next hops are on a link of this machine. Others resolve by routes
// of somebody else's, which may lead anywhere.
func (v *verifier) otherHops(entry *rib.Entry, seen route.Seen) string {
	var wanted, found []netip.Addr
	for _, hop := range entry.Route.NextHops {
		bare := hop.Addr.WithZone("")
		onLink := bare.IsLinkLocalUnicast() || slices.ContainsFunc(v.look.OnLink, func(p netip.Prefix) bool { return p.Contains(bare) })
		if !onLink {
			return ""
		}
		wanted = append(wanted, bare)
	}
	for _, hop := range seen.Hops {
		found = append(found, hop.Gateway)
	}
	slices.SortFunc(wanted, netip.Addr.Compare)
	slices.SortFunc(found, netip.Addr.Compare)
	if slices.Equal(slices.Compact(wanted), slices.Compact(found)) {
		return ""
	}
	return fmt.Sprintf("chosen are the next hops %s, and the kernel has %s", list(wanted), list(found))
}

func list(addresses []netip.Addr) string {
	if len(addresses) == 0 {
		return "none"
	}
	return strings.Trim(fmt.Sprint(addresses), "[]")
}

// strays are routes under our name that nobody wants. Before every source has spoken they are what an earlier process
// left, and stay.
func (v *verifier) strays() {
	digest := clearwayv1.OwnersDigest(0)
	for prefix, block := range v.judge.Owners.Blocks {
		digest.Add(prefix.String(), block.Node, block.State)
	}
	v.answer.OwnersDigest = uint64(digest)
	if !v.restart.settled {
		return
	}
	for prefix := range v.look.Ours {
		entry := v.table.Get(prefix)
		if (entry == nil || entry.Route == nil) && !slices.Contains(v.holes, prefix) {
			v.add("Stray", prefix, "the kernel has a route under our name that nobody wants")
		}
	}
}
