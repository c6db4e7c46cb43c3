package proof

import "time"

// Looks is how often a holder must be seen to have gone before its addresses are free.
const Looks = 2

// Ledger remembers who was seen to have gone. It is one goroutine's.
type Ledger struct{ gone map[ID]strike }

type strike struct {
	first time.Time
	looks int
}

// Note takes what one look found of every holder, and returns those whose addresses are to be freed: those that were
// seen to have gone in a row of looks over the grace time, or at once when the same Pod has asked anew. Whoever is not
// among the findings is forgotten.
func (l *Ledger) Note(now time.Time, grace time.Duration, holders []Holder, findings []Finding) (free []int) {
	next := map[ID]strike{}
	for i, h := range holders {
		if findings[i].Standing != Gone {
			continue
		}
		s, again := l.gone[h.ID]
		if !again {
			s.first = now
		}
		s.looks++
		if h.Superseded || s.looks >= Looks && now.Sub(s.first) >= grace {
			free = append(free, i)
		}
		next[h.ID] = s // also of one to be freed: it may be in somebody's hands just now
	}
	l.gone = next
	return free
}

// Suspects is how many holders the last look saw to have gone.
func (l *Ledger) Suspects() int { return len(l.gone) }
