package service

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/clearway/clearway/ipam/pool"
)

// Held is what a Service was given.
type Held struct {
	UID       string
	Addresses []Address // one a family at most, IPv4 first
	Since     time.Time
}

// Address is one address and the pool that it was given of.
type Address struct {
	netip.Addr
	Pool string
}

// Input is all that Give goes by.
type Input struct {
	Services     map[string]*Service // all there are, by Key
	Held         map[string]Held     // by Key
	Pools        []pool.Pool         // of all kinds
	Reservations []pool.Reservation
	DefaultClass bool
	Now          time.Time
}

// Answer is what became of a Service.
type Answer struct {
	UID string
	// Addresses are those that it has, and that its status is to show.
	Addresses []netip.Addr
	// Refusal is why it lacks an address, in a sentence; empty: it lacks none.
	Refusal string
}

// Give decides which addresses each Service has from now on. refused says of those that lack something, in a sentence, why.
//
// What was given stays given, whatever becomes of pools and selectors: it ends with the Service, or when the Service itself
// asks for another address that is to be had. Of several that can no longer share one address the first keeps it. New
// addresses are given after all that was given before, and after those that Services show in their status: of these nobody
// else gets one before its Service had its turn.
func Give(in Input) (given map[string]Held, refused map[string]string) {
	b := &book{
		Input: in, users: map[netip.Addr][]*Service{}, shared: map[sharing][]netip.Addr{}, cursors: map[string]*cursor{}, given: map[string]Held{}, refused: map[string]string{},
	}
	b.Pools = slices.SortedFunc(slices.Values(in.Pools), func(a, c pool.Pool) int {
		return cmp.Or(cmp.Compare(c.Priority, a.Priority), cmp.Compare(a.Name, c.Name))
	})
	b.keep()
	lost, order := b.refused, b.inOrder()
	for range maxRounds {
		b.moved, b.refused = false, maps.Clone(lost)
		for _, s := range order {
			b.complete(s)
		}
		if !b.moved {
			break
		}
	}
	return b.given, b.refused
}

// maxRounds bounds how often all are looked at again since one has left an address that another one may have asked for. The
// next call goes on from there.
const maxRounds = 10

// book is one run of Give.
type book struct {
	Input
	users   map[netip.Addr][]*Service
	shared  map[sharing][]netip.Addr // in the order in which they were put
	cursors map[string]*cursor       // by pool: all before it is taken
	given   map[string]Held
	refused map[string]string
	moved   bool // one has left an address for another
}

// sharing is what Services that may share an address have in common.
type sharing struct{ namespace, key string }

func sharingOf(s *Service) sharing { return sharing{s.Namespace, s.SharingKey} }

// cursor is how far a pool was searched: what may be given, ascending, from next on (invalid: from the first part's begin).
type cursor struct {
	parts []netip.Prefix
	next  netip.Addr
}

// keep takes over what was given, the oldest first.
func (b *book) keep() {
	keys := slices.SortedFunc(maps.Keys(b.Held), func(x, y string) int {
		return cmp.Or(b.Held[x].Since.Compare(b.Held[y].Since), cmp.Compare(x, y))
	})
	for _, key := range keys {
		s, held := b.Services[key], b.Held[key]
		if s == nil || s.UID != held.UID || !s.Ours(b.DefaultClass) {
			continue
		}
		for _, addr := range held.Addresses {
			if !slices.Contains(s.Families, FamilyOf(addr.Addr)) {
				continue
			}
			if why := b.conflict(addr.Addr, s); why != "" {
				b.refuse(s, fmt.Sprintf("it no longer has %s: %s", addr, why))
				continue
			}
			b.put(s, addr, held.Since)
		}
	}
}

