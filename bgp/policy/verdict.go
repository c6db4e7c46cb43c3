package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"github.com/clearway/clearway/bgp/route"
)

// Scope is how much a peer is trusted with.
type Scope int

// The scopes.
const (
	Owned Scope = iota // exact live blocks from paths that can be their owners', and declared aggregates
	Pools              // anything inside a pool
	All                // whatever the filters accept
)

func (s Scope) String() string { return [...]string{"Owned", "Pools", "All"}[s] }

// Peer is a session as the policy sees it.
type Peer struct {
	Session
	MeshNode   string // the node at the other end; empty for a BGPPeer
	Scope      Scope
	AllowOwnAS int
	Import     Chain
	Reflects   bool // a node of the mesh that tells others' routes, too
	LastChoice bool // the session is being drained: what it tells is compared with a local preference of 0
}

// Decision is what becomes of a path.
type Decision uint8

// The decisions.
const (
	Reject Decision = iota
	Pending
	Accept
)

func (d Decision) String() string { return [...]string{"Rejected", "Pending", "Accepted"}[d] }

// Rule is the rule that decided. The names are the rule's, as metrics show them.
type Rule uint8

// The rules, in the order in which they are asked.
const (
	UnknownPeer Rule = iota
	OwnASLoop
	OwnBlock
	OwnNextHop
	Filtered
	ScopeAll
	DefaultRoute
	NodeSubnet
	ScopePools
	Aggregate
	BlockOfOwner
	BlockOfOther
	OriginASN
	OriginHidden
	OwnerUnknown
	BlockAtRest
	BlockInSplit
	PartOfBlock
	PieceOfBlock
	NotNamedYet
	TakenAlone
	OutsidePools
	TransitByFilter
	ReflectedBack
	ClusterLoop
	OriginatorOther
	OwnAggregate
	ServiceAddress
	ruleCount
)

var ruleNames = [ruleCount]string{
	"UnknownPeer", "OwnASLoop", "OwnBlock", "OwnNextHop", "Filter", "ScopeAll", "DefaultRoute", "NodeSubnet", "ScopePools", "Aggregate",
	"BlockOfOwner", "BlockOfOther", "OriginASN", "OriginHidden", "OwnerUnknown", "BlockAtRest",
	"BlockInSplit", "PartOfBlock", "PieceOfBlock",
	"NotNamedYet", "TakenAlone", "OutsidePools", "Transit",
	"ReflectedBack", "ClusterLoop", "OriginatorID", "OwnAggregate", "ServiceAddress",
}

func (r Rule) String() string { return ruleNames[r] }

// Verdict is a decision and the rule that made it. Explain puts it into words: verdicts are kept by the hundred
// thousand, words are asked for one at a time.
type Verdict struct {
	Decision Decision
	Rule     Rule
}

// Judge decides on paths (the invariant SafeImport). What it is made of may be changed between calls; the paths that
// a change touches are then to be judged again.
type Judge struct {
	Owners     *Owners
	Own        bart.Table[struct{}] // this node's own blocks
	Pools      bart.Table[string]   // pools by prefix, and their names
	Aggregates map[netip.Prefix]struct{}
	Originated map[netip.Prefix]struct{} // those that this node tells itself
	Services   []netip.Prefix            // where addresses of Services may be
	Peers      map[netip.Addr]Peer
	Ranges     map[netip.Prefix]Peer // of those who called from an address that is not among Peers
	Self       [2]netip.Addr         // this node's addresses, one a family
	RouterID   netip.Addr            // this node's BGP identifier and, where it reflects, its cluster's
	DefaultASN uint32                // of nodes that have none of their own
	Alone      bool                  // ipamd has been silent for so long that pending prefixes are taken
}

// Judge gives the verdict on one path, and what the path is compared with others as: the path itself, or a copy with what
// its communities and the import filters change.
func (j *Judge) Judge(path *route.Path) (Verdict, *route.Path) {
	verdict := j.verdict(path)
	if verdict.Decision != Accept {
		return verdict, path
	}
	return verdict, j.imported(path).Path
}

// imported is what the peer's import filters make of a path.
func (j *Judge) imported(path *route.Path) Outcome {
	peer, _ := j.peer(path.Peer)
	return peer.Import.Evaluate(j.subject(path))
}

