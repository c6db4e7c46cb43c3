package speaker

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// quiet passes GoBGP's log on, its notices as debugging: the speaker logs sessions itself, in our words.
type quiet struct {
	to    slog.Handler
	muted *atomic.Bool // while it is being stopped, twice, of which it complains
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
	record.Level = q.level(record.Level)
	return q.to.Handle(ctx, record)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quiet{q.to.WithAttrs(attrs), q.muted}
}

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.to.WithGroup(name), q.muted} }