// inOrder are the Services that get addresses here: first those that show one, then the older ones.
func (b *book) inOrder() []*Service {
	var all []*Service
	for _, s := range b.Services {
		if s.Ours(b.DefaultClass) {
			all = append(all, s)
		}
	}
	rank := func(s *Service) int {
		if len(s.Ingress) > 0 {
			return 0
		}
		return 1
	}
	slices.SortFunc(all, func(x, y *Service) int {
		return cmp.Or(cmp.Compare(rank(x), rank(y)), x.Created.Compare(y.Created), cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	return all
}

// complete gives a Service what it lacks.
func (b *book) complete(s *Service) {
	if s.Fault != "" {
		b.refuse(s, s.Fault)
		return
	}
	var taken []Address
	for _, family := range s.Families {
		has := b.of(s, family)
		asked := inFamily(s.Asked, family)
		if has.IsValid() && (!asked.IsValid() || asked == has.Addr) {
			continue
		}
		addr, why := b.find(s, family, asked)
		if why != "" {
			b.refuse(s, why)
			continue
		}
		if has.IsValid() { // it has asked for another one
			b.drop(s, has)
			b.moved = true
		} else {
			taken = append(taken, addr)
		}
		b.put(s, addr, b.Now)
	}
	if s.AllFamilies && b.refused[s.Key()] != "" && len(b.given[s.Key()].Addresses) < len(s.Families) {
		for _, addr := range taken {
			b.drop(s, addr)
		}
	}
}

// find looks for an address of a family for a Service; why: there is none.
func (b *book) find(s *Service, family Family, asked netip.Addr) (found Address, why string) {
	if asked.IsValid() {
		of, why := b.may(asked, s)
		return Address{asked, of}, why
	}
	if shown := inFamily(s.Ingress, family); shown.IsValid() {
		if of, why := b.may(shown, s); why == "" {
			return Address{shown, of}, ""
		}
	}
	if s.SharingKey != "" {
		for _, addr := range b.shared[sharingOf(s)] {
			if FamilyOf(addr) != family {
				continue
			}
			if of, why := b.may(addr, s); why == "" {
				return Address{addr, of}, ""
			}
		}
	}
	return b.any(s, family)
}

// may tells of which pool a Service may have an address, or why it may not.
func (b *book) may(addr netip.Addr, s *Service) (of, why string) {
	at := slices.IndexFunc(b.Pools, func(p pool.Pool) bool { return p.Kind == pool.LoadBalancer && p.CIDR.Contains(addr) })
	if at < 0 {
		return "", fmt.Sprintf("%s is in no pool of kind %s", addr, pool.LoadBalancer)
	}
	from := b.Pools[at]
	if why := b.closed(from, s); why != "" {
		return "", fmt.Sprintf("%s cannot be had: %s", addr, why)
	}
	for _, one := range b.Reservations {
		if one.InForce(b.Now) && one.Contains(addr) {
			return "", fmt.Sprintf("%s is reserved by IPReservation %s", addr, one.Name)
		}
	}
	for _, ends := range pool.Excluded(from, netip.PrefixFrom(addr, addr.BitLen()), nil) {
		if ends.Contains(addr) {
			return "", fmt.Sprintf("%s is given to nobody, by the rules of pool %s", addr, from.Name)
		}
	}
	if why := b.conflict(addr, s); why != "" {
		return "", fmt.Sprintf("%s cannot be had: %s", addr, why)
	}
	return from.Name, ""
}

// closed tells why a pool is not for a Service; "": it is.
func (b *book) closed(from pool.Pool, s *Service) string {
	named := slices.Contains(s.Pools, from.Name)
	switch {
	case from.Draining():
		return fmt.Sprintf("pool %s is being deleted", from.Name)
	case from.Disabled:
		return fmt.Sprintf("pool %s is disabled", from.Name)
	case len(s.Pools) > 0 && !named:
		return fmt.Sprintf("pool %s is none of those in the annotation clearway.io/pools (%s)", from.Name, strings.Join(s.Pools, ", "))
	case !from.ServiceSelector.Matches(labels.Set(s.labelsFor(pool.NamespaceNameLabel))):
		return fmt.Sprintf("the serviceSelector of pool %s (%s) does not take it", from.Name, from.ServiceSelector)
	}
	return ""
}

// conflict tells why a Service cannot have an address, for those who have it; "": it can.
func (b *book) conflict(addr netip.Addr, s *Service) string {
	for _, other := range b.users[addr] {
		if other == s {
			continue
		}
		if why := s.shares(other); why != "" {
			return fmt.Sprintf("Service %s %s", other.Key(), why)
		}
	}
	return ""
}

// any takes a free address of the first pool that has one: of those that the Service names, in their order, else of all.
func (b *book) any(s *Service, family Family) (found Address, why string) {
	pools, reasons := b.Pools, []string(nil)
	if len(s.Pools) > 0 {
		pools = nil
		for _, name := range s.Pools {
			at := slices.IndexFunc(b.Pools, func(p pool.Pool) bool { return p.Name == name })
			switch {
			case at < 0:
				reasons = append(reasons, fmt.Sprintf("there is no pool %s", name))
			case b.Pools[at].Kind != pool.LoadBalancer:
				reasons = append(reasons, fmt.Sprintf("pool %s is of kind %s", name, b.Pools[at].Kind))
			default:
				pools = append(pools, b.Pools[at])
			}
		}
	}
	for _, from := range pools {
		if from.Kind != pool.LoadBalancer || FamilyOf(from.CIDR.Addr()) != family {
			continue
		}
		if why := b.closed(from, s); why != "" {
			reasons = append(reasons, why)
			continue
		}
		if addr, ok := b.lowest(from); ok {
			return Address{addr, from.Name}, ""
		}
		reasons = append(reasons, fmt.Sprintf("pool %s (%s) has no free address: %d are given", from.Name, from.CIDR, b.usersIn(from)))
	}
	if len(reasons) == 0 {
		return Address{}, fmt.Sprintf("there is no pool of kind %s for %s", pool.LoadBalancer, family)
	}
	return Address{}, fmt.Sprintf("no %s address: %s", family, strings.Join(reasons, "; "))
}

// lowest finds the lowest free address of a pool.
func (b *book) lowest(from pool.Pool) (netip.Addr, bool) {
	at := b.cursors[from.Name]
	if at == nil {
		reserved, _ := pool.Reserved(b.Reservations, b.Now)
		at = &cursor{parts: from.Parts(from.CIDR.Addr().BitLen(), reserved)}
		b.cursors[from.Name] = at
	}
	for len(at.parts) > 0 {
		if !at.next.IsValid() {
			at.next = at.parts[0].Addr()
		}
		for ; at.next.IsValid() && at.parts[0].Contains(at.next); at.next = at.next.Next() {
			if len(b.users[at.next]) == 0 && (!from.AvoidBuggyIPs || len(pool.Excluded(from, netip.PrefixFrom(at.next, at.next.BitLen()), nil)) == 0) {
				return at.next, true
			}
		}
		at.parts, at.next = at.parts[1:], netip.Addr{}
	}
	return netip.Addr{}, false
}

// usersIn counts the addresses of a pool that somebody has.
func (b *book) usersIn(from pool.Pool) (count int) {
	for addr := range b.users {
		if from.CIDR.Contains(addr) {
			count++
		}
	}
	return count
}

func (b *book) put(s *Service, addr Address, since time.Time) {
	b.users[addr.Addr] = append(b.users[addr.Addr], s)
	if s.SharingKey != "" && !slices.Contains(b.shared[sharingOf(s)], addr.Addr) {
		b.shared[sharingOf(s)] = append(b.shared[sharingOf(s)], addr.Addr)
	}
	held := b.given[s.Key()]
	held.UID = s.UID
	if held.Since.IsZero() || since.Before(held.Since) {
		held.Since = since
	}
	held.Addresses = append(held.Addresses, addr)
	slices.SortFunc(held.Addresses, func(x, y Address) int { return x.Addr.Compare(y.Addr) })
	b.given[s.Key()] = held
}

func (b *book) drop(s *Service, addr Address) {
	b.users[addr.Addr] = slices.DeleteFunc(b.users[addr.Addr], func(one *Service) bool { return one == s })
	if len(b.users[addr.Addr]) == 0 {
		delete(b.users, addr.Addr)
		delete(b.cursors, addr.Pool) // there is one before it that is free now
		b.shared[sharingOf(s)] = slices.DeleteFunc(b.shared[sharingOf(s)], func(one netip.Addr) bool { return one == addr.Addr })
	}
	held := b.given[s.Key()]
	held.Addresses = slices.DeleteFunc(held.Addresses, func(one Address) bool { return one == addr })
	if b.given[s.Key()] = held; len(held.Addresses) == 0 {
		delete(b.given, s.Key())
	}
}

// of is the address of a family that a Service has; invalid: it has none.
func (b *book) of(s *Service, family Family) Address {
	for _, addr := range b.given[s.Key()].Addresses {
		if FamilyOf(addr.Addr) == family {
			return addr
		}
	}
	return Address{}
}

func (b *book) refuse(s *Service, why string) {
	if before := b.refused[s.Key()]; before != "" {
		why = before + "; " + why
	}
	b.refused[s.Key()] = why
}

func inFamily(list []netip.Addr, family Family) netip.Addr {
	for _, addr := range list {
		if FamilyOf(addr) == family {
			return addr
		}
	}
	return netip.Addr{}
}
