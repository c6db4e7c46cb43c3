package server

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// The phases of a reservation.
const (
	reservationActive  = "Active"
	reservationExpired = "Expired"
)

// putReservation takes a reservation in, or, without one, out; blocks are then carved from other parts.
func (s *state) putReservation(name string, made *clearwayv1.IPReservation) {
	at, found := slices.BinarySearchFunc(s.reserved, name, func(one pool.Reservation, name string) int {
		return strings.Compare(one.Name, name)
	})
	if found {
		s.reserved = slices.Delete(s.reserved, at, at+1)
	}
	if made != nil {
		reservation, _ := pool.ParseReservation(made) // it was accepted
		s.reserved = slices.Insert(s.reserved, at, reservation)
	}
	for _, one := range s.pools {
		one.parts = nil
	}
}

// partsOf are the parts of a pool from which blocks of a length are carved at a time.
func (s *state) partsOf(one *poolState, length int, now time.Time) []netip.Prefix {
	if one.parts == nil || !one.partsUntil.IsZero() && !now.Before(one.partsUntil) {
		one.parts = map[int][]netip.Prefix{}
		_, one.partsUntil = pool.Reserved(s.reserved, now)
	}
	parts, known := one.parts[length]
	if !known {
		ranges, _ := pool.Reserved(s.reserved, now)
		parts = one.Parts(length, ranges)
		one.parts[length] = parts
	}
	return parts
}

// reservationOf finds the reservation in force that an address is of; nil: none is.
func (s *state) reservationOf(address netip.Addr, now time.Time) *pool.Reservation {
	for i, one := range s.reserved {
		if one.InForce(now) && one.Contains(address) {
			return &s.reserved[i]
		}
	}
	return nil
}

// reservationText is a reservation in words.
func reservationText(one *pool.Reservation) string {
	text := "IPReservation " + one.Name
	if one.Reason != "" {
		text += fmt.Sprintf(" (%s)", one.Reason)
	}
	if !one.Until.IsZero() {
		text += " until " + one.Until.Format(time.RFC3339)
	}
	return text
}

// heldIn are the assignments that lie in a reservation, by address.
func (s *state) heldIn(one pool.Reservation) []*clearwayv1.AssignmentSpec {
	var builder netipx.IPSetBuilder
	for _, addresses := range one.Ranges {
		builder.AddRange(addresses)
	}
	set, _ := builder.IPSet() // its parts are valid: they come from parsed values
	held := map[netip.Addr]*clearwayv1.AssignmentSpec{}
	for _, of := range s.assignments {
		for address, spec := range of {
			if set.Contains(address) {
				held[address] = spec
			}
		}
	}
	var all []*clearwayv1.AssignmentSpec
	for _, address := range slices.SortedFunc(maps.Keys(held), netip.Addr.Compare) {
		all = append(all, held[address])
	}
	return all
}

// reservationStatus is a reservation with its status; the given one is not changed.
func (s *state) reservationStatus(made *clearwayv1.IPReservation, now time.Time) *clearwayv1.IPReservation {
	parsed, _ := pool.ParseReservation(made) // it was accepted
	next := proto.CloneOf(made)
	next.Status = &clearwayv1.IPReservationStatus{Phase: reservationActive, Assigned: int64(len(s.heldIn(parsed)))}
	if !parsed.InForce(now) {
		next.Status.Phase = reservationExpired
	}
	return next
}

// reservationWarnings tell what a reservation does not change.
func (s *state) reservationWarnings(made *clearwayv1.IPReservation, now time.Time) []string {
	parsed, _ := pool.ParseReservation(made) // it was accepted
	if !parsed.InForce(now) {
		return []string{fmt.Sprintf("until, %s, is over: it has no effect", made.GetSpec().GetUntil())}
	}
	held := s.heldIn(parsed)
	if len(held) == 0 {
		return nil
	}
	const told = 5
	var holders []string
	for _, spec := range held[:min(told, len(held))] {
		holders = append(holders, fmt.Sprintf("%s by %s on node %s", spec.GetAddress(), holderOf(spec), spec.GetNode()))
	}
	if more := len(held) - told; more > 0 {
		holders = append(holders, fmt.Sprintf("and %d more", more))
	}
	return []string{fmt.Sprintf("%d addresses in it are held, and stay so until who holds them ends: %s", len(held), strings.Join(holders, ", "))}
}
