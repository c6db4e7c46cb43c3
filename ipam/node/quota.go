package node

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const (
	// quotaAhead is how many addresses of a quota a node asks for beyond what it needs, and quotaLow below how many it does.
	quotaAhead, quotaLow = 8, 2
	// quotaIdle is how long a node keeps more than twice quotaAhead that it does not use.
	quotaIdle = 10 * time.Second
	// quotaPatience is how long an ADD waits for what other nodes do not use: they are asked for it at once.
	quotaPatience = 3 * time.Second
	// quotaAgain is how soon more is asked for again that was not to be had.
	quotaAgain = 500 * time.Millisecond
	// keepQuotasEvery is how often allowances are looked at without being woken.
	keepQuotasEvery = time.Second
)

// quotas is what the node may give, and has given, of each quota with a limit of addresses. It is part of the book, under its
// mutex. What is in allowances is durable, or lower than what is.
type quotas struct {
	allowances map[string]allowanceRecord // by quota
	uses       map[string]*quotaUse       // of those that are configured
	charged    map[netip.Addr][]string    // by which quotas a reserved address counts; never one that is held
}

// quotaUse is how a quota stands on this node.
type quotaUse struct {
	used int64
	// need is how many more an ADD waits for.
	need int64
	// giveBack: ipamd wants what is not used. untold: it may believe in another allowance than the node.
	giveBack, untold bool
	// spareSince is since when far more than needed is there; zero: it is not.
	spareSince time.Time
	// answer is ipamd's last one that left an ADD waiting, and when it came; nil: none did.
	answer     *clearwayv1.SetAllowanceResponse
	answeredAt time.Time
}

func newQuotas() quotas {
	return quotas{allowances: map[string]allowanceRecord{}, uses: map[string]*quotaUse{}, charged: map[netip.Addr][]string{}}
}

// of is the allowance of a quota; one of a former quota of its name is none.
func (q *quotas) of(quota pool.Quota) allowanceRecord {
	if r := q.allowances[quota.Name]; r.UID == quota.UID {
		return r
	}
	return allowanceRecord{Quota: quota.Name, UID: quota.UID}
}

// set takes what is durable. Within one generation an allowance only becomes less: it may be lower by now than this record.
func (q *quotas) set(r allowanceRecord) {
	if have := q.allowances[r.Quota]; have.UID == r.UID && have.Generation == r.Generation {
		r.Amount = min(r.Amount, have.Amount)
	}
	q.allowances[r.Quota] = r
}

// quotasTaking are the quotas that take a Pod, by what is known of it now.
func (b *book) quotasTaking(r request) (names []string) {
	if r.query.Pod == nil {
		return nil
	}
	for _, q := range b.settings.quotas {
		if q.Takes(*r.query.Pod) {
			names = append(names, q.Name)
		}
	}
	return names
}

// counting are the quotas by which an address of an assignment counts: those that took the Pod, and of those that are newer
// than it, all that may. It is the same from one configuration to the next.
func (b *book) counting(a *assignment, h held) (names []string) {
	if b.settings == nil {
		return nil
	}
	for _, q := range b.settings.quotas {
		takes := slices.Contains(a.quotas, q.Name)
		if a.time.Before(q.Created) {
			takes = q.Takes(pool.Subject{Namespace: a.pod.Namespace})
		}
		if takes && q.Of(h.Pool) {
			names = append(names, q.Name)
		}
	}
	return names
}

func (b *book) countQuotas(a *assignment, h held, more int64) {
	for _, name := range b.counting(a, h) {
		if use := b.quotas.uses[name]; use != nil {
			use.used += more
		}
	}
}

// recount counts anew, by a new configuration.
func (b *book) recount() {
	before := b.quotas.uses
	b.quotas.uses = map[string]*quotaUse{}
	for _, q := range b.settings.quotas {
		use := before[q.Name]
		if use == nil {
			use = &quotaUse{}
		}
		use.used = 0
		b.quotas.uses[q.Name] = use
	}
	maps.DeleteFunc(b.quotas.allowances, func(name string, _ allowanceRecord) bool { return b.quotas.uses[name] == nil })
	if len(b.quotas.uses) == 0 {
		return
	}
	for addr, a := range b.holders {
		for _, h := range a.addrs {
			if h.Addr == addr {
				b.countQuotas(a, h, 1)
			}
		}
	}
	for _, names := range b.quotas.charged {
		for _, name := range names {
			if use := b.quotas.uses[name]; use != nil {
				use.used++
			}
		}
	}
}

