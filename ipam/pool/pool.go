package pool

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/clearway/clearway/ipam/cidr"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Kind is what a pool's addresses are for.
type Kind string

// The kinds.
const (
	// Block: carved into blocks, one owner each.
	Block Kind = "Block"
	// Floating: single addresses that may move between nodes.
	Floating Kind = "Floating"
	// LoadBalancer: addresses of Services.
	LoadBalancer Kind = "LoadBalancer"
)

// Pool is an IPPool with its defaults filled in. It is a value: to change one, make another.
type Pool struct {
	Name string
	CIDR netip.Prefix // host bits zero
	Kind Kind
	// BlockBits is the prefix length of blocks, MinBlockBits of the smallest one: CIDR.Bits() <= BlockBits <=
	// MinBlockBits <= 32 or 128. Of the kinds that are not carved both are the length of a single address.
	BlockBits, MinBlockBits int
	// Rigid: each block is a subnet of its own with its own gateway, is never split, and a node has one of them.
	Rigid bool
	// UsePodCIDR: a node's block is its Node's spec.podCIDR in Kubernetes.
	UsePodCIDR bool
	// Gateway is in CIDR; the zero Addr for LoadBalancer, and for a Rigid pool.
	Gateway      netip.Addr
	NodeSelector labels.Selector // never nil
	// NamespaceSelector and PodSelector are never nil; empty: the pool is for every Pod.
	NamespaceSelector, PodSelector labels.Selector
	// ServiceSelector, of a LoadBalancer pool, takes the Services that get addresses without naming the pool. Never nil.
	ServiceSelector labels.Selector

	Disabled bool
	// Drain and Deleted: see Draining. DrainTo is the pool that serves instead, or empty.
	Drain, Deleted bool
	DrainTo        string
	// DrainCIDRs are parts of CIDR that are drained.
	DrainCIDRs []netip.Prefix
	// ReservedFirst and ReservedLast are how many addresses at the ends of the subnet are given to nobody.
	ReservedFirst, ReservedLast int
	// StickyTime is for how long an address of a Floating pool that was given up is kept for its owner.
	StickyTime time.Duration
	// AvoidBuggyIPs: nor those that end in .0 or .255.
	AvoidBuggyIPs bool
	// FormerCIDRs and FormerGateways are what running Pods may still go by.
	FormerCIDRs    []netip.Prefix
	FormerGateways []netip.Addr
	Priority       int // greater goes first
}

// family is what the rules of Parse know of IPv4 and IPv6.
type family struct {
	name                        string
	defaultBlock                int // prefix length
	largestBlock, smallestBlock int
	smallestPool                int // of Block and Floating pools
	smallestPoolNeeds           string
}

var (
	ipv4 = family{"IPv4", 26, 16, 32, 30, "the network and broadcast address, the gateway, and one to give out"}
	ipv6 = family{"IPv6", 122, 112, 128, 126, "the subnet-router anycast address, the gateway, and one to give out"}
)

func familyOf(addr netip.Addr) family {
	if addr.Is4() {
		return ipv4
	}
	return ipv6
}

// Parse reads a pool, fills in its defaults and tells every fault of it; the Pool is of use only when there is none.
// The faults' index and resource are left to the caller, and so are apiVersion, kind and metadata.
func Parse(object *clearwayv1.IPPool) (Pool, []*clearwayv1.FieldViolation) {
	var faults violations
	spec := object.GetSpec()
	pool := Pool{
		Name:     object.GetMetadata().GetName(),
		Kind:     parseKind(&faults, spec.GetKind()),
		Disabled: spec.GetDisabled(),
		Priority: int(spec.GetPriority()),
	}
	pool.Rigid = parseLayout(&faults, pool.Kind, spec.GetLayout())
	if pool.UsePodCIDR = spec.GetUsePodCidr(); pool.UsePodCIDR && !pool.Rigid {
		faults.add("spec.usePodCIDR", true, "is for pools of kind %s and layout %s: each block is a subnet of its own; say layout: %s", Block, rigid, rigid)
	}
	pool.NodeSelector = parseSelector(&faults, "spec.nodeSelector", spec.GetNodeSelector())
	pool.parsePodSelectors(&faults, spec)
	pool.parseDrain(&faults, object)
	prefix, err := cidr.Parse(spec.GetCidr())
	switch {
	case spec.GetCidr() == "":
		faults.add("spec.cidr", "", "is required: the pool's prefix, such as 10.244.0.0/16 or fd00:10:244::/48")
	case err != nil:
		faults.add("spec.cidr", spec.GetCidr(), "%s", cidr.Reason(err))
	default:
		pool.CIDR = prefix
		pool.checkCIDR(&faults)
		pool.parseBlockSizes(&faults, spec)
		pool.parseGateway(&faults, spec.GetGateway())
		pool.parseDrainCIDRs(&faults, spec.GetDrainCidrs())
		pool.parseReserved(&faults, spec)
	}
	pool.parseSticky(&faults, spec.GetStickyTime())
	pool.readFormer(object.GetStatus())
	return pool, faults
}

