package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// screen writes progress for a person: each step with the seconds since the start. Colours only on a terminal.
type screen struct {
	started time.Time
	colour  bool
}

func newScreen() *screen {
	info, err := os.Stdout.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &screen{started: time.Now(), colour: terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (s *screen) paint(code, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *screen) bold(text string) string  { return s.paint("1", text) }
func (s *screen) green(text string) string { return s.paint("32", text) }
func (s *screen) dim(text string) string   { return s.paint("2", text) }

// step starts a new step.
func (s *screen) step(format string, args ...any) {
	clock := fmt.Sprintf("%6.1fs", time.Since(s.started).Seconds())
	fmt.Printf("%s  %s\n", s.dim(clock), s.bold(fmt.Sprintf(format, args...)))
}

// detail is a line within a step.
func (s *screen) detail(format string, args ...any) {
	fmt.Printf("         %s\n", fmt.Sprintf(format, args...))
}

// show writes a command as it would be typed, and what it wrote.
func (s *screen) show(command, output string) {
	fmt.Printf("\n         %s\n", s.green("$ "+command))
	for line := range strings.Lines(strings.TrimRight(output, "\n")) {
		fmt.Printf("         %s\n", strings.TrimRight(line, "\n"))
	}
}
