package pool

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"

	"github.com/clearway/clearway/ipam/cidr"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Reservation is an IPReservation: addresses that are not given out.
type Reservation struct {
	Name   string
	Ranges []netipx.IPRange // in the order of the object
	Reason string
	Until  time.Time // zero: for ever
}

// InForce tells whether the reservation holds at a time.
func (r Reservation) InForce(now time.Time) bool { return r.Until.IsZero() || now.Before(r.Until) }

// Contains tells whether the reservation is of an address.
func (r Reservation) Contains(address netip.Addr) bool {
	return slices.ContainsFunc(r.Ranges, func(one netipx.IPRange) bool { return one.Contains(address) })
}

// Reserved are the ranges of the reservations that hold at a time, and when the first of these ends (zero: none does).
func Reserved(reservations []Reservation, now time.Time) (ranges []netipx.IPRange, until time.Time) {
	for _, one := range reservations {
		if !one.InForce(now) {
			continue
		}
		ranges = append(ranges, one.Ranges...)
		if !one.Until.IsZero() && (until.IsZero() || one.Until.Before(until)) {
			until = one.Until
		}
	}
	return ranges, until
}

// maxRanges bounds one IPReservation: every block is compared with every range.
const maxRanges = 1000

// ParseReservation reads a reservation and tells every fault of it.
func ParseReservation(object *clearwayv1.IPReservation) (Reservation, []*clearwayv1.FieldViolation) {
	var faults violations
	texts := object.GetSpec().GetCidrs()
	reservation := Reservation{Name: object.GetMetadata().GetName(), Reason: object.GetSpec().GetReason()}
	if text := object.GetSpec().GetUntil(); text != "" {
		until, err := time.Parse(time.RFC3339, text)
		if err != nil {
			faults.add("spec.until", text, "is not a time; write it as RFC 3339 has it, such as 2027-01-31T18:00:00Z or 2027-01-31T19:00:00+01:00")
		}
		reservation.Until = until
	}
	switch {
	case len(texts) == 0:
		faults.add("spec.cidrs", "", "is required: prefixes, addresses, or ranges such as 192.0.2.10-192.0.2.20")
	case len(texts) > maxRanges:
		faults.add("spec.cidrs", fmt.Sprintf("%d entries", len(texts)), "must have at most %d entries; use larger ranges, or a second IPReservation", maxRanges)
		return reservation, faults
	}
	for i, text := range texts {
		addresses, err := cidr.ParseRange(text)
		if err != nil {
			faults.add(fmt.Sprintf("spec.cidrs[%d]", i), text, "%s", cidr.Reason(err))
			continue
		}
		reservation.Ranges = append(reservation.Ranges, addresses)
	}
	return reservation, faults
}

// Configuration is an IPAMConfiguration with its defaults filled in.
type Configuration struct {
	// Cooldown is how long a freed address or block rests.
	Cooldown time.Duration
	// LowWater is how many ready addresses of a pool a node wants before it claims another block; see LowWaterOf.
	LowWater int
	// BlockIdleTime is how long a whole further block must stay free before a freed block is given back; 0: never.
	BlockIdleTime time.Duration
	// LeakGrace is how long an attachment must be seen to have gone before an agent frees what it holds; 0: never.
	LeakGrace time.Duration
	// OrphanGrace is how long nobody must have held an orphaned block's prefix for it to be given on; 0: never.
	OrphanGrace time.Duration
	// StatusFailsWhenFull: CNI's STATUS fails on a node without an address to give.
	StatusFailsWhenFull bool
	// RecoveryWait is how long claims wait at least after the store was restored.
	RecoveryWait time.Duration
	// HistoryRetention is how long it is kept who held an address; 0: no history is kept.
	HistoryRetention time.Duration
	// HistoryQuota is the most that the history may take of the store, in bytes.
	HistoryQuota int64
}

// DefaultConfiguration is what holds where there is no IPAMConfiguration.
func DefaultConfiguration() Configuration {
	return Configuration{
		Cooldown:      130 * time.Second, // conntrack's SYN_SENT outlives 120 s
		LowWater:      8,                 // Pods that start while a claim is on its way
		BlockIdleTime: 10 * time.Minute,  // a rolling update ends within it
		LeakGrace:     5 * time.Minute,   // longer than a runtime takes for a sandbox, by far
		OrphanGrace:   time.Hour,         // longer than a person takes who pulls a cable
		RecoveryWait:  30 * time.Second,  // agents try a lost ipamd again within 23 s

		HistoryRetention: 7 * 24 * time.Hour, // what happened at the weekend is asked for on Monday
		HistoryQuota:     256 << 20,          // an eighth of etcd's default quota
	}
}

// minOrphanGrace is the least time in which there are looks enough at what the agents report.
const minOrphanGrace = 10 * time.Second

// minHistoryRetention is the span by which the history is dropped.
const minHistoryRetention = time.Hour

// LowWaterOf is LowWater for a block of a number of addresses: never more than a quarter of it.
func (c Configuration) LowWaterOf(addresses uint64) int {
	return int(min(uint64(c.LowWater), addresses/4))
}

