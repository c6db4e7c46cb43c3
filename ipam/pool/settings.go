package pool

import (
	"fmt"
	"net/netip"
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
}

// maxRanges bounds one IPReservation: every block is compared with every range.
const maxRanges = 1000

// ParseReservation reads a reservation and tells every fault of it.
func ParseReservation(object *clearwayv1.IPReservation) (Reservation, []*clearwayv1.FieldViolation) {
	var faults violations
	texts := object.GetSpec().GetCidrs()
	reservation := Reservation{Name: object.GetMetadata().GetName(), Reason: object.GetSpec().GetReason()}
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
}

// DefaultConfiguration is what holds where there is no IPAMConfiguration.
func DefaultConfiguration() Configuration {
	return Configuration{
		Cooldown:      130 * time.Second, // conntrack's SYN_SENT outlives 120 s
		LowWater:      8,                 // Pods that start while a claim is on its way
		BlockIdleTime: 10 * time.Minute,  // a rolling update ends within it
	}
}

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
	if spec != nil && spec.LowWater != nil {
		if low := spec.GetLowWater(); low < 0 || low > 1024 {
			faults.add("spec.lowWater", low, "must be from 0 to 1024 addresses")
		} else {
			settings.LowWater = int(low)
		}
	}
	return settings, faults
}

// Excluded are the addresses of a block that are never given out, in ascending order, none overlapping: the pool's
// gateway, reserved ranges, for IPv4 the pool's network and broadcast address, for IPv6 the pool's subnet-router
// anycast address (RFC 4291 section 2.6.1). An address that ends in .0 or .255 inside the pool is one like any other:
// Pods have the pool's prefix length, so that only the pool's own ends are special.
func Excluded(pool Pool, block netip.Prefix, reserved []netipx.IPRange) []netipx.IPRange {
	var builder netipx.IPSetBuilder
	for _, addresses := range reserved {
		if addresses.From().Is4() == block.Addr().Is4() {
			builder.AddRange(addresses)
		}
	}
	if pool.Kind != LoadBalancer {
		builder.Add(pool.CIDR.Addr())
		builder.Add(pool.Gateway)
		if pool.CIDR.Addr().Is4() {
			builder.Add(cidr.Last(pool.CIDR))
		}
	}
	var within netipx.IPSetBuilder
	within.AddPrefix(block)
	inside, _ := within.IPSet() // its parts are valid: they come from parsed values
	builder.Intersect(inside)
	set, _ := builder.IPSet()
	return set.Ranges()
}
