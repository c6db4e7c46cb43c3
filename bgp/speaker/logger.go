package speaker

import (
	"context"
	"log/slog"
)

// quiet passes GoBGP's log on, its notices as debugging: the speaker logs sessions itself, in our words.
type quiet struct{ to slog.Handler }

func (q quiet) level(level slog.Level) slog.Level {
	if level < slog.LevelWarn {
		return slog.LevelDebug
	}
	return level
}

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	// GoBGP's own debugging says each UPDATE; to have it means to pay for it on every route.
	return level >= slog.LevelInfo && q.to.Enabled(ctx, q.level(level))
}

func (q quiet) Handle(ctx context.Context, record slog.Record) error {
	record.Level = q.level(record.Level)
	return q.to.Handle(ctx, record)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.to.WithAttrs(attrs)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.to.WithGroup(name)} }