// ParseIPAMConfiguration reads the settings, fills in defaults and tells every fault; nil has all the defaults.
func ParseIPAMConfiguration(object *clearwayv1.IPAMConfiguration) (Configuration, []*clearwayv1.FieldViolation) {
	var faults violations
	spec := object.GetSpec()
	settings := DefaultConfiguration()
	const day = 24 * time.Hour
	settings.Cooldown = faults.duration("spec.cooldown", spec.GetCooldown(), settings.Cooldown, 0, day)
	settings.BlockIdleTime = faults.duration("spec.blockIdleTime", spec.GetBlockIdleTime(), settings.BlockIdleTime, 0, 30*day)
	settings.LeakGrace = faults.duration("spec.leakGrace", spec.GetLeakGrace(), settings.LeakGrace, 0, day)
	settings.OrphanGrace = faults.duration("spec.orphanGrace", spec.GetOrphanGrace(), settings.OrphanGrace, 0, 30*day)
	if settings.OrphanGrace > 0 && settings.OrphanGrace < minOrphanGrace {
		faults.add("spec.orphanGrace", spec.GetOrphanGrace(), "must be 0s (never) or from %s to %s", minOrphanGrace, 30*day)
	}
	settings.StatusFailsWhenFull = spec.GetStatusFailsWhenFull()
	settings.RecoveryWait = faults.duration("spec.recoveryWait", spec.GetRecoveryWait(), settings.RecoveryWait, 0, time.Hour)
	settings.HistoryRetention = faults.duration("spec.historyRetention", spec.GetHistoryRetention(), settings.HistoryRetention, 0, 365*day)
	if settings.HistoryRetention > 0 && settings.HistoryRetention < minHistoryRetention {
		faults.add("spec.historyRetention", spec.GetHistoryRetention(), "must be 0s (no history) or from %s to %s", minHistoryRetention, 365*day)
	}
	settings.HistoryQuota = faults.bytes("spec.historyQuota", spec.GetHistoryQuota(), settings.HistoryQuota, 1<<20, 4<<30)
	if spec != nil && spec.LowWater != nil {
		if low := spec.GetLowWater(); low < 0 || low > 1024 {
			faults.add("spec.lowWater", low, "must be from 0 to 1024 addresses")
		} else {
			settings.LowWater = int(low)
		}
	}
	return settings, faults
}

// Excluded are the addresses of a block that are never given out, in ascending order, none overlapping: reserved
// ranges, the gateway, and the first and last addresses of the subnet that Pods see: by default for IPv4 the network and
// broadcast address, for IPv6 the subnet-router anycast address (RFC 4291 section 2.6.1). They are the pool's, those of
// its former prefixes, or, of a Rigid pool, the block's own. An address that ends in .0 or .255 inside the subnet is one
// like any other, unless the pool avoids them.
func Excluded(pool Pool, block netip.Prefix, reserved []netipx.IPRange) []netipx.IPRange {
	var builder netipx.IPSetBuilder
	for _, addresses := range reserved {
		if addresses.From().Is4() == block.Addr().Is4() {
			builder.AddRange(addresses)
		}
	}
	pool.excludeEnds(&builder, block)
	if pool.AvoidBuggyIPs {
		excludeBuggy(&builder, block)
	}
	var within netipx.IPSetBuilder
	within.AddPrefix(block)
	inside, _ := within.IPSet() // its parts are valid: they come from parsed values
	builder.Intersect(inside)
	set, _ := builder.IPSet()
	return set.Ranges()
}

// excludeEnds leaves out the gateway and the ends of the subnet that Pods with an address in a block see, and what Pods
// that run from before a change of the pool take for these.
func (p Pool) excludeEnds(builder *netipx.IPSetBuilder, block netip.Prefix) {
	subnet := p.CIDR
	if p.Rigid {
		subnet = block
	}
	excludeEnds(builder, subnet, p.ReservedFirst, p.ReservedLast)
	if _, gateway := p.Link(block); gateway.IsValid() {
		builder.Add(gateway)
	}
	for _, former := range p.FormerCIDRs {
		excludeEnds(builder, former, 1, defaultReservedLast(former))
	}
	for _, gateway := range p.FormerGateways {
		builder.Add(gateway)
	}
}

func excludeEnds(builder *netipx.IPSetBuilder, subnet netip.Prefix, first, last int) {
	if first > 0 {
		end, _ := cidr.Add(subnet.Addr(), uint64(first-1)) // inside the subnet: Parse saw to it
		builder.AddRange(netipx.IPRangeFrom(subnet.Addr(), end))
	}
	if last > 0 {
		from, _ := cidr.Subtract(cidr.Last(subnet), uint64(last-1))
		builder.AddRange(netipx.IPRangeFrom(from, cidr.Last(subnet)))
	}
}

// excludeBuggy leaves out the addresses of an IPv4 block that end in .0 or .255.
func excludeBuggy(builder *netipx.IPSetBuilder, block netip.Prefix) {
	if !block.Addr().Is4() {
		return
	}
	for at, more := netip.PrefixFrom(block.Addr(), 24).Masked().Addr(), true; more && at.Less(cidr.Last(block).Next()); {
		builder.Add(at)
		builder.Add(cidr.Last(netip.PrefixFrom(at, 24)))
		at, more = cidr.Add(at, 256)
	}
}