func parseKind(faults *violations, text string) Kind {
	switch kind := Kind(text); kind {
	case "":
		return Block
	case Block, Floating, LoadBalancer:
		return kind
	}
	faults.add("spec.kind", text, "must be %s, %s or %s", Block, Floating, LoadBalancer)
	return Block
}

// The layouts of a Block pool.
const (
	elastic = "Elastic"
	rigid   = "Rigid"
)

func parseLayout(faults *violations, kind Kind, text string) (isRigid bool) {
	switch {
	case text == "":
	case text != elastic && text != rigid:
		faults.add("spec.layout", text, "must be %s or %s", elastic, rigid)
	case kind != Block:
		faults.add("spec.layout", text, "a pool of kind %s is not carved into blocks; leave it out, or say kind: %s", kind, Block)
	}
	return text == rigid
}

// defaultStickyTime outlives the move of a Pod to another node, and an operator who looks after a failed one.
const defaultStickyTime = time.Hour

// maxStickyTime is a year.
const maxStickyTime = 365 * 24 * time.Hour

func (p *Pool) parseSticky(faults *violations, text string) {
	const field = "spec.stickyTime"
	if p.Kind == Floating {
		p.StickyTime = faults.duration(field, text, defaultStickyTime, 0, maxStickyTime)
	} else if text != "" {
		faults.add(field, text, "is for pools of kind %s, and this one is of kind %s; leave it out", Floating, p.Kind)
	}
}

