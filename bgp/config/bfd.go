package config

import (
	"cmp"
	"time"

	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// watch is the BFD session of a neighbour: own is what was written for it, configured what the BGPConfiguration has for
// what own leaves out. It is nil where own is absent or disabled.
func watch(own, configured *clearwayv1.BFD, n Neighbor) *route.Watch {
	if own == nil || own.GetDisabled() {
		return nil
	}
	w := &route.Watch{
		Peer: n.Address, Local: n.SourceAddress, Multihop: n.MultihopTTL > 0,
		MinTx:      durationOr(own.GetMinTx(), durationOr(configured.GetMinTx(), defaults.bfdInterval)),
		MinRx:      durationOr(own.GetMinRx(), durationOr(configured.GetMinRx(), defaults.bfdInterval)),
		Multiplier: uint8(cmp.Or(own.GetMultiplier(), configured.GetMultiplier(), defaults.bfdMultiplier)),
	}
	if own.Multihop != nil {
		w.Multihop = own.GetMultihop()
	}
	if w.Multihop {
		// Sent with 255, and each router on the way takes one. A TTL of n lets a packet pass n-1 of them.
		const sent = 255
		w.MinTTL = uint8(cmp.Or(own.GetMinTtl(), sent+1-max(1, int32(n.MultihopTTL))))
	}
	return w
}

// bfd lists what is wrong with a BFD.
func (f *faults) bfd(spec *clearwayv1.BFD) {
	for _, one := range []struct{ field, text string }{
		{"spec.bfd.minTx", spec.GetMinTx()}, {"spec.bfd.minRx", spec.GetMinRx()},
	} {
		f.interval(one.field, one.text)
	}
	if times := spec.GetMultiplier(); times < 0 || times > 255 {
		f.add("spec.bfd.multiplier", times, "must be 1 to 255, or absent for %d", defaults.bfdMultiplier)
	}
	switch ttl := spec.GetMinTtl(); {
	case ttl < 0 || ttl > 255:
		f.add("spec.bfd.minTTL", ttl, "must be 1 to 255, or absent for 256 less the session's multihopTTL")
	case ttl > 0 && spec.Multihop != nil && !spec.GetMultihop():
		f.add("spec.bfd.minTTL", ttl, "is for multihop alone: a single hop's packets must arrive with 255")
	}
}

func (f *faults) interval(field, text string) {
	const least, most = 10 * time.Millisecond, time.Minute
	if text == "" {
		return
	}
	value, err := time.ParseDuration(text)
	switch {
	case err != nil:
		f.add(field, text, "is no duration; write it as 300ms or 1s")
	case value < least || value > most:
		f.add(field, text, "must be %s to %s", least, most)
	case value%time.Microsecond != 0:
		f.add(field, text, "must be whole microseconds: BFD counts in them")
	}
}