// subject is a path as import filters see it. One that its sender is about to take out of service is the last choice, unless a
// filter says otherwise (RFC 8326 section 4.2).
func (j *Judge) subject(path *route.Path) Subject {
	peer, _ := j.peer(path.Peer)
	if peer.LastChoice || path.HasCommunity(route.GracefulShutdown) {
		leaving := *path
		leaving.LocalPref = 0
		path = &leaving
	}
	return Subject{Path: path, Peer: peer.Session}
}

func (j *Judge) verdict(path *route.Path) Verdict {
	peer, known := j.peer(path.Peer)
	if !known {
		return Verdict{Reject, UnknownPeer}
	}
	if path.Extra != nil { // RFC 4456 section 8
		switch {
		case path.Extra.OriginatorID == j.RouterID:
			return Verdict{Reject, ReflectedBack}
		case slices.Contains(path.Extra.ClusterList, j.RouterID):
			return Verdict{Reject, ClusterLoop}
		}
	}
	if ownASCount(path, peer.LocalASN) > peer.AllowOwnAS {
		return Verdict{Reject, OwnASLoop} // RFC 4271 section 9.1.2, with the exception the peer allows
	}
	if _, own := j.ownBlock(path.Prefix); own {
		return Verdict{Reject, OwnBlock}
	}
	if _, ours := j.Originated[path.Prefix]; ours {
		return Verdict{Reject, OwnAggregate}
	}
	if path.NextHop == j.Self[0] || path.NextHop == j.Self[1] {
		return Verdict{Reject, OwnNextHop} // RFC 4271 section 5.1.3
	}
	var filtered Outcome
	if len(peer.Import) > 0 {
		if filtered = j.imported(path); !filtered.Accept {
			return Verdict{Reject, Filtered}
		}
	}
	if peer.Scope == All {
		return Verdict{Accept, ScopeAll}
	}
	if path.Prefix.Bits() == 0 && !filtered.Transit {
		return Verdict{Reject, DefaultRoute}
	}
	if j.Owners.inNodeSubnet(path.Prefix) {
		return Verdict{Reject, NodeSubnet}
	}
	if j.ofService(path.Prefix) {
		return Verdict{Reject, ServiceAddress}
	}
	_, inPool := j.pool(path.Prefix)
	if filtered.Transit && !inPool {
		return Verdict{Accept, TransitByFilter}
	}
	return j.judgePrefix(path, peer, inPool)
}

// ofService tells whether a prefix is an address of a Service. Other nodes tell it as well, and a router tells that on; every
// node reaches its Services by itself.
func (j *Judge) ofService(prefix netip.Prefix) bool {
	return prefix.IsSingleIP() && slices.ContainsFunc(j.Services, func(space netip.Prefix) bool { return Within(prefix, space) })
}

// Origin is what wants the session that a path came by.
func (j *Judge) Origin(path *route.Path) string {
	peer, _ := j.peer(path.Peer)
	return peer.Origin
}

// peer is the session with an address, by the longest range where it has none of its own.
func (j *Judge) peer(address netip.Addr) (peer Peer, known bool) {
	if peer, known = j.Peers[address]; known {
		return peer, true
	}
	longest := -1
	for prefix, of := range j.Ranges {
		if prefix.Contains(address.WithZone("")) && prefix.Bits() > longest {
			peer, known, longest = of, true, prefix.Bits()
		}
	}
	return peer, known
}

func (j *Judge) judgePrefix(path *route.Path, peer Peer, inPool bool) Verdict {
	if peer.Scope == Pools && inPool {
		return Verdict{Accept, ScopePools}
	}
	if _, declared := j.Aggregates[path.Prefix]; declared && peer.MeshNode == "" {
		return Verdict{Accept, Aggregate}
	}
	if block, named := j.Owners.Block(path.Prefix); named {
		return j.judgeBlock(path, peer, block, BlockOfOwner)
	}
	if block, splits := j.Owners.inSplit(path.Prefix); splits {
		return j.judgeBlock(path, peer, block, BlockInSplit)
	}
	if verdict := j.judgePiece(path, peer); verdict.Decision == Accept {
		return verdict
	}
	if _, _, overlaps := j.Owners.overlapping(path.Prefix); overlaps {
		return Verdict{Reject, PieceOfBlock}
	}
	switch {
	case !inPool:
		return Verdict{Reject, OutsidePools}
	case j.Alone:
		return Verdict{Accept, TakenAlone}
	}
	return Verdict{Pending, NotNamedYet}
}

