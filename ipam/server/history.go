package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// The history is the tenures that are over: a record each, written in the transaction that takes the assignment out of
// the node's copy. Who holds an address now is in the copy itself.

// past is what is remembered of the history. The tenures themselves are in the store alone.
type past struct {
	since   time.Time // from when on it is whole; zero: none is kept
	bytes   map[record.Hour]int64
	counted bool // bytes has every hour there is
	// dropped are assignments of copies that were dropped as a whole: they go to the history after that.
	dropped []*clearwayv1.AssignmentSpec
}

// maxDropped bounds dropped: one that is over it is missing from the history.
const maxDropped = 1 << 16

func (p *past) applyTenure(one record.Record) error {
	if one.Value == nil {
		return nil // an hour goes as a whole
	}
	hour, _, err := one.Key.Tenure()
	if err != nil {
		return err
	}
	p.bytes[hour] += sizeOf(one)
	return nil
}

func sizeOf(one record.Record) int64 { return int64(len(one.Key) + len(one.Value)) }

func (p *past) applySince(one record.Record) error {
	if one.Value == nil {
		p.since = time.Time{}
		return nil
	}
	nanos, err := strconv.ParseInt(string(one.Value), 10, 64)
	if err != nil {
		return err
	}
	p.since = time.Unix(0, nanos).UTC()
	return nil
}

func (p *past) kept() bool { return !p.since.IsZero() }

func (p *past) total() (bytes int64) {
	for _, of := range p.bytes {
		bytes += of
	}
	return bytes
}

func (p *past) drop(spec *clearwayv1.AssignmentSpec) {
	if p.kept() && len(p.dropped) < maxDropped {
		p.dropped = append(p.dropped, spec)
	}
}

// limit is how many changes of a copy fit where so many operations do: each may end a tenure.
func (p *past) limit(operations int) int {
	if p.kept() {
		return operations / 2
	}
	return operations
}

// ends is when tenures ended, as a piece of a journal tells it.
type ends struct {
	at   map[netip.Addr]time.Time // of those released; the zero time is one that cannot be read
	told map[tenureID]bool        // kept already
}

// tenureID tells tenures of one node apart.
type tenureID struct {
	address string
	number  int64
}

func endsOf(request *clearwayv1.MirrorAssignmentsRequest) ends {
	read := ends{at: map[netip.Addr]time.Time{}, told: map[tenureID]bool{}}
	for _, one := range request.GetReleased() {
		if address, err := netip.ParseAddr(one.GetAddress()); err == nil && one.GetReleasedTime().IsValid() {
			read.at[address] = one.GetReleasedTime().AsTime()
		}
	}
	for _, one := range request.GetEnded() {
		read.told[tenureID{one.GetAssignment().GetAddress(), one.GetAssignment().GetJournalNumber()}] = true
	}
	return read
}

// keepEnded keeps the tenures of which a piece of a journal tells beside what is assigned now. It may be repeated.
func (s *Server) keepEnded(ctx context.Context, request *clearwayv1.MirrorAssignmentsRequest) error {
	for _, one := range request.GetEnded() {
		spec := one.GetAssignment()
		if address, err := netip.ParseAddr(spec.GetAddress()); err != nil || address.Zone() != "" || address.Is4In6() {
			return invalid("ended", spec.GetAddress(), "must be an address")
		}
		if spec.GetNode() != request.GetNode() {
			return invalid("ended", spec.GetNode(), fmt.Sprintf("must be of node %q", request.GetNode()))
		}
	}
	return s.keepTenures(ctx, request.GetEnded())
}

