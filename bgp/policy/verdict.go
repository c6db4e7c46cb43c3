package policy

import (
	"fmt"
	"net/netip"

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
	Origin     string
	MeshNode   string // the node at the other end; empty for a BGPPeer
	LocalASN   uint32
	Scope      Scope
	AllowOwnAS int
	Import     Chain
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
	PieceOfBlock
	NotNamedYet
	TakenAlone
	OutsidePools
	ruleCount
)

var ruleNames = [ruleCount]string{
	"UnknownPeer", "OwnASLoop", "OwnBlock", "OwnNextHop", "Filter", "ScopeAll", "DefaultRoute", "NodeSubnet", "ScopePools", "Aggregate",
	"BlockOfOwner", "BlockOfOther", "OriginASN", "OriginHidden", "OwnerUnknown", "BlockAtRest", "PieceOfBlock",
	"NotNamedYet", "TakenAlone", "OutsidePools",
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
	Peers      map[netip.Addr]Peer
	Self       [2]netip.Addr // this node's addresses, one a family
	DefaultASN uint32        // of nodes that have none of their own
	Alone      bool          // ipamd has been silent for so long that pending prefixes are taken
}

// Judge gives the verdict on one path.
func (j *Judge) Judge(path *route.Path) Verdict {
	peer, known := j.Peers[path.Peer]
	if !known {
		return Verdict{Reject, UnknownPeer}
	}
	if ownASCount(path, peer.LocalASN) > peer.AllowOwnAS {
		return Verdict{Reject, OwnASLoop} // RFC 4271 section 9.1.2, with the exception the peer allows
	}
	if _, own := j.ownBlock(path.Prefix); own {
		return Verdict{Reject, OwnBlock}
	}
	if path.NextHop == j.Self[0] || path.NextHop == j.Self[1] {
		return Verdict{Reject, OwnNextHop} // RFC 4271 section 5.1.3
	}
	if accept, _ := peer.Import.Decide(path.Prefix); !accept {
		return Verdict{Reject, Filtered}
	}
	if peer.Scope == All {
		return Verdict{Accept, ScopeAll}
	}
	if path.Prefix.Bits() == 0 {
		return Verdict{Reject, DefaultRoute}
	}
	if j.Owners.inNodeSubnet(path.Prefix) {
		return Verdict{Reject, NodeSubnet}
	}
	return j.judgePrefix(path, peer)
}

func (j *Judge) judgePrefix(path *route.Path, peer Peer) Verdict {
	_, inPool := j.pool(path.Prefix)
	if peer.Scope == Pools && inPool {
		return Verdict{Accept, ScopePools}
	}
	if _, declared := j.Aggregates[path.Prefix]; declared && peer.MeshNode == "" {
		return Verdict{Accept, Aggregate}
	}
	if block, named := j.Owners.Block(path.Prefix); named {
		return j.judgeBlock(path, peer, block)
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
// router, paths that one of the owner's AS numbers originated.
func (j *Judge) judgeBlock(path *route.Path, peer Peer, block Block) Verdict {
	if !block.live() {
		return Verdict{Reject, BlockAtRest}
	}
	if peer.MeshNode != "" {
		if peer.MeshNode != block.Node {
			return Verdict{Reject, BlockOfOther}
		}
		return Verdict{Accept, BlockOfOwner}
	}
	owner, known := j.Owners.Node(block.Node)
	switch {
	case !known && !j.Alone:
		return Verdict{Pending, OwnerUnknown}
	case path.HasASSet:
		return Verdict{Reject, OriginHidden}
	case known && !j.hasASN(owner, path.OriginASN()):
		return Verdict{Reject, OriginASN}
	}
	return Verdict{Accept, BlockOfOwner}
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
	verdict := j.Judge(path)
	peer := j.Peers[path.Peer]
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
	case Filtered:
		_, rule := peer.Import.Decide(path.Prefix)
		return "rejected by " + rule
	case BlockOfOther:
		return fmt.Sprintf("the block is %s's, not %s's", block.Node, peer.MeshNode)
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
	OwnNextHop:   "its next hop is this node",
	ScopeAll:     "importScope is All",
	DefaultRoute: "a default route is not accepted; importScope: All would",
	NodeSubnet:   "it is a subnet of nodes, or a part of one",
	ScopePools:   "importScope is Pools, and it is inside a pool",
	Aggregate:    "a declared aggregate",
	NotNamedYet:  "inside a pool, but the ownership log does not name it yet",
	TakenAlone:   "inside a pool; taken without the ownership log's word, for ipamd is silent",
	OutsidePools: "neither a part of a pool nor a declared aggregate",
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
