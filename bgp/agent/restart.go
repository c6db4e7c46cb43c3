package agent

import (
	"fmt"
	"strings"
	"time"

	"github.com/clearway/clearway/bgp/route"
)

// The outcomes of a start.
const (
	hitless    = "Hitless"
	cold       = "Cold"
	notHitless = "NotHitless"
)

// restart follows one start to its end: Settled.
type restart struct {
	start   Start
	began   time.Time
	told    time.Time // when the speaker was told of its neighbours first
	settled bool
	outcome string // empty while it is not known
	why     string
}

func (r *restart) begin(now time.Time) {
	r.began = now
	switch {
	case !r.start.SameBoot:
		r.outcome, r.why = cold, "a new boot, or the first start on this machine"
	case !r.start.RoutesKept:
		r.outcome, r.why = notHitless, "the kernel had lost the routes of before: the sentinel route was gone"
	default:
		r.why = "waiting for the snapshot, the blocks and the ownership log"
	}
}

// settle judges the start by which sessions came back, and how.
func (r *restart) settle(sessions, missing []route.Session, now time.Time) {
	r.settled = true
	if r.outcome != "" {
		*r = restart{start: r.start, began: r.began, told: r.told, settled: true, outcome: r.outcome, why: r.coldReason()}
		return
	}
	var ungraceful []route.Session
	for _, s := range sessions {
		if s.State == route.Established && !s.GracefulRestart {
			ungraceful = append(ungraceful, s)
		}
	}
	took := now.Sub(r.began).Round(time.Second)
	switch {
	case len(ungraceful) > 0:
		r.outcome = notHitless
		r.why = fmt.Sprintf("no graceful restart with %s: it dropped our routes while we were away", names(ungraceful))
	case len(missing) > 0:
		r.outcome = notHitless
		r.why = fmt.Sprintf("no End-of-RIB from %s within %s", names(missing), now.Sub(r.told).Round(time.Second))
	default:
		r.outcome = hitless
		r.why = fmt.Sprintf("the kernel kept our routes, and all %d sessions were back with End-of-RIB after %s", len(sessions), took)
	}
}

func (r *restart) coldReason() string {
	fresh := restart{start: r.start}
	fresh.begin(r.began)
	return fresh.why
}

// maxNames bounds a sentence that lists peers.
const maxNames = 3

func names(sessions []route.Session) string {
	var list []string
	for i, s := range sessions {
		if i == maxNames {
			list = append(list, fmt.Sprintf("%d more", len(sessions)-maxNames))
			break
		}
		if !s.Peer.IsValid() {
			list = append(list, s.Origin+" (nobody found yet)")
			continue
		}
		list = append(list, fmt.Sprintf("%s (%s)", s.Peer, s.Origin))
	}
	return strings.Join(list, ", ")
}