// unusable are ranges that no Pod or Service can have an address of, with the reason.
var unusable = []struct {
	prefix netip.Prefix
	is     string
}{
	{cidr.MustParse("0.0.0.0/8"), `"this network" (RFC 1122)`},
	{cidr.MustParse("127.0.0.0/8"), "loopback (RFC 1122)"},
	{cidr.MustParse("169.254.0.0/16"), "link-local (RFC 3927)"},
	{cidr.MustParse("224.0.0.0/4"), "multicast (RFC 5771)"},
	{cidr.MustParse("255.255.255.255/32"), "limited broadcast (RFC 919)"},
	{cidr.MustParse("::/127"), "the unspecified and the loopback address (RFC 4291)"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4-mapped (RFC 4291)"},
	{cidr.MustParse("fe80::/10"), "link-local (RFC 4291)"},
	{cidr.MustParse("ff00::/8"), "multicast (RFC 4291)"},
}

func (p *Pool) checkCIDR(faults *violations) {
	for _, special := range unusable {
		if p.CIDR.Overlaps(special.prefix) {
			faults.add("spec.cidr", p.CIDR, "overlaps %s, which is %s; use private or assigned unicast space", special.prefix, special.is)
			return
		}
	}
	family := familyOf(p.CIDR.Addr())
	if p.Kind != LoadBalancer && p.CIDR.Bits() > family.smallestPool {
		faults.add("spec.cidr", p.CIDR, "is too small: a pool needs at least a /%d, for %s", family.smallestPool, family.smallestPoolNeeds)
	}
}

func (p *Pool) parseBlockSizes(faults *violations, spec *clearwayv1.IPPoolSpec) {
	family := familyOf(p.CIDR.Addr())
	if p.Kind != Block {
		p.BlockBits, p.MinBlockBits = family.smallestBlock, family.smallestBlock
		p.refuseBlockSizes(faults, spec)
		return
	}
	p.BlockBits = family.defaultBlock
	said := " (the default)"
	if size := spec.GetBlockSize(); size != 0 {
		p.BlockBits, said = int(size), ""
	}
	largest := max(family.largestBlock, p.CIDR.Bits())
	switch {
	case p.BlockBits < family.largestBlock || p.BlockBits > family.smallestBlock:
		faults.add("spec.blockSize", p.BlockBits, "must be a prefix length from %d to %d for %s", largest, family.smallestBlock, family.name)
		return
	case p.BlockBits < p.CIDR.Bits():
		faults.add("spec.blockSize", p.BlockBits, "the pool %s is smaller than one block of /%d%s; say %d to %d, or a larger spec.cidr",
			p.CIDR, p.BlockBits, said, largest, family.smallestBlock)
		return
	}
	p.MinBlockBits = p.BlockBits
	if p.Rigid {
		p.checkRigidSizes(faults, spec, largest)
		return
	}
	if size := int(spec.GetMinBlockSize()); size != 0 {
		p.MinBlockBits = size
	}
	if p.MinBlockBits < p.BlockBits || p.MinBlockBits > family.smallestBlock {
		faults.add("spec.minBlockSize", p.MinBlockBits, "must be a prefix length from blockSize, %d, to %d", p.BlockBits, family.smallestBlock)
	}
}

// checkRigidSizes holds a Rigid pool's blocks to what a subnet needs, and to one size.
func (p *Pool) checkRigidSizes(faults *violations, spec *clearwayv1.IPPoolSpec, largest int) {
	family := familyOf(p.CIDR.Addr())
	if p.BlockBits > family.smallestPool {
		faults.add("spec.blockSize", p.BlockBits, "must be a prefix length from %d to %d for layout %s: each block is a subnet of its "+
			"own, for %s", largest, family.smallestPool, rigid, family.smallestPoolNeeds)
	}
	if size := int(spec.GetMinBlockSize()); size != 0 && size != p.BlockBits {
		faults.add("spec.minBlockSize", size, "blocks of layout %s are all of one size; leave it out", rigid)
	}
}

// refuseBlockSizes tells of sizes where they would mean nothing.
func (p *Pool) refuseBlockSizes(faults *violations, spec *clearwayv1.IPPoolSpec) {
	if size := spec.GetBlockSize(); size != 0 {
		faults.add("spec.blockSize", size, "a pool of kind %s is not carved into blocks; leave it out, or say kind: %s", p.Kind, Block)
	}
	if size := spec.GetMinBlockSize(); size != 0 {
		faults.add("spec.minBlockSize", size, "a pool of kind %s is not carved into blocks; leave it out, or say kind: %s", p.Kind, Block)
	}
}

func (p *Pool) parseGateway(faults *violations, text string) {
	const field = "spec.gateway"
	if p.Kind == LoadBalancer {
		if text != "" {
			faults.add(field, text, "a pool of kind %s has no gateway; leave it out", LoadBalancer)
		}
		return
	}
	if p.Rigid {
		if text != "" {
			faults.add(field, text, "of layout %s each block has its own, its first host address; leave it out", rigid)
		}
		return
	}
	if text == "" {
		p.Gateway, _ = cidr.Add(p.CIDR.Addr(), 1)
		return
	}
	gateway, err := cidr.ParseAddress(text)
	network, broadcast := p.CIDR.Addr(), cidr.Last(p.CIDR)
	switch {
	case err != nil:
		faults.add(field, text, "%s", cidr.Reason(err))
	case !p.CIDR.Contains(gateway):
		faults.add(field, text, "must be an address inside the pool %s", p.CIDR)
	case gateway == network && gateway.Is4():
		faults.add(field, text, "is the network address of %s; the next, %s, is the default", p.CIDR, network.Next())
	case gateway == network:
		faults.add(field, text, "is the subnet-router anycast address of %s (RFC 4291 section 2.6.1); the next, %s, is the default", p.CIDR, network.Next())
	case gateway == broadcast && gateway.Is4():
		faults.add(field, text, "is the broadcast address of %s; %s is the default", p.CIDR, network.Next())
	default:
		p.Gateway = gateway
	}
}

// parsePodSelectors reads who may draw from the pool. Only Pods do so by themselves, and only from Block pools; Services do
// from LoadBalancer pools.
func (p *Pool) parsePodSelectors(faults *violations, spec *clearwayv1.IPPoolSpec) {
	p.NamespaceSelector = parseSelector(faults, "spec.namespaceSelector", spec.GetNamespaceSelector())
	p.PodSelector = parseSelector(faults, "spec.podSelector", spec.GetPodSelector())
	p.ServiceSelector = parseSelector(faults, "spec.serviceSelector", spec.GetServiceSelector())
	if p.Kind != LoadBalancer && !p.ServiceSelector.Empty() {
		faults.add("spec.serviceSelector", p.ServiceSelector, "is for pools of kind %s; leave it out", LoadBalancer)
	}
	if p.Kind == LoadBalancer && !p.NamespaceSelector.Empty() {
		faults.add("spec.namespaceSelector", p.NamespaceSelector, "a pool of kind %s is not for Pods; leave it out", LoadBalancer)
	}
	if p.Kind == LoadBalancer && !p.PodSelector.Empty() {
		faults.add("spec.podSelector", p.PodSelector, "a pool of kind %s is not for Pods; leave it out", LoadBalancer)
	}
}

// parseDrain reads whether the pool is drained, and into which other one.
func (p *Pool) parseDrain(faults *violations, object *clearwayv1.IPPool) {
	spec := object.GetSpec()
	p.Drain, p.DrainTo, p.Deleted = spec.GetDrain(), spec.GetDrainTo(), object.GetMetadata().GetDeletionTimestamp() != nil
	if p.Drain && p.Kind != Block {
		faults.add("spec.drain", true, "a pool of kind %s has no blocks to drain; say disabled: true", p.Kind)
	}
	switch {
	case p.DrainTo == "":
	case !p.Drain:
		faults.add("spec.drainTo", p.DrainTo, "says where a pool is drained to, and this one is not drained; add drain: true, or leave it out")
	case p.DrainTo == p.Name:
		faults.add("spec.drainTo", p.DrainTo, "is this pool itself; name another IPPool")
	}
}

// Draining tells whether the pool gives no new blocks and no new addresses, and its blocks are given back as they empty.
func (p Pool) Draining() bool { return p.Drain || p.Deleted }

// Drains tells whether a block of the pool is to be given back when it is empty, and gives no address until then.
func (p Pool) Drains(block netip.Prefix) bool {
	return p.Draining() || slices.ContainsFunc(p.DrainCIDRs, block.Overlaps)
}

// maxDrainCIDRs bounds what every block is compared with.
const maxDrainCIDRs = 100

func (p *Pool) parseDrainCIDRs(faults *violations, texts []string) {
	const field = "spec.drainCIDRs"
	switch {
	case len(texts) == 0:
	case p.Kind != Block:
		faults.add(field, strings.Join(texts, ","), "a pool of kind %s has no blocks to drain; leave it out", p.Kind)
		return
	case len(texts) > maxDrainCIDRs:
		faults.add(field, fmt.Sprintf("%d entries", len(texts)), "must have at most %d entries; use larger prefixes", maxDrainCIDRs)
		return
	}
	for i, text := range texts {
		prefix, err := cidr.Parse(text)
		switch {
		case err != nil:
			faults.add(fmt.Sprintf("%s[%d]", field, i), text, "%s", cidr.Reason(err))
		case !cidr.Contains(p.CIDR, prefix):
			faults.add(fmt.Sprintf("%s[%d]", field, i), text, "is outside of the pool, %s; leave it out", p.CIDR)
		default:
			p.DrainCIDRs = append(p.DrainCIDRs, prefix)
		}
	}
}

// readFormer takes what ipamd wrote; what cannot be read is left out.
func (p *Pool) readFormer(status *clearwayv1.IPPoolStatus) {
	for _, text := range status.GetFormerCidrs() {
		if prefix, err := cidr.Parse(text); err == nil {
			p.FormerCIDRs = append(p.FormerCIDRs, prefix)
		}
	}
	for _, text := range status.GetFormerGateways() {
		if addr, err := cidr.ParseAddress(text); err == nil {
			p.FormerGateways = append(p.FormerGateways, addr)
		}
	}
}

// maxReserved bounds ReservedFirst and ReservedLast.
const maxReserved = 1 << 16

func defaultReservedLast(subnet netip.Prefix) int {
	if subnet.Addr().Is4() {
		return 1
	}
	return 0
}

// parseReserved reads how many addresses at the pool's ends, and which others, are left out.
func (p *Pool) parseReserved(faults *violations, spec *clearwayv1.IPPoolSpec) {
	p.AvoidBuggyIPs = spec.GetAvoidBuggyIps()
	if p.Kind != LoadBalancer {
		p.ReservedFirst, p.ReservedLast = 1, defaultReservedLast(p.CIDR)
	}
	if p.AvoidBuggyIPs && p.Kind == Block && p.CIDR.Addr().Is4() && p.MinBlockBits == 32 {
		faults.add("spec.avoidBuggyIPs", true, "with blocks of a single address some would have none to give; say a minBlockSize of at most 31")
	}
	if p.Kind != LoadBalancer && p.CIDR.Bits() > familyOf(p.CIDR.Addr()).smallestPool {
		return // too small anyhow
	}
	before := len(*faults)
	p.parseCount(faults, "spec.reservedFirst", spec.ReservedFirst, &p.ReservedFirst) //nolint:protogetter // absent is not 0
	p.parseCount(faults, "spec.reservedLast", spec.ReservedLast, &p.ReservedLast)    //nolint:protogetter // absent is not 0
	gateway := 0
	if p.Gateway.IsValid() {
		gateway = 1
	}
	if size := cidr.Count(p.CIDR); len(*faults) == before && uint64(p.ReservedFirst+p.ReservedLast+gateway) >= size && p.Kind != LoadBalancer {
		faults.add("spec.reservedFirst", p.ReservedFirst, "with reservedLast, %d, and the gateway nothing is left of the %d addresses of %s", p.ReservedLast, size, p.CIDR)
	}
}

func (p *Pool) parseCount(faults *violations, field string, said *int32, count *int) {
	switch {
	case said == nil:
	case p.Rigid:
		faults.add(field, *said, "of layout %s each block leaves out its own first and last address; leave it out", rigid)
	case *said < 0 || *said > maxReserved || uint64(*said) >= cidr.Count(p.CIDR):
		faults.add(field, *said, "must be from 0 to %d, and less than the pool's addresses", maxReserved)
	default:
		*count = int(*said)
	}
}

// Parts are the parts of the pool out of which blocks of a length are carved: all but those that would be drained, and
// but those of which no address could be given, for the reserved ranges and the pool's own rules.
func (p Pool) Parts(length int, reserved []netipx.IPRange) []netip.Prefix {
	var left, useless netipx.IPSetBuilder
	left.AddPrefix(p.CIDR)
	for _, drained := range p.DrainCIDRs {
		left.RemovePrefix(netip.PrefixFrom(drained.Addr(), min(drained.Bits(), length)).Masked())
	}
	for _, addresses := range reserved {
		if addresses.From().Is4() == p.CIDR.Addr().Is4() {
			useless.AddRange(addresses)
		}
	}
	if !p.Rigid { // its blocks have ends of their own
		p.excludeEnds(&useless, p.CIDR)
	}
	set, _ := useless.IPSet() // its parts are valid: they come from parsed values
	for _, prefix := range set.Prefixes() {
		if prefix.Bits() <= length {
			left.RemovePrefix(prefix)
		}
	}
	parts, _ := left.IPSet()
	return parts.Prefixes()
}

// ForAll tells whether the pool is for every Pod, whatever is known of it.
func (p Pool) ForAll() bool { return p.closeness() == 0 }

// Selects tells whether a node of these labels may use the pool, disabled or not.
func (p Pool) Selects(nodeLabels map[string]string) bool {
	return p.NodeSelector.Matches(labels.Set(nodeLabels))
}

// Link is what a Pod with an address in a block sees as its subnet: the prefix length and the gateway. They are the
// pool's, or, of a Rigid pool, the block's own.
func (p Pool) Link(block netip.Prefix) (bits int, gateway netip.Addr) {
	if p.Rigid {
		return block.Bits(), block.Addr().Next()
	}
	return p.CIDR.Bits(), p.Gateway
}

// IsGateway tells whether an address is what Pods with an address in a block have as their gateway, or had before the pool
// changed: the node itself has it on every Pod's link.
func (p Pool) IsGateway(block netip.Prefix, address netip.Addr) bool {
	_, gateway := p.Link(block)
	return address == gateway || slices.Contains(p.FormerGateways, address)
}

func layoutOf(p Pool) string {
	if p.Rigid {
		return rigid
	}
	return elastic
}

// CheckOverlap tells whether a pool overlaps any other; one of its own name is its former self and not compared.
func CheckOverlap(pools []Pool, candidate Pool) []*clearwayv1.FieldViolation {
	var met []Pool
	for _, other := range pools {
		if other.Name != candidate.Name && other.CIDR.Overlaps(candidate.CIDR) {
			met = append(met, other)
		}
	}
	if len(met) == 0 {
		return nil
	}
	var faults violations
	more := ""
	if len(met) > 1 {
		more = fmt.Sprintf(" and %d more", len(met)-1)
	}
	if met[0].Deleted {
		more = ", which is being deleted and there until its last block came back" + more
	}
	faults.add("spec.cidr", candidate.CIDR, "overlaps IPPool/%s, %s%s; no two pools may overlap", met[0].Name, met[0].CIDR, more)
	return faults
}

// CheckChange tells what of a pool may not become of another one of its name while nodes have some blocks of it. What
// is asked of the cidr and the gateway depends on where the blocks lie, and is not judged here.
func CheckChange(was, candidate Pool, blocks int64) []*clearwayv1.FieldViolation {
	if blocks == 0 {
		return nil
	}
	var faults violations
	if was.Kind != candidate.Kind {
		faults.add("spec.kind", candidate.Kind, "is %s, and nodes have %d blocks of the pool; make another pool", was.Kind, blocks)
	}
	if was.Rigid != candidate.Rigid {
		faults.add("spec.layout", layoutOf(candidate), "is %s, and nodes have %d blocks of the pool; make another pool", layoutOf(was), blocks)
	}
	return faults
}