// charge counts what an ADD took, if every quota allows it; else it says what is waited for, or the final refusal.
func (b *book) charge(r request, taken []held, now time.Time) (*shortage, error) {
	if len(b.settings.quotas) == 0 {
		return nil, nil
	}
	names := b.quotasTaking(r)
	for _, q := range b.settings.quotas {
		if !slices.Contains(names, q.Name) {
			continue
		}
		more := int64(0)
		for _, h := range taken {
			if q.Of(h.Pool) {
				more++
			}
		}
		use := b.quotas.uses[q.Name]
		if lacking := use.used + more - b.quotas.of(q).Amount; more > 0 && lacking > 0 {
			return b.quotaShortage(q, use, lacking, r, now)
		}
	}
	for i, h := range taken {
		taken[i].quotas = names
		for _, q := range b.settings.quotas {
			if slices.Contains(names, q.Name) && q.Of(h.Pool) {
				b.quotas.charged[h.Addr] = append(b.quotas.charged[h.Addr], q.Name)
				b.quotas.uses[q.Name].used++
			}
		}
	}
	return nil, nil
}

// quotaShortage is what an ADD waits for that has used up the node's allowance. It is refused when ipamd has given too little
// since the ADD began, and the other nodes had their time to give back what they do not use.
func (b *book) quotaShortage(q pool.Quota, use *quotaUse, lacking int64, r request, now time.Time) (*shortage, error) {
	use.need = max(use.need, lacking)
	text := fmt.Sprintf("IPQuota %q allows %d addresses; this node may give %d of them, and has given %d",
		q.Name, q.Addresses, b.quotas.of(q).Amount, use.used)
	offline := !b.offlineSince.IsZero()
	if offline {
		text += "; ipamd, which delegates them, does not answer"
	}
	if told := use.answer; told != nil {
		text += fmt.Sprintf("; %d are delegated to nodes, of which other nodes had not given %d when they told last", told.GetDelegated(), told.GetUnusedElsewhere())
		heard := !use.answeredAt.Before(r.began)
		if !offline && heard && now.Sub(r.began) >= quotaPatience {
			return nil, refuse(cniTryLater, "the quota is used up: %s", text)
		}
	}
	return &shortage{changed: b.changed, quota: true, text: text}, nil
}

// uncharge takes back what charge counted of one address.
func (b *book) uncharge(addr netip.Addr) {
	for _, name := range b.quotas.charged[addr] {
		if use := b.quotas.uses[name]; use != nil {
			use.used--
		}
	}
	delete(b.quotas.charged, addr)
}

// allowancesTold is what registration tells.
func (b *book) allowancesTold() (all []*clearwayv1.QuotaAllowance) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, r := range b.quotas.allowances {
		one := &clearwayv1.QuotaAllowance{Quota: name, QuotaUid: r.UID, Amount: r.Amount, Generation: r.Generation}
		if use := b.quotas.uses[name]; use != nil {
			one.Used = use.used
		}
		all = append(all, one)
	}
	return all
}

// hearAllowances takes what ipamd says of the node's allowances, all of them as of a revision: what is wanted back, and one
// that is lower and newer than what the journal has, which is then of an old image, or of before the node was said to be
// off. Those are in force at once, and returned to be journalled.
func (b *book) hearAllowances(told []*clearwayv1.QuotaAllowance, revision int64) (lowered []allowanceRecord) {
	b.mu.Lock()
	defer b.mu.Unlock()
	byName := map[string]*clearwayv1.QuotaAllowance{}
	for _, one := range told {
		byName[one.GetQuota()] = one
	}
	for name, use := range b.quotas.uses {
		one := byName[name]
		use.giveBack = one.GetGiveBack()
		// ipamd believes in more than is here: it has not heard of what was lowered, or its answer was lost with the process
		// or the connection. It is asked, or others wait for it in vain.
		if one.GetAmount() > b.quotas.allowances[name].Amount {
			use.untold = true
		}
	}
	for name, r := range b.quotas.allowances {
		was := r
		switch one := byName[name]; {
		case one == nil && r.Generation <= revision:
			r.Amount, r.Generation = 0, 0 // the node was said to be off, and others have it by now
		case r.UID != one.GetQuotaUid():
			continue
		case one.GetGeneration() > r.Generation:
			r.Amount = min(r.Amount, one.GetAmount())
		}
		if r != was {
			b.quotas.allowances[name] = r
			lowered = append(lowered, r)
		}
	}
	return lowered
}

// takeAllowances brings what the node may give in line with what ipamd says.
func (n *Node) takeAllowances(ctx context.Context, told []*clearwayv1.QuotaAllowance, revision int64) error {
	for _, r := range n.book.hearAllowances(told, revision) {
		if _, err := n.write(ctx, r); err != nil {
			return err
		}
	}
	n.quotaDue.wake()
	return nil
}

