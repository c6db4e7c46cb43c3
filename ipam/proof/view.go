package proof

import (
	"fmt"
	"net/netip"
)

// View is what one look at the whole machine found.
type View struct {
	// Fault is why the view may lack something. Empty: it is whole, and what is not in it is not there.
	Fault string
	// Places are the network namespaces that have an address on one of their interfaces, by address; the host's own
	// is one of them. Addresses that mean nothing beyond a link are left out.
	Places map[netip.Addr][]Place
	// Reached are the addresses that the host's kernel has a route for, for each alone, or a neighbour that answers.
	Reached map[netip.Addr]string
}

// Place is a network namespace and a path that led to it.
type Place struct {
	Self File
	Path string
}

// Has tells whether something on the machine has an address, and what.
func (v View) Has(address netip.Addr) (string, bool) {
	if places := v.Places[address]; len(places) > 0 {
		return fmt.Sprintf("%s is in network namespace %s", address, places[0].Path), true
	}
	if how, ok := v.Reached[address]; ok {
		return fmt.Sprintf("%s: the kernel has %s", address, how), true
	}
	return "", false
}

// Holder is an attachment that holds addresses.
type Holder struct {
	// ID tells this holding from every other one: an attachment that is given something anew has another.
	ID        ID
	Namespace Namespace
	Addresses []netip.Addr
	// Superseded: the same interface of the same Pod was asked for later, by another sandbox.
	Superseded bool
	// PodGone: Kubernetes was asked, and has no Pod of its UID.
	PodGone bool
}

// ID is a journal's number of the record that gave the addresses, and how often the attachment was told them since.
type ID struct{ Number, Told uint64 }

// Judge tells whether a holder is proven gone: its namespace is, no other one has one of its addresses, and the kernel
// leads to none of them. The sighting is of its namespace's path.
//
// Of a namespace of which nothing is known, Kubernetes' word that the Pod is gone stands in: that alone proves nothing, as
// a Pod deleted by force runs on while its node is cut off, but its address is in a namespace or the kernel leads to it then.
func (v View) Judge(h Holder, s Sighting) Finding {
	if v.Fault != "" {
		return Finding{Unknown, "not all can be seen: " + v.Fault}
	}
	found := h.Namespace.Compare(s)
	if found.Standing == Unknown && h.PodGone {
		found = Finding{Gone, "Kubernetes has no Pod of its UID, and nothing on the machine has its address; " + found.Why}
	}
	if found.Standing != Gone {
		return found
	}
	for _, address := range h.Addresses {
		if why, has := v.Has(address); has {
			return Finding{Alive, why}
		}
	}
	return found
}
