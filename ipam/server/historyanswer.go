package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const (
	// maxTenures bounds one answer.
	maxTenures = 1000
	// freshFor is how long ago a node may have been heard of for an answer about "until now" to need no note.
	freshFor = time.Minute
)

// question is what is asked of the history: of an address, or else of a Pod.
type question struct {
	address        netip.Addr
	namespace, pod string
	since, until   time.Time // a zero since: as far back as it goes
	moment         bool      // both are the same
}

// History implements IPAMService.
func (i *ipamService) History(
	ctx context.Context, request *clearwayv1.HistoryRequest,
) (*clearwayv1.HistoryResponse, error) {
	asked, err := readQuestion(request, i.s.now())
	if err != nil {
		return nil, err
	}
	if err := i.s.mustLead(); err != nil {
		return nil, err
	}
	return i.s.recall(ctx, asked)
}

func readQuestion(request *clearwayv1.HistoryRequest, now time.Time) (question, error) {
	asked := question{namespace: request.GetNamespace(), pod: request.GetPod(), until: now}
	switch {
	case request.GetAddress() == "" && (asked.namespace == "" || asked.pod == ""):
		return asked, invalid("address", "", "is required, or namespace and pod")
	case request.GetAddress() != "" && (asked.namespace != "" || asked.pod != ""):
		return asked, invalid("pod", asked.pod, "must be empty where an address is asked about")
	case request.GetAddress() != "":
		address, err := cidr.ParseAddress(request.GetAddress())
		if err != nil {
			return asked, invalid("address", request.GetAddress(), cidr.Reason(err))
		}
		asked.address = address
	}
	for field, at := range map[string]*timestamppb.Timestamp{"since": request.GetSince(), "until": request.GetUntil()} {
		if at != nil && !at.IsValid() {
			return asked, invalid(field, at.String(), "must be a time from the year 1 to 9999")
		}
	}
	if request.GetSince() != nil {
		asked.since = request.GetSince().AsTime()
	}
	if request.GetUntil() != nil {
		asked.until = request.GetUntil().AsTime()
	}
	if asked.until.Before(asked.since) {
		return asked, invalid("until", asked.until.Format(time.RFC3339), "must not be before since")
	}
	asked.moment = request.GetSince() != nil && asked.since.Equal(asked.until)
	return asked, nil
}

// concerns tells whether an assignment is of what is asked about.
func (q question) concerns(spec *clearwayv1.AssignmentSpec) bool {
	if q.address.IsValid() {
		return spec.GetAddress() == q.address.String()
	}
	return spec.GetPod().GetNamespace() == q.namespace && spec.GetPod().GetName() == q.pod
}

// in tells whether a tenure lasted at some time that is asked about. One that ended at an instant did not last through it.
func (q question) in(tenure *clearwayv1.Tenure) bool {
	spec := tenure.GetAssignment()
	return !spec.GetAssignedTime().AsTime().After(q.until) &&
		(tenure.GetReleasedTime() == nil || tenure.GetReleasedTime().AsTime().After(q.since))
}

// recall answers from the copies and the store.
func (s *Server) recall(ctx context.Context, asked question) (*clearwayv1.HistoryResponse, error) {
	found := map[record.Tenure]*clearwayv1.Tenure{}
	var since time.Time
	var hours []record.Hour
	answer := &clearwayv1.HistoryResponse{}
	var fresh []string
	if err := s.view(func(st *state) {
		since, hours = st.past.since, st.past.from(asked.since, s.now())
		for _, spec := range st.holding(asked) {
			found[tenureOf(spec)] = &clearwayv1.Tenure{Assignment: spec}
		}
		fresh = s.freshness(st, asked, answer)
	}); err != nil {
		return nil, err
	}
	for _, hour := range hours {
		room := record.HistoryHour(hour)
		if asked.address.IsValid() {
			room = record.HistoryOf(hour, asked.address)
		}
		if err := s.store.List(ctx, room, func(one record.Record) error { return asked.gather(one, found) }); err != nil {
			return nil, status.Errorf(codes.Unavailable, "the store does not answer: %v", err)
		}
	}
	answer.Tenures = asked.inOrder(found)
	if more := len(answer.GetTenures()) - maxTenures; more > 0 {
		answer.Tenures, answer.Truncated = answer.GetTenures()[more:], true
	}
	if !since.IsZero() {
		answer.ReachesBackTo = timestamppb.New(since)
	}
	answer.Summary = asked.sum(answer.GetTenures())
	answer.Notes = append(asked.reach(since, len(answer.GetTenures())), fresh...)
	return answer, nil
}

// from are the hours that may have tenures which lasted at a time or later.
func (p *past) from(at, now time.Time) []record.Hour {
	if !p.kept() {
		return nil
	}
	var hours []record.Hour
	if at.Before(p.since) {
		at = p.since
	}
	for hour := record.HourOf(at); hour <= record.HourOf(now); hour++ {
		if !p.counted || p.bytes[hour] > 0 {
			hours = append(hours, hour)
		}
	}
	return hours
}

// holding are the assignments of now that may be asked for.
func (s *state) holding(asked question) []*clearwayv1.AssignmentSpec {
	var all []*clearwayv1.AssignmentSpec
	for _, of := range s.assignments {
		if asked.address.IsValid() {
			if spec := of[asked.address]; spec != nil {
				all = append(all, spec)
			}
			continue
		}
		for _, spec := range of {
			if asked.concerns(spec) {
				all = append(all, spec)
			}
		}
	}
	return all
}