// keepQuotas asks for more of what runs low, and gives back what is not used.
func (n *Node) keepQuotas(ctx context.Context) error {
	tick := time.NewTicker(keepQuotasEvery)
	defer tick.Stop()
	for {
		for _, step := range n.book.quotaSteps() {
			if err := n.setAllowance(ctx, step); err != nil && ctx.Err() == nil {
				n.log.Warn("what the node may give of a quota could not be set yet", "quota", step.lowered.Quota, "error", err)
			}
		}
		select {
		case <-n.quotaDue:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// quotaStep is one change of an allowance that is to be made.
type quotaStep struct {
	// lowered is what the node goes by from now on, and journals first where it is less than before.
	lowered              allowanceRecord
	less                 bool
	amount, used, needed int64
}

// quotaSteps are the changes to be made now. What is lowered is lowered in memory at once, so that no ADD takes of it.
func (b *book) quotaSteps() (steps []quotaStep) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.settings == nil || !b.offlineSince.IsZero() {
		return nil
	}
	now := b.now()
	for _, q := range b.settings.quotas {
		use, have := b.quotas.uses[q.Name], b.quotas.of(q)
		needed := use.used + use.need
		spare := have.Amount - needed
		if spare <= 2*quotaAhead {
			use.spareSince = time.Time{}
		} else if use.spareSince.IsZero() {
			use.spareSince = now
		}
		step := quotaStep{lowered: have, amount: needed + quotaAhead, used: needed}
		switch {
		case use.untold: // before anything else: what ipamd thinks must not be more than what is asked for
			steps = append(steps, quotaStep{lowered: have, less: true, amount: have.Amount, used: use.used})
			continue
		case use.need > 0 && use.answer != nil && now.Sub(use.answeredAt) < quotaAgain:
			continue // it was just asked for, and will be again
		case use.need > 0:
			step.needed = needed
			if use.giveBack || use.answer != nil {
				step.amount = needed // others wait too
			}
		case use.giveBack && spare > 0:
			step.amount, step.less = needed, true
		case !use.spareSince.IsZero() && now.Sub(use.spareSince) >= quotaIdle:
			step.less = true
		case use.used > 0 && spare < quotaLow && !use.giveBack && now.Sub(use.answeredAt) >= quotaIdle:
		default:
			continue
		}
		use.need = 0
		if step.less {
			step.lowered.Amount, use.untold = step.amount, true
			b.quotas.allowances[q.Name] = step.lowered
		}
		steps = append(steps, step)
	}
	return steps
}

// setAllowance makes one change: journalled first where it is less, told to ipamd, whose answer is then what holds.
func (n *Node) setAllowance(ctx context.Context, step quotaStep) error {
	if step.less {
		if _, err := n.write(ctx, step.lowered); err != nil {
			return err
		}
	}
	s := n.session()
	if s == nil {
		return errOffline
	}
	call, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	answer, err := s.client.SetAllowance(call, &clearwayv1.SetAllowanceRequest{
		Node: n.options.Node, SessionId: s.id, Quota: step.lowered.Quota, QuotaUid: step.lowered.UID,
		Generation: step.lowered.Generation, Amount: step.amount, Used: step.used, Needed: step.needed,
	})
	if err != nil {
		if status.Code(err) == codes.NotFound { // it was just deleted; the snapshot says so
			return nil
		}
		s.judge(err)
		return err
	}
	n.reach(position{answer.GetIncarnation(), s.term, answer.GetRevision()})
	got := answer.GetAllowance()
	// Of the same generation as before it is what it was: the answer to a call that changed nothing.
	next := allowanceRecord{
		Quota: step.lowered.Quota, UID: step.lowered.UID, Amount: got.GetAmount(), Generation: got.GetGeneration(),
	}
	if next != step.lowered {
		if _, err := n.write(ctx, next); err != nil {
			return err
		}
	}
	n.book.allowanceSet(step, answer, n.now())
	return nil
}

// allowanceSet notes whether an answer leaves somebody waiting, and lets those look again who wait.
func (b *book) allowanceSet(step quotaStep, answer *clearwayv1.SetAllowanceResponse, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	use := b.quotas.uses[step.lowered.Quota]
	if use == nil {
		return
	}
	use.untold = false
	if amount := answer.GetAllowance().GetAmount(); amount < step.amount || step.needed > 0 && amount < step.needed {
		use.answer, use.answeredAt = answer, now
	} else if !step.less {
		use.answer, use.answeredAt = nil, time.Time{}
	}
	b.wakeLocked()
}
