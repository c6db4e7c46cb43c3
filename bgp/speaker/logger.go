package speaker

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
)

// quiet passes GoBGP's log on, its notices as debugging: the speaker logs sessions itself, in our words.
type quiet struct {
	to    slog.Handler
	muted *atomic.Bool // while it is being stopped, twice, of which it complains
	peer  string       // whose log it is
	// unreadable is told of a peer whose UPDATE could not be read to its end.
	unreadable func(peer string)
}

func (q quiet) level(level slog.Level) slog.Level {
	if level < slog.LevelWarn {
		return slog.LevelDebug
	}
	return level
}

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	// GoBGP's own debugging says each UPDATE; to have it means to pay for it on every route.
	return !q.muted.Load() && level >= slog.LevelInfo && q.to.Enabled(ctx, q.level(level))
}

func (q quiet) Handle(ctx context.Context, record slog.Record) error {
	if record.Message == asWithdraw && q.unreadable != nil {
		record.Attrs(func(a slog.Attr) bool {
			if a.Key == "Error" && slices.ContainsFunc(cutShort, func(text string) bool { return strings.Contains(a.Value.String(), text) }) {
				q.unreadable(q.peer)
				return false
			}
			return true
		})
	}
	record.Level = q.level(record.Level)
	return q.to.Handle(ctx, record)
}

// asWithdraw is what GoBGP says when it treats an UPDATE as withdrawn, and cutShort its reasons for which it has not read
// the prefixes and withdraws none. It tells nobody else, and leaves the peer's former paths in place.
const asWithdraw = "the received Update message was treated as withdraw"

var cutShort = []string{
	"attribute value length is short", "attribute header length is short", "attribute length is short", "exceeds path attributes boundary",
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	q.to = q.to.WithAttrs(attrs)
	for _, a := range attrs {
		if a.Key == "Key" {
			q.peer = a.Value.String()
		}
	}
	return q
}

func (q quiet) WithGroup(name string) slog.Handler {
	q.to = q.to.WithGroup(name)
	return q
}
