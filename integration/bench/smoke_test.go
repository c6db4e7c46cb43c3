package bench

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// needRoot skips, loudly, where namespaces can't be made; in CI that is a failure.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("root is needed to make network namespaces, and CI must have it")
	}
	t.Skip("SKIPPED: root is needed to make network namespaces; the benchmarks were not tried")
}

func tinyPlan(t *testing.T) Plan {
	t.Helper()
	// Not t.TempDir: FRR's user can't get into that.
	dir, err := os.MkdirTemp("", "clearway-bench-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return Plan{Scale: Tiny, Bin: filepath.Join("..", "..", "bin"), Dir: dir, Progress: func(line string) { t.Log(line) }}
}

func TestEachPartRuns(t *testing.T) {
	needRoot(t)
	for _, part := range Parts() {
		t.Run(part.Name, func(t *testing.T) {
			plan := tinyPlan(t)
			plan.Only = []string{part.Name}
			report, err := Run(t.Context(), plan)
			if err != nil {
				t.Fatal(err)
			}
			checkMeasured(t, report)
			if left, err := os.ReadDir(plan.Dir); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v (%v)", left, err)
			}
		})
	}
}

func checkMeasured(t *testing.T, report *Report) {
	t.Helper()
	for _, result := range report.Results {
		for _, table := range result.Tables {
			for _, row := range table.Rows {
				for i, value := range row.Values {
					if !(value > 0) {
						t.Errorf("%s, %s: %s has %v", table.Title, row.Metric, table.Contenders[i], value)
					}
				}
			}
		}
	}
}

// The rivals alone: the harness itself is sound, whatever state Clearway is in.
func TestRivalsRouteWhatTheyAreFed(t *testing.T) {
	needRoot(t)
	env := &environment{plan: tinyPlan(t)}
	env.dir = env.plan.Dir
	result, err := compareRouters(t.Context(), env, []*router{
		{name: "bird", start: startBIRD}, {name: "frr", start: startFRR},
	})
	if err != nil {
		t.Fatal(err)
	}
	checkMeasured(t, &Report{Results: []Result{result}})
}

func TestWatchCountsWhatTheKernelHas(t *testing.T) {
	needRoot(t)
	within, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer within.close()
	watch, err := watchRoutes(within)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.close()
	change := func(do func(*netlink.Route) error, prefixes ...netip.Prefix) {
		t.Helper()
		err := within.do(func() error {
			for _, prefix := range prefixes {
				_, destination, err := net.ParseCIDR(prefix.String())
				if err != nil {
					return err
				}
				if err := do(&netlink.Route{Dst: destination, Type: 6 /* blackhole */}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := watch.drain(); err != nil {
			t.Fatal(err)
		}
	}
	counts := func() [2]int {
		dumped, err := within.countRoutes()
		if err != nil {
			t.Fatal(err)
		}
		return [2]int{watch.count, dumped}
	}
	change(netlink.RouteAdd, feedPrefix(0), feedPrefix(7), netip.MustParsePrefix("172.16.0.0/26"))
	if diff := cmp.Diff([2]int{2, 2}, counts()); diff != "" {
		t.Errorf("after two of the feed's and another: %s", diff)
	}
	change(netlink.RouteReplace, feedPrefix(7))
	if diff := cmp.Diff([2]int{2, 2}, counts()); diff != "" {
		t.Errorf("a replaced route counts once: %s", diff)
	}
	change(netlink.RouteDel, feedPrefix(0))
	if diff := cmp.Diff([2]int{1, 1}, counts()); diff != "" {
		t.Errorf("after one was removed: %s", diff)
	}
}

// Ctrl-C ends the context of the run, and whatever the run has started must end with it.
func TestInterruptedRunLeavesNothing(t *testing.T) {
	needRoot(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	env := &environment{plan: tinyPlan(t)}
	env.dir = env.plan.Dir
	env.plan.Progress = func(line string) {
		if strings.Contains(line, "round 1") {
			interrupt()
		}
	}
	routers := []*router{{name: "bird", start: startBIRD}, {name: "frr", start: startFRR}}
	if _, err := compareRouters(ctx, env, routers); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v is not the interruption", err)
	}
	for _, router := range routers {
		if len(router.processes) == 0 {
			t.Errorf("%s was not started: the test shows nothing", router.name)
		}
		for _, each := range router.processes {
			if err := each.check(); err == nil {
				t.Errorf("%s still runs", each.name)
			}
		}
	}
}
