package node

import (
	"slices"
	"time"
)

// maxChanges bounds what is kept for the mirror. A mirror that is further behind is given the whole.
const maxChanges = 8192

// change is one that the mirror wants to know: an attachment got something, or lost it.
type change struct {
	number             uint64
	assigned, released *assignment
	at                 time.Time
}

// changeLog is the latest changes, in order.
type changeLog struct {
	// after: every change with a greater number is in list.
	after uint64
	list  []change
}

func (l *changeLog) reset(after uint64) { *l = changeLog{after: after} }

func (l *changeLog) add(c change) {
	if len(l.list) >= maxChanges {
		l.forget(l.list[maxChanges/2].number)
	}
	l.list = append(l.list, c)
}

// forget drops the changes up to a number.
func (l *changeLog) forget(through uint64) {
	if through <= l.after {
		return
	}
	l.after = through
	keep := slices.IndexFunc(l.list, func(c change) bool { return c.number > through })
	if keep < 0 {
		keep = len(l.list)
	}
	l.list = slices.Clone(l.list[keep:])
}

// since are the changes after a number, at most max; false: they are no longer all known.
func (l *changeLog) since(after uint64, max int) ([]change, bool) {
	if after < l.after {
		return nil, false
	}
	from := slices.IndexFunc(l.list, func(c change) bool { return c.number > after })
	if from < 0 {
		return nil, true
	}
	return slices.Clone(l.list[from:min(from+max, len(l.list))]), true
}
