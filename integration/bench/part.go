package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Scale is how much a run measures.
type Scale int

// Full is what docs/benchmarks.md holds; Quick takes about a minute; Tiny only shows that each part works.
const (
	Full Scale = iota
	Quick
	Tiny
)

// Plan is what a run is to do.
type Plan struct {
	Scale Scale
	// Rounds replaces each part's own number of rounds; 0 leaves it.
	Rounds int
	// Only names the parts to run; none means all.
	Only []string
	// Bin is the folder of the built binaries, with the plugins in cni/ below it.
	Bin string
	// Dir is where the contenders keep their data: a real disk, or every fsync is free. A folder of the run's own is
	// made in it and removed at the end.
	Dir string
	// Progress gets a line at each step; nil: none.
	Progress func(string)
}

// Part is one comparison.
type Part struct {
	Name, Title string
	run         func(ctx context.Context, env *environment) (Result, error)
}

// Parts lists all there are, in the order in which they run.
func Parts() []Part {
	return []Part{
		{"cni", "CNI ADD and DEL as whole processes", runCNI},
		{"allocate", "Addresses through the agent's socket", runAllocate},
		{"fleet", "ipamd for many nodes", runFleet},
		{"routes", "From the first UPDATE to the kernel's routes", runRoutes},
	}
}

// environment is what a part works in.
type environment struct {
	plan Plan
	dir  string
}

func (e *environment) progress(format string, arguments ...any) {
	if e.plan.Progress != nil {
		e.plan.Progress(fmt.Sprintf(format, arguments...))
	}
}

// pick chooses a number by the plan's scale.
func (e *environment) pick(full, quick, tiny int) int {
	return [...]int{full, quick, tiny}[e.plan.Scale]
}

// rounds is pick for a number of rounds, which the plan may replace.
func (e *environment) rounds(full, quick, tiny int) int {
	if e.plan.Rounds > 0 {
		return e.plan.Rounds
	}
	return e.pick(full, quick, tiny)
}

// binary finds one of the built binaries.
func (e *environment) binary(name string) (string, error) {
	path, err := filepath.Abs(filepath.Join(e.plan.Bin, name))
	if err != nil {
		return "", fmt.Errorf("path of %s: %w", name, err)
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not built (run make build plugins): %w", name, err)
	}
	return path, nil
}

// folder makes a folder of the run's own.
func (e *environment) folder(name string) (string, error) {
	path := filepath.Join(e.dir, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", fmt.Errorf("folder of a benchmark: %w", err)
	}
	return path, nil
}

// Run does the plan's parts one after the other. When ctx ends it stops, and leaves nothing behind either. Some
// results beside an error are those of the parts that were done.
func Run(ctx context.Context, plan Plan) (report *Report, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("root is needed: the contenders run in network namespaces of their own")
	}
	parts, err := choose(plan.Only)
	if err != nil {
		return nil, err
	}
	if plan.Scale != Tiny && filesystemOf(plan.Dir) == "tmpfs" {
		return nil, fmt.Errorf("%s %w", plan.Dir, errTmpfs)
	}
	dir, err := os.MkdirTemp(plan.Dir, "clearway-bench-")
	if err != nil {
		return nil, fmt.Errorf("folder of the run: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// FRR's daemons give up root, and must still get through to their own folders.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("folder of the run: %w", err)
	}
	env := &environment{plan: plan, dir: dir}
	report = &Report{Time: time.Now()}
	if report.Machine, err = describeMachine(ctx, env); err != nil {
		return nil, err
	}
	for _, part := range parts {
		result, err := part.run(ctx, env)
		if err != nil {
			return report, fmt.Errorf("part %s: %w", part.Name, err)
		}
		result.Part, result.Title = part.Name, part.Title
		report.Results = append(report.Results, result)
	}
	return report, nil
}

func choose(names []string) ([]Part, error) {
	if len(names) == 0 {
		return Parts(), nil
	}
	var chosen []Part
	for _, name := range names {
		part, err := partNamed(name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, part)
	}
	return chosen, nil
}

func partNamed(name string) (Part, error) {
	var known []string
	for _, part := range Parts() {
		if part.Name == name {
			return part, nil
		}
		known = append(known, part.Name)
	}
	return Part{}, fmt.Errorf("part %q is unknown; the parts are %s", name, strings.Join(known, ", "))
}
