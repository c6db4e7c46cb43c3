package daemon

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/pflag"
)

// Log is what the flags say of the log.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // text or json
}

// AddFlags defines --log-level and --log-format.
func (l *Log) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&l.Level, "log-level", "info", "least `LEVEL` that is logged: debug, info, warn or error")
	flags.StringVar(&l.Format, "log-format", "text", "`FORMAT` of a line: text or json")
}

// New makes the logger, writing to w.
func (l *Log) New(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	switch l.Level {
	case "debug", "info", "warn", "error":
		_ = level.UnmarshalText([]byte(l.Level)) // these four are known to slog
	default:
		return nil, Usage("--log-level %q is unknown; it is one of debug, info, warn, error", l.Level)
	}
	options := &slog.HandlerOptions{Level: level}
	switch l.Format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, Usage("--log-format %q is unknown; it is one of text, json", l.Format)
}

// Usage makes an error that ends the program with ExitUsage.
func Usage(format string, args ...any) error {
	return Exit(ExitUsage, fmt.Errorf(format, args...))
}
