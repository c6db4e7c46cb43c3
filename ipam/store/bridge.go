package store

import (
	"context"
	"log/slog"

	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// bridge is a zap core that writes to slog. etcd is talkative at Info: one level is taken off, so that an operator
// sees its warnings and errors, and the rest at Debug.
type bridge struct {
	handler slog.Handler
}

// harmless are warnings that are about what an embedded etcd that listens nowhere does not do.
var harmless = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"simple token is not cryptographically signed":                                         true,
}

// givenUp tells of the client's warning about a call that we ended ourselves.
func givenUp(message string, fields []zapcore.Field) bool {
	if message != "retrying of unary invoker failed" {
		return false
	}
	for _, field := range fields {
		if err, ok := field.Interface.(error); ok && status.Code(err) == codes.Canceled {
			return true
		}
	}
	return false
}

func newBridge(logger *slog.Logger) zapcore.Core {
	return &bridge{handler: logger.With("room", "etcd").Handler()}
}

func levelOf(level zapcore.Level) slog.Level {
	switch {
	case level >= zapcore.ErrorLevel:
		return slog.LevelError
	case level >= zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

// Enabled implements zapcore.LevelEnabler.
func (b *bridge) Enabled(level zapcore.Level) bool {
	return b.handler.Enabled(context.Background(), levelOf(level))
}

// With implements zapcore.Core.
func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{handler: b.handler.WithAttrs(attributes(fields))}
}

// Check implements zapcore.Core.
func (b *bridge) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(entry.Level) {
		return checked.AddCore(entry, b)
	}
	return checked
}

// Write implements zapcore.Core.
func (b *bridge) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	level := levelOf(entry.Level)
	if harmless[entry.Message] || givenUp(entry.Message, fields) {
		level = slog.LevelDebug
	}
	if !b.handler.Enabled(context.Background(), level) {
		return nil
	}
	line := slog.NewRecord(entry.Time, level, entry.Message, 0)
	line.AddAttrs(attributes(fields)...)
	return b.handler.Handle(context.Background(), line)
}

// Sync implements zapcore.Core.
func (b *bridge) Sync() error { return nil }

func attributes(fields []zapcore.Field) []slog.Attr {
	encoder := zapcore.NewMapObjectEncoder()
	attrs := make([]slog.Attr, 0, len(fields))
	for _, field := range fields {
		field.AddTo(encoder)
		if value, ok := encoder.Fields[field.Key]; ok {
			attrs = append(attrs, slog.Any(field.Key, value))
		}
	}
	return attrs
}
