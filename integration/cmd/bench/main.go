// Command bench measures Clearway beside host-local, BIRD and FRR, and prints ratios.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/clearway/clearway/integration/bench"
)

// Exit codes, as clearwayctl's.
const (
	exitFailed = 1
	exitUsage  = 2
	exitNo     = 4
)

type options struct {
	plan     bench.Plan
	quick    bool
	markdown bool
	strict   bool
	json     string
}

func main() {
	chosen, err := parse(os.Args[1:])
	if err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	os.Exit(run(ctx, chosen))
}

func parse(arguments []string) (options, error) {
	var chosen options
	flags := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	flags.StringSliceVar(&chosen.plan.Only, "only", nil, "parts to run: "+partNames()+" (default all)")
	flags.IntVar(&chosen.plan.Rounds, "rounds", 0, "rounds of each measurement (default each part's own)")
	flags.BoolVar(&chosen.quick, "quick", false, "measure less, in about a minute")
	flags.StringVar(&chosen.plan.Bin, "bin", "bin", "folder of the built binaries")
	flags.StringVar(&chosen.plan.Dir, "dir", "", "folder on a real disk for the data (default the first of /tmp, /var/tmp that is on one)")
	flags.StringVar(&chosen.json, "json", "", "write the report as JSON to this file too")
	flags.BoolVar(&chosen.markdown, "markdown", false, "print Markdown, as docs/benchmarks.md has it")
	flags.BoolVar(&chosen.strict, "strict", false, "exit with 4 when a target is missed")
	if err := flags.Parse(arguments); err != nil {
		return chosen, err
	}
	if flags.NArg() > 0 {
		return chosen, fmt.Errorf("argument %q is unknown; all options are flags (see --help)", flags.Arg(0))
	}
	if chosen.plan.Rounds < 0 {
		return chosen, fmt.Errorf("--rounds is %d; it must be at least 1, or 0 for each part's own", chosen.plan.Rounds)
	}
	if chosen.quick {
		chosen.plan.Scale = bench.Quick
	}
	return chosen, chooseDir(&chosen.plan)
}

func chooseDir(plan *bench.Plan) (err error) {
	if plan.Dir == "" {
		plan.Dir, err = bench.DataDir()
	}
	return err
}

func partNames() string {
	var names []string
	for _, part := range bench.Parts() {
		names = append(names, part.Name)
	}
	return strings.Join(names, ", ")
}

func run(ctx context.Context, chosen options) int {
	began := time.Now()
	chosen.plan.Progress = func(line string) {
		fmt.Fprintf(os.Stderr, "%4.0fs  %s\n", time.Since(began).Seconds(), line)
	}
	report, err := bench.Run(ctx, chosen.plan)
	// What was measured before a failure is still worth reading.
	if report != nil && len(report.Results) > 0 {
		err = errors.Join(err, print(report, chosen))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return exitFailed
	}
	if missed := report.Missed(); chosen.strict && len(missed) > 0 {
		fmt.Fprintf(os.Stderr, "bench: %d targets were missed\n", len(missed))
		return exitNo
	}
	return 0
}

func print(report *bench.Report, chosen options) error {
	write := report.WriteText
	if chosen.markdown {
		write = report.WriteMarkdown
	}
	if err := write(os.Stdout); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if chosen.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("report as JSON: %w", err)
	}
	if err := os.WriteFile(chosen.json, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("report as JSON: %w", err)
	}
	return nil
}