// judgeBlock asks whether the path can be the owner's: from a node of the mesh only that node's own blocks; from a
// router, paths that one of the owner's AS numbers originated. What is accepted is so by the rule given.
func (j *Judge) judgeBlock(path *route.Path, peer Peer, block Block, rule Rule) Verdict {
	if !block.live() {
		return Verdict{Reject, BlockAtRest}
	}
	if peer.MeshNode == block.Node {
		return Verdict{Accept, rule}
	}
	if peer.MeshNode != "" && (!peer.Reflects || path.Extra == nil) {
		return Verdict{Reject, BlockOfOther}
	}
	owner, known := j.Owners.Node(block.Node)
	switch {
	case !known && !j.Alone:
		return Verdict{Pending, OwnerUnknown}
	case peer.MeshNode != "" && known && path.Extra.OriginatorID != owner.RouterID():
		return Verdict{Reject, OriginatorOther}
	case peer.MeshNode != "":
		return Verdict{Accept, rule} // a reflector's word, about what the owner told
	case path.HasASSet:
		return Verdict{Reject, OriginHidden}
	case known && !j.hasASN(owner, path.OriginASN()):
		return Verdict{Reject, OriginASN}
	}
	return Verdict{Accept, rule}
}

// judgePiece takes a part of a block from its owner when the log says that it is being split, when it is the owner itself
// that speaks, since the log may be late, and when one is alone, since it tells nothing more then.
func (j *Judge) judgePiece(path *route.Path, peer Peer) Verdict {
	block, found := j.Owners.whole(path.Prefix)
	if found && (j.Alone || block.Splits || peer.MeshNode == block.Node || j.reflected(path, peer, block)) {
		return j.judgeBlock(path, peer, block, PartOfBlock)
	}
	return Verdict{Reject, PieceOfBlock}
}

// reflected tells whether a reflector tells what a block's owner told.
func (j *Judge) reflected(path *route.Path, peer Peer, block Block) bool {
	owner, known := j.Owners.Node(block.Node)
	return peer.Reflects && known && path.Extra != nil && path.Extra.OriginatorID == owner.RouterID()
}

func (j *Judge) hasASN(node Node, asn uint32) bool {
	for _, local := range node.LocalASNs {
		if asn == local {
			return true
		}
	}
	return asn == j.asnOf(node)
}

func (j *Judge) asnOf(node Node) uint32 {
	if node.ASN == 0 {
		return j.DefaultASN
	}
	return node.ASN
}

func (j *Judge) ownBlock(prefix netip.Prefix) (netip.Prefix, bool) {
	for own := range j.Own.Supernets(prefix) {
		return own, true
	}
	return netip.Prefix{}, false
}

func (j *Judge) pool(prefix netip.Prefix) (netip.Prefix, bool) {
	for pool := range j.Pools.Supernets(prefix) {
		return pool, true
	}
	return netip.Prefix{}, false
}

func ownASCount(path *route.Path, asn uint32) int {
	count := 0
	for _, as := range path.ASPath {
		if as == asn {
			count++
		}
	}
	return count
}

// Owner names the node that the log says owns the prefix; empty where there is none.
func (j *Judge) Owner(prefix netip.Prefix) string {
	block, _ := j.Owners.Block(prefix)
	return block.Node
}

