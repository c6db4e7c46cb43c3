package node

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/proof"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Of the looks at the machine for addresses that nobody holds any more.
const (
	// lookAtMost is how far two looks are apart at least, and lookPause how far at most, whatever the grace time.
	lookAtMost = 500 * time.Millisecond
	lookPause  = 10 * time.Minute
	// lookTimeout bounds one look: thousands of processes and namespaces take a fraction of a second.
	lookTimeout = 30 * time.Second
	// faultsApart is how often the same reason for seeing too little is told again.
	faultsApart = time.Hour
)

// reconciler frees what attachments hold that are proven gone although no DEL came for them: a runtime forgets one when
// its sandbox failed, and no common main plugin hands CNI's GC on. It opens sealed blocks by the same looks.
type reconciler struct {
	*Node
	ledger proof.Ledger
	seals  map[netip.Prefix]*seal
	// fault is the last reason for seeing too little, and when it was told.
	fault     string
	faultTold time.Time
}

// run looks now and then, and at once when a Pod asked anew that has an older attachment.
func (r *reconciler) run(ctx context.Context) error {
	if r.options.Namespaces == nil {
		return nil
	}
	select {
	case <-r.settled:
	case <-ctx.Done():
		return nil
	}
	for {
		r.look(ctx)
		select {
		case <-time.After(lookAtMost):
		case <-ctx.Done():
			return nil
		}
		select {
		case <-r.lookDue:
		case <-time.After(r.pause()):
		case <-ctx.Done():
			return nil
		}
	}
}

// pause is how long after one look the next one comes by itself: the grace time has several.
func (r *reconciler) pause() time.Duration {
	return min(max(r.graceTime()/proof.Looks, lookAtMost), lookPause) - lookAtMost
}

// graceTime is the one in force. Where collecting is off, sealed blocks still need one.
func (r *reconciler) graceTime() time.Duration {
	if grace := r.book.configuration().LeakGrace; grace > 0 {
		return grace
	}
	return pool.DefaultConfiguration().LeakGrace
}

// look looks once, and does what it shows to be due.
func (r *reconciler) look(ctx context.Context) {
	holders, attachments := r.book.holdersNow() // before the look: who comes later is not judged by it
	sealed, known := r.book.sealedBlocks()
	if len(holders) == 0 && len(sealed) == 0 {
		r.ledger.Note(r.now(), 0, nil, nil)
		return
	}
	view := r.view(ctx)
	if ctx.Err() != nil {
		return
	}
	r.report(view)
	findings, unseen := r.judge(ctx, view, holders, attachments)
	free := r.ledger.Note(r.now(), r.graceTime(), holders, findings)
	r.metrics.suspects.Set(float64(r.ledger.Suspects()))
	r.metrics.unseen.Set(float64(unseen))
	if r.book.configuration().LeakGrace > 0 {
		for _, i := range free {
			r.free(ctx, attachments[i], holders[i], findings[i])
		}
	}
	r.unseal(ctx, sealed, known, view)
}

// judge tells what a view says of each holder, and of how many it says nothing.
func (r *reconciler) judge(ctx context.Context, view proof.View, holders []proof.Holder, attachments []*assignment) (findings []proof.Finding, unseen int) {
	findings = make([]proof.Finding, len(holders))
	var unknown []int
	for i, h := range holders {
		findings[i] = view.Judge(h, r.options.Namespaces.Sight(h.Namespace))
		if view.Fault == "" && findings[i].Standing == proof.Unknown {
			unknown = append(unknown, i)
		}
	}
	gone := r.missingPods(ctx, attachments, unknown)
	for _, i := range unknown {
		if gone[attachments[i].pod.UID] {
			holders[i].PodGone = true
			findings[i] = view.Judge(holders[i], r.options.Namespaces.Sight(holders[i].Namespace))
		}
		if findings[i].Standing == proof.Unknown {
			unseen++
		}
	}
	return findings, unseen
}

func (r *reconciler) view(ctx context.Context) proof.View {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return r.options.Namespaces.Look(ctx)
}

// report tells of a view that is not whole, once.
func (r *reconciler) report(view proof.View) {
	if view.Fault == "" {
		r.metrics.looks.WithLabelValues("whole").Inc()
		r.metrics.blind.Set(0)
		if r.fault != "" {
			r.log.Info("all network namespaces can be seen again")
		}
		r.fault = ""
		return
	}
	r.metrics.looks.WithLabelValues("blind").Inc()
	r.metrics.blind.Set(1)
	if view.Fault == r.fault && r.now().Sub(r.faultTold) < faultsApart {
		return
	}
	r.fault, r.faultTold = view.Fault, r.now()
	r.log.Warn("not all network namespaces can be seen: no address is freed without its DEL", "reason", view.Fault)
	r.event(eventWarning, "NamespacesHidden", "Node/"+r.options.Node,
		"addresses that no Pod holds any more are not collected, since not all network namespaces can be seen: "+view.Fault)
}

