package pool

import (
	"fmt"
	"net/netip"

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
	// Gateway is in CIDR; the zero Addr for LoadBalancer.
	Gateway      netip.Addr
	NodeSelector labels.Selector // never nil
	Disabled     bool
	Priority     int // greater goes first
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
	ipv4 = family{"IPv4", 26, 20, 32, 30, "the network and broadcast address, the gateway, and one to give out"}
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
	pool.NodeSelector = parseSelector(&faults, "spec.nodeSelector", spec.GetNodeSelector())
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
	}
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
	if size := int(spec.GetMinBlockSize()); size != 0 {
		p.MinBlockBits = size
	}
	if p.MinBlockBits < p.BlockBits || p.MinBlockBits > family.smallestBlock {
		faults.add("spec.minBlockSize", p.MinBlockBits, "must be a prefix length from blockSize, %d, to %d", p.BlockBits, family.smallestBlock)
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

// Selects tells whether a node of these labels may use the pool, disabled or not.
func (p Pool) Selects(nodeLabels map[string]string) bool {
	return p.NodeSelector.Matches(labels.Set(nodeLabels))
}

// Address is an address as the CNI answer has it: with the pool's prefix length.
func (p Pool) Address(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, p.CIDR.Bits()) }

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
	faults.add("spec.cidr", candidate.CIDR, "overlaps IPPool/%s, %s%s; no two pools may overlap", met[0].Name, met[0].CIDR, more)
	return faults
}

// CheckChange tells what of a pool may not become of another one of its name while these blocks (or addresses, as
// prefixes of full length) of it are in use.
func CheckChange(was, candidate Pool, inUse []netip.Prefix) []*clearwayv1.FieldViolation {
	if len(inUse) == 0 {
		return nil
	}
	var faults violations
	if was.Kind != candidate.Kind {
		faults.add("spec.kind", candidate.Kind, "is %s, and %d prefixes of the pool are in use; make another pool", was.Kind, len(inUse))
	}
	for _, prefix := range inUse {
		if !cidr.Contains(candidate.CIDR, prefix) {
			faults.add("spec.cidr", candidate.CIDR, "leaves out %s, which is in use; keep it inside, or make another pool", prefix)
			break
		}
	}
	// Running Pods have the old one as their route out.
	if was.Gateway != candidate.Gateway {
		faults.add("spec.gateway", candidate.Gateway, "is %s for Pods that run; keep it, or make another pool", was.Gateway)
	}
	return faults
}