// Explain puts the present verdict on a path into a sentence.
func (j *Judge) Explain(path *route.Path) string {
	verdict := j.verdict(path)
	peer, _ := j.peer(path.Peer)
	block, _ := j.Owners.Block(path.Prefix)
	switch verdict.Rule {
	case UnknownPeer:
		return fmt.Sprintf("%s is no peer of this node any more", path.Peer)
	case OwnASLoop:
		return fmt.Sprintf("our AS %d is in the AS path %d times; allowOwnAS of %s is %d",
			peer.LocalASN, ownASCount(path, peer.LocalASN), peer.Origin, peer.AllowOwnAS)
	case OwnBlock:
		own, _ := j.ownBlock(path.Prefix)
		return fmt.Sprintf("it is this node's own block %s, or a part of it", own)
	case TransitByFilter:
		return "transit by " + j.imported(path).Rule()
	case Filtered:
		return j.explainFiltered(path, peer)
	case BlockOfOther:
		return fmt.Sprintf("the block is %s's, not %s's", block.Node, peer.MeshNode)
	case OriginatorOther:
		owner, _ := j.Owners.Node(block.Node)
		return fmt.Sprintf("%s reflects it as told by %s; its owner %s is %s", peer.MeshNode, path.Extra.OriginatorID, block.Node, owner.RouterID())
	case OriginASN:
		owner, _ := j.Owners.Node(block.Node)
		return fmt.Sprintf("AS %d originated it; its owner %s has AS %s", path.OriginASN(), block.Node, j.asnText(owner))
	case OriginHidden:
		return "an AS_SET hides which AS originated it (RFC 9774)"
	case OwnerUnknown:
		return fmt.Sprintf("the ownership log does not name its owner's (%s) AS numbers yet", block.Node)
	case BlockAtRest:
		return "the block rests: nobody owns it, so nobody may advertise it"
	case PieceOfBlock:
		return j.explainPiece(path.Prefix)
	case BlockOfOwner:
		return "exact live block of " + block.Node
	}
	return plainReasons[verdict.Rule]
}

var plainReasons = map[Rule]string{
	OwnAggregate:   "this node originates the aggregate itself",
	OwnNextHop:     "its next hop is this node",
	ServiceAddress: "an address of a Service: every node reaches Services by itself",
	ReflectedBack:  "this node told it itself, and a reflector tells it back (RFC 4456)",
	ClusterLoop:    "it has been through this reflector before (RFC 4456)",
	ScopeAll:       "importScope is All",
	DefaultRoute:   "a default route is not accepted, unless an import filter takes it as transit, or importScope is All",
	NodeSubnet:     "it is a subnet of nodes, or a part of one",
	ScopePools:     "importScope is Pools, and it is inside a pool",
	Aggregate:      "a declared aggregate",
	NotNamedYet:    "inside a pool, but the ownership log does not name it yet",
	TakenAlone:     "inside a pool; taken without the ownership log's word, for ipamd is silent",
	BlockInSplit:   "a block that its owner splits: told until the part that it gives back is withdrawn",
	PartOfBlock:    "a part of a block that its owner splits; the ownership log is about to name it",
	OutsidePools:   "neither a part of a pool nor a declared aggregate, nor transit by an import filter",
}

func (j *Judge) explainPiece(prefix netip.Prefix) string {
	at, block, _ := j.Owners.overlapping(prefix)
	relation := "covers"
	if Within(prefix, at) {
		relation = "is a piece of"
	}
	return fmt.Sprintf("it %s the live block %s of %s; only exact blocks are accepted", relation, at, block.Node)
}

func (j *Judge) asnText(node Node) string {
	text := fmt.Sprint(j.asnOf(node))
	for _, asn := range node.LocalASNs {
		if asn != j.asnOf(node) {
			text += fmt.Sprintf(" or %d", asn)
		}
	}
	return text
}

// explainFiltered names the rule that rejects a path, and what of the path it matches.
func (j *Judge) explainFiltered(path *route.Path, peer Peer) string {
	steps := peer.Import.Explain(j.subject(path))
	last := steps[len(steps)-1]
	return fmt.Sprintf("rejected by %s (%s)", last.Rule, last.Clause)
}

// Changes are what a drain, the path's communities and the import filters change of it before it is compared with others, in words.
func (j *Judge) Changes(path *route.Path) []string {
	words := Difference(path, j.imported(path).Path)
	if peer, _ := j.peer(path.Peer); peer.LastChoice {
		words = append(words, "the session is being drained")
	}
	if path.HasCommunity(route.GracefulShutdown) {
		words = append(words, "its sender is about to go (community GracefulShutdown, RFC 8326)")
	}
	return words
}