// free releases what a holder has, if it is still the same.
func (r *reconciler) free(ctx context.Context, a *assignment, h proof.Holder, found proof.Finding) {
	done, err := r.delProven(ctx, a, h.ID)
	switch {
	case err != nil && ctx.Err() == nil:
		r.log.Warn("attachment that is gone could not be released", "attachment", a.key, "error", err)
	case done:
		why := "gone"
		if h.Superseded {
			why = "superseded"
		}
		r.metrics.leaks.WithLabelValues(why).Inc()
		r.log.Warn("freed addresses for which no DEL came", "attachment", a.key, "pod", a.pod, "addresses", h.Addresses, "reason", found.Why)
		r.event(eventNormal, "AddressCollected", "Assignment/"+clearwayv1.PrefixName(h.Addresses[0].String()), fmt.Sprintf(
			"%s of Pod %s/%s (attachment %s) came free without a DEL: %s", join(h.Addresses), a.pod.Namespace, a.pod.Name, a.key, found.Why))
	}
}

func join(addresses []netip.Addr) string {
	texts := make([]string, len(addresses))
	for i, address := range addresses {
		texts[i] = address.String()
	}
	return strings.Join(texts, " and ")
}

// delProven is del of exactly the holding that was judged. False: something is newer, or somebody works on it.
func (n *Node) delProven(ctx context.Context, a *assignment, id proof.ID) (bool, error) {
	e := n.book.beginIdle(a.key)
	if e == nil {
		return false, nil
	}
	defer n.book.end(e)
	if n.book.idOf(a.key) != id {
		return false, nil
	}
	return true, n.release(ctx, a)
}

// holdersNow are all attachments that hold something and are in nobody's hands, as the proof wants them.
func (b *book) holdersNow() ([]proof.Holder, []*assignment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []*assignment
	newest := map[podKey]uint64{}
	for _, e := range b.entries {
		if a := e.held; a != nil {
			newest[a.podKey()] = max(newest[a.podKey()], a.number)
			if e.busy == nil {
				all = append(all, a)
			}
		}
	}
	slices.SortFunc(all, func(x, y *assignment) int { return cmp.Compare(x.number, y.number) })
	holders := make([]proof.Holder, len(all))
	for i, a := range all {
		holders[i] = proof.Holder{
			ID: b.idLocked(a.key), Namespace: a.netns, Addresses: a.addresses(),
			Superseded: a.pod.UID != "" && (newest[a.podKey()] > a.number || b.asking[a.podKey()] > 0),
		}
	}
	return holders, all
}

func (a *assignment) addresses() []netip.Addr {
	addresses := make([]netip.Addr, len(a.addrs))
	for i, h := range a.addrs {
		addresses[i] = h.Addr
	}
	return addresses
}

// podKey is an interface of a Pod, whatever sandbox it is in.
type podKey struct{ network, ifname, uid string }

func (k key) of(p pod) podKey { return podKey{k.Network, k.Ifname, p.UID} }

func (a *assignment) podKey() podKey { return a.key.of(a.pod) }

// configuration is the IPAMConfiguration in force.
func (b *book) configuration() pool.Configuration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.settings.configuration()
}

// ask notes an ADD in whose time older attachments of the same Pod's interface count as superseded. It returns what
// ends that, or nil where there is none.
func (b *book) ask(r request) (done func()) {
	if r.pod.UID == "" {
		return nil
	}
	k := r.key.of(r.pod)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pods[k] == 0 {
		return nil
	}
	b.asking[k]++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		count(b.asking, k, -1)
	}
}

// count adds to a count of which only those above 0 are kept.
func count(counts map[podKey]int, k podKey, more int) {
	if counts[k] += more; counts[k] <= 0 {
		delete(counts, k)
	}
}

func (b *book) idOf(k key) proof.ID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.idLocked(k)
}

func (b *book) idLocked(k key) proof.ID {
	e := b.entries[k]
	if e == nil || e.held == nil {
		return proof.ID{}
	}
	return proof.ID{Number: e.held.number, Told: e.told}
}