// keepTenures writes tenures to the history, if one is kept.
func (s *Server) keepTenures(ctx context.Context, tenures []*clearwayv1.Tenure) error {
	for piece := range slices.Chunk(tenures, maxRewrite) {
		if err := s.records.do(ctx, false, func(p *plan) error {
			if !p.past.kept() {
				return nil
			}
			written := map[record.Key]bool{}
			for _, one := range piece {
				op := p.tenureOp(one.GetAssignment(), one.GetReleasedTime(), one.GetReleasedBefore())
				if !written[op.Key] {
					p.write(op)
				}
				written[op.Key] = true
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// endTenures writes the tenures that changes of a node's copy end.
func (p *plan) endTenures(node string, ops []record.Op, changes changes) {
	if !p.past.kept() {
		return
	}
	for _, op := range ops {
		_, address, err := op.Key.Assignment()
		before := p.assignments[node][address]
		next := changes.assigned[address]
		if err != nil || before == nil || changes.ends.told[tenureID{address.String(), before.GetJournalNumber()}] {
			continue
		}
		at, known := changes.ends.at[address]
		switch {
		case op.Value != nil && sameTenure(before, next):
		case op.Value != nil:
			p.write(p.tenureOp(before, next.GetAssignedTime(), true))
		case known:
			p.write(p.tenureOp(before, timestamppb.New(at), false))
		default:
			p.write(p.tenureOp(before, nil, true))
		}
	}
}

// sameTenure tells whether an assignment is the one of before in other words, as after its block was split.
func sameTenure(before, next *clearwayv1.AssignmentSpec) bool {
	return proto.Equal(before.GetAttachment(), next.GetAttachment()) && proto.Equal(before.GetAssignedTime(), next.GetAssignedTime())
}

// tenureOp writes a tenure that is over since an instant, or, with before, at the latest since then; nil: since now. No
// clock of a node makes it end in the future, or before it began.
func (p *plan) tenureOp(spec *clearwayv1.AssignmentSpec, ended *timestamppb.Timestamp, before bool) record.Op {
	at := ended.AsTime()
	if !ended.IsValid() {
		at, before = p.now, true
	}
	of := tenureOf(spec)
	if at.Before(of.Assigned) {
		at, before = of.Assigned, true
	}
	if at.After(p.now) {
		at, before = p.now, true
	}
	kept := proto.CloneOf(spec) // without what the key says
	kept.Address, kept.Node, kept.JournalNumber, kept.AssignedTime, kept.Block = "", "", 0, nil, ""
	return record.Op{Key: record.HistoryKey(record.HourOf(at), of), Value: mustMarshal(&clearwayv1.Tenure{
		Assignment: kept, ReleasedTime: timestamppb.New(at), ReleasedBefore: before,
	})}
}

func tenureOf(spec *clearwayv1.AssignmentSpec) record.Tenure {
	address, _ := netip.ParseAddr(spec.GetAddress()) // it was checked when it came
	return record.Tenure{Address: address, Assigned: spec.GetAssignedTime().AsTime(), Number: spec.GetJournalNumber(), Node: spec.GetNode()}
}

// readTenure undoes tenureOp.
func readTenure(one record.Record) (*clearwayv1.Tenure, error) {
	_, of, err := one.Key.Tenure()
	if err != nil {
		return nil, err
	}
	tenure := &clearwayv1.Tenure{}
	if err := proto.Unmarshal(one.Value, tenure); err != nil {
		return nil, fmt.Errorf("record %s: %w", one.Key, err)
	}
	if tenure.Assignment == nil {
		tenure.Assignment = &clearwayv1.AssignmentSpec{}
	}
	spec := tenure.GetAssignment()
	spec.Address, spec.Node, spec.JournalNumber = of.Address.String(), of.Node, of.Number
	spec.AssignedTime = timestamppb.New(of.Assigned)
	return tenure, nil
}

// When the history makes room: from three quarters of the store's own quota on none is kept, until it is below three
// fifths again. What etcd frees is free with its next compaction, so the rest is for what comes until then.
const (
	fullAt, fullOf   = 3, 4
	roomAt, roomOf   = 3, 5
	fullFor          = 10 * time.Minute // after the store refused a write, where its size is not known
	dropPiece        = 5000             // keys read at once of an hour that goes
	dropsPerSecond   = 50               // transactions
	historyCallLimit = time.Minute
)

// historyTime is how often the history is looked after. Tests shorten it before they start a server.
var historyTime = 5 * time.Second

// sayFull tells the history's keeper that the store refused a write for want of room.
func (s *Server) sayFull() {
	select {
	case s.full <- struct{}{}:
	default: // it is told already
	}
}

// historian looks after the history for one term. It is its goroutine's own.
type historian struct {
	s         *Server
	pace      *rate.Limiter
	full      bool
	fullUntil time.Time // by a refused write
	trouble   string    // logged last
}

// keepHistory begins, prunes and ends the history as the configuration and the store's size want it, until ctx ends.
func (s *Server) keepHistory(ctx context.Context) error {
	h := &historian{s: s, pace: rate.NewLimiter(dropsPerSecond, 1)}
	tick := time.NewTicker(historyTime)
	defer tick.Stop()
	for {
		h.note(ctx, h.tend(ctx))
		select {
		case <-tick.C:
		case <-s.full:
			h.fullUntil = s.now().Add(fullFor)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *historian) note(ctx context.Context, err error) {
	text := ""
	if err != nil && ctx.Err() == nil {
		text = err.Error()
	}
	if text != "" && text != h.trouble {
		h.s.log.Warn("the history is not kept as it should be", "error", text)
	}
	h.trouble = text
}

// tend does what is due. It is called again in a moment, whatever became of it.
func (h *historian) tend(ctx context.Context) error {
	if err := h.count(ctx); err != nil {
		return err
	}
	h.look(ctx)
	var retention time.Duration
	var quota int64
	var kept past
	if err := h.s.view(func(st *state) {
		configuration := st.ipamConfiguration()
		retention, quota = configuration.HistoryRetention, configuration.HistoryQuota
		kept = past{since: st.past.since, bytes: maps.Clone(st.past.bytes)}
	}); err != nil {
		return err
	}
	if retention == 0 || h.full {
		return h.stop(ctx, kept)
	}
	if !kept.kept() {
		return h.begin(ctx, kept)
	}
	if err := h.keepDropped(ctx); err != nil {
		return err
	}
	return h.prune(ctx, kept, retention, quota)
}

// count adds up, once a term, what the store has of the history.
func (h *historian) count(ctx context.Context) error {
	counted := false
	if err := h.s.view(func(st *state) { counted = st.past.counted }); err != nil || counted {
		return err
	}
	bytes := map[record.Hour]int64{}
	if err := h.s.store.List(ctx, record.History+"/", func(one record.Record) error {
		hour, _, err := one.Key.Tenure()
		bytes[hour] += sizeOf(one)
		return err
	}); err != nil {
		return fmt.Errorf("count the history: %w", err)
	}
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	for hour, written := range h.s.state.past.bytes { // in this term; the list may have been read before it
		bytes[hour] = max(bytes[hour], written)
	}
	h.s.state.past.bytes, h.s.state.past.counted = bytes, true
	return nil
}

// look finds out whether the store is so full that the history must go.
func (h *historian) look(ctx context.Context) {
	was := h.full
	h.full = h.s.now().Before(h.fullUntil)
	switch health, err := h.s.store.Health(ctx); {
	case err != nil:
		h.full = h.full || was
	case health.Quota == 0: // not known
	case was:
		h.full = h.full || health.InUse*roomOf > health.Quota*roomAt
	default:
		h.full = h.full || health.InUse*fullOf >= health.Quota*fullAt
	}
	if h.full && !was {
		h.s.note(eventWarning, "HistoryDropped", "", "IPAMConfiguration/"+defaultName,
			"the store is nearly full: the history of assignments is dropped, and none is kept until there is room")
	}
}

// begin starts a history that is whole from now on.
func (h *historian) begin(ctx context.Context, kept past) error {
	if err := h.drop(ctx, kept, maxHour); err != nil {
		return err
	}
	return h.setSince(ctx, func(now time.Time) []byte { return strconv.AppendInt(nil, now.UnixNano(), 10) })
}

// stop ends it: first nothing more is written, then what there is goes.
func (h *historian) stop(ctx context.Context, kept past) error {
	if kept.kept() {
		if err := h.setSince(ctx, func(time.Time) []byte { return nil }); err != nil {
			return err
		}
	}
	h.takeDropped()
	return h.drop(ctx, kept, maxHour)
}

func (h *historian) setSince(ctx context.Context, value func(now time.Time) []byte) error {
	ctx, cancel := context.WithTimeout(ctx, historyCallLimit)
	defer cancel()
	return h.s.records.do(ctx, true, func(p *plan) error {
		p.write(record.Op{Key: record.HistorySince, Value: value(p.now)})
		return nil
	})
}

// keepDropped keeps what was assigned on nodes whose copy was dropped.
func (h *historian) keepDropped(ctx context.Context) error {
	dropped := h.takeDropped()
	tenures := make([]*clearwayv1.Tenure, 0, len(dropped))
	for _, spec := range dropped {
		tenures = append(tenures, &clearwayv1.Tenure{Assignment: spec, ReleasedTime: timestamppb.New(h.s.now()), ReleasedBefore: true})
	}
	ctx, cancel := context.WithTimeout(ctx, historyCallLimit)
	defer cancel()
	return h.s.keepTenures(ctx, tenures)
}

func (h *historian) takeDropped() []*clearwayv1.AssignmentSpec {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	dropped := h.s.state.past.dropped
	h.s.state.past.dropped = nil
	return dropped
}

// maxHour is after every hour.
const maxHour = ^record.Hour(0)

// prune drops the hours that are older than the retention, and the oldest while the whole is above the quota.
func (h *historian) prune(ctx context.Context, kept past, retention time.Duration, quota int64) error {
	now := h.s.now()
	first := max(record.HourOf(kept.since), record.HourOf(now.Add(-retention)))
	total := kept.total()
	for _, hour := range slices.Sorted(maps.Keys(kept.bytes)) {
		if hour >= first && total <= quota {
			break
		}
		total -= kept.bytes[hour]
		first = max(first, hour+1)
	}
	if first > record.HourOf(now) {
		return h.stop(ctx, kept) // this hour alone is too much: it begins anew
	}
	if first > record.HourOf(kept.since) {
		if err := h.setSince(ctx, func(time.Time) []byte {
			return strconv.AppendInt(nil, first.Start().UnixNano(), 10)
		}); err != nil {
			return err
		}
	}
	return h.drop(ctx, kept, first)
}

// errEnough ends a list.
var errEnough = errors.New("enough")

// drop deletes the hours before one, the oldest first.
func (h *historian) drop(ctx context.Context, kept past, before record.Hour) error {
	for _, hour := range slices.Sorted(maps.Keys(kept.bytes)) {
		if hour >= before {
			return nil
		}
		for more := true; more; {
			var err error
			if more, err = h.dropPiece(ctx, hour); err != nil {
				return fmt.Errorf("drop an hour of the history: %w", err)
			}
		}
		h.s.mu.Lock()
		delete(h.s.state.past.bytes, hour)
		h.s.mu.Unlock()
	}
	return nil
}

// dropPiece deletes some of an hour, and tells whether there may be more.
func (h *historian) dropPiece(ctx context.Context, hour record.Hour) (more bool, err error) {
	var keys []record.Key
	err = h.s.store.List(ctx, record.HistoryHour(hour), func(one record.Record) error {
		if keys = append(keys, one.Key); len(keys) == dropPiece {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return false, err
	}
	for some := range slices.Chunk(keys, maxRewrite) {
		if err := h.pace.Wait(ctx); err != nil {
			return false, err
		}
		call, cancel := context.WithTimeout(ctx, historyCallLimit)
		err := h.s.records.do(call, false, func(p *plan) error {
			for _, key := range some {
				p.write(record.Op{Key: key})
			}
			return nil
		})
		cancel()
		if err != nil {
			return false, err
		}
	}
	return len(keys) == dropPiece, nil
}