// gather adds a record to what was found. Of two about one tenure the one that knows its end counts, else the earlier.
func (q question) gather(one record.Record, found map[record.Tenure]*clearwayv1.Tenure) error {
	tenure, err := readTenure(one)
	if err != nil {
		return err
	}
	if !q.concerns(tenure.GetAssignment()) {
		return nil
	}
	id := tenureOf(tenure.GetAssignment())
	other := found[id]
	switch {
	case other.GetReleasedTime() == nil,
		other.GetReleasedBefore() && !tenure.GetReleasedBefore(),
		other.GetReleasedBefore() == tenure.GetReleasedBefore() && tenure.GetReleasedTime().AsTime().Before(other.GetReleasedTime().AsTime()):
		found[id] = tenure
	}
	return nil
}

// inOrder are the tenures of the time asked about, by when they began.
func (q question) inOrder(found map[record.Tenure]*clearwayv1.Tenure) []*clearwayv1.Tenure {
	all := make([]*clearwayv1.Tenure, 0, len(found))
	for _, tenure := range found {
		if q.in(tenure) {
			all = append(all, tenure)
		}
	}
	slices.SortFunc(all, func(a, b *clearwayv1.Tenure) int {
		one, other := a.GetAssignment(), b.GetAssignment()
		if by := one.GetAssignedTime().AsTime().Compare(other.GetAssignedTime().AsTime()); by != 0 {
			return by
		}
		return strings.Compare(fmt.Sprint(one.GetAddress(), " ", one.GetNode(), " ", one.GetJournalNumber()),
			fmt.Sprint(other.GetAddress(), " ", other.GetNode(), " ", other.GetJournalNumber()))
	})
	return all
}

func (q question) what() string {
	if q.address.IsValid() {
		return q.address.String()
	}
	return fmt.Sprintf("Pod %s/%s", q.namespace, q.pod)
}

// sum says an answer in a sentence.
func (q question) sum(tenures []*clearwayv1.Tenure) string {
	at := q.until.UTC().Format(time.RFC3339)
	switch {
	case q.moment && len(tenures) == 1:
		only := tenures[0]
		return fmt.Sprintf("At %s %s was held by %s on node %s, from %s %s.", at, only.GetAssignment().GetAddress(),
			holderOf(only.GetAssignment()), only.GetAssignment().GetNode(),
			only.GetAssignment().GetAssignedTime().AsTime().Format(time.RFC3339), endOf(only))
	case q.moment && len(tenures) == 0 && q.address.IsValid():
		return fmt.Sprintf("At %s nobody held %s, as far as is known.", at, q.what())
	case q.moment && len(tenures) == 0:
		return fmt.Sprintf("At %s %s held nothing, as far as is known.", at, q.what())
	case len(tenures) == 0 && q.address.IsValid():
		return fmt.Sprintf("Nobody held %s, as far as is known.", q.what())
	case len(tenures) == 0:
		return fmt.Sprintf("%s held nothing, as far as is known.", q.what())
	}
	if len(tenures) == 1 {
		return fmt.Sprintf("%s: 1 assignment.", q.what())
	}
	return fmt.Sprintf("%s: %d assignments.", q.what(), len(tenures))
}

func endOf(tenure *clearwayv1.Tenure) string {
	at := tenure.GetReleasedTime().AsTime().Format(time.RFC3339)
	switch {
	case tenure.GetReleasedTime() == nil:
		return "until now"
	case tenure.GetReleasedBefore():
		return "until " + at + " at the latest"
	}
	return "until " + at
}

// reach says what the record is too young for.
func (q question) reach(since time.Time, found int) []string {
	switch {
	case since.IsZero():
		return []string{"no history is kept now: only those are known who hold an address still"}
	case q.since.Before(since) && !q.since.IsZero() && (!q.moment || found == 0):
		return []string{fmt.Sprintf("the record reaches back to %s: of what was given up before, nothing is known",
			since.Format(time.RFC3339))}
	}
	return nil
}

// freshness fills in how fresh the mirrors are that an answer comes from, and says which are not.
func (s *Server) freshness(st *state, asked question, answer *clearwayv1.HistoryResponse) []string {
	var nodes []string
	if asked.address.IsValid() {
		if prefix, ok := st.liveOf(netip.PrefixFrom(asked.address, asked.address.BitLen())).Overlap(
			netip.PrefixFrom(asked.address, asked.address.BitLen())); ok && isOwned(st.blocks[prefix]) {
			nodes = []string{st.blocks[prefix].GetNode()}
		}
	} else {
		nodes = sortedNames(st.nodes)
	}
	now := s.now()
	oldest, unheard, stale := now, []string(nil), []string(nil)
	for _, name := range nodes {
		seen := s.seen(name)
		switch {
		case seen.IsZero():
			unheard = append(unheard, name)
		case seen.Before(oldest):
			oldest = seen
		}
		if !seen.IsZero() && (asked.moment && asked.until.After(seen) || !asked.moment && asked.until.After(seen.Add(freshFor))) {
			stale = append(stale, name)
		}
	}
	var notes []string
	if len(unheard) > 0 {
		notes = append(notes, fmt.Sprintf("nothing was heard since this ipamd leads of %s: its mirror may be old", someOf(unheard)))
	} else {
		answer.AsOf = timestamppb.New(oldest)
	}
	if len(stale) > 0 {
		notes = append(notes, fmt.Sprintf("what changed since %s is not known of %s", oldest.UTC().Format(time.RFC3339), someOf(stale)))
	}
	return notes
}

// someOf names some nodes, and how many there are besides.
func someOf(nodes []string) string {
	const most = 5
	if more := len(nodes) - most; more > 0 {
		return fmt.Sprintf("node %s and %d more", strings.Join(nodes[:most], ", "), more)
	}
	return "node " + strings.Join(nodes, ", ")
}
