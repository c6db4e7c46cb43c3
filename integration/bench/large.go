package bench

import (
	"context"
	"slices"
	"time"
)

// largeCase is one large table, packed: what it takes of memory at rest, and how soon one route of it is back.
type largeCase struct {
	size   int
	rest   time.Duration // after the last route; what a burst took may be given back in it
	rounds int           // of one route
}

func largeCaseOf(scale Scale) largeCase {
	if scale == Tiny {
		return largeCase{50, 0, 3}
	}
	return largeCase{200_000, 10 * time.Second, 21}
}

type largeFigures struct {
	memory      float64
	half, worst float64 // one route, in milliseconds
}

func (r *router) measureLarge(ctx context.Context, this largeCase, all []*router) (figures largeFigures, err error) {
	table, one := r.feed(this.size, packings[0]), r.feed(1, packings[1])
	if err := quiesceAll(ctx, all); err != nil {
		return figures, err
	}
	if _, err := r.pass(ctx, table.announce, this.size); err != nil {
		return figures, err
	}
	select {
	case <-time.After(this.rest):
	case <-ctx.Done():
		return figures, context.Cause(ctx)
	}
	if err := r.verify(this.size); err != nil {
		return figures, err
	}
	if figures.memory, err = r.residentMiB(); err != nil {
		return figures, err
	}
	var took []float64
	for range this.rounds {
		if _, err := r.pass(ctx, one.withdraw, this.size-1); err != nil {
			return figures, err
		}
		back, err := r.pass(ctx, one.announce, this.size)
		if err != nil {
			return figures, err
		}
		took = append(took, back)
	}
	figures.half, figures.worst = median(took), slices.Max(took)
	_, err = r.pass(ctx, table.withdraw, 0)
	return figures, err
}

const (
	largeMemory = 250e6 / (1 << 20) // MiB
	oneRoute    = 10                // ms
)

func largeResult(this largeCase, names []string, figures map[string]largeFigures) (Table, []Target) {
	made := Table{Title: groupThousands(int64(this.size)) + " routes, packed, at rest", Contenders: names}
	of := func(metric, unit string, value func(largeFigures) float64) {
		var values []float64
		for _, name := range names {
			values = append(values, value(figures[name]))
		}
		made.Rows = append(made.Rows, row(metric, unit, values...))
	}
	of("resident memory", "MiB", func(f largeFigures) float64 { return f.memory })
	of("one route to the kernel, p50", "ms", func(f largeFigures) float64 { return f.half })
	of("one route to the kernel, slowest", "ms", func(f largeFigures) float64 { return f.worst })
	own := figures[names[0]]
	return made, []Target{
		{
			Name: made.Title + ": resident memory", Want: "at most 250 MB", Got: formatNumber(own.memory*(1<<20)/1e6) + " MB",
			Met: own.memory <= largeMemory,
		},
		below(made.Title+": one route to the kernel, slowest", own.worst, oneRoute),
	}
}
