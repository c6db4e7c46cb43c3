package speaker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// GoBGP has one speaker a process, so a test that needs one with sockets starts this test binary again, as a child
// that reads Desired values from its input, a line each, and writes what it sees to its output, a line each.
const childEnv = "CLEARWAY_TEST_SPEAKER"

// childStart is how a child's speaker is made.
type childStart struct{ Restarting bool }

// childView is what a child sees.
type childView struct {
	Sessions []route.Session
	Routes   map[string][]route.Path
	Prefixes int           // how many there are; Routes may be left out
	Took     time.Duration // from the first change of a prefix to the last
}

func TestMain(m *testing.M) {
	if start := os.Getenv(childEnv); start != "" {
		if err := runChild(start); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func runChild(startText string) error {
	var start childStart
	if err := json.Unmarshal([]byte(startText), &start); err != nil {
		return err
	}
	if file := os.Getenv("CLEARWAY_CPUPROFILE"); file != "" {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	speaker := New(Options{Restarting: start.Restarting, Logger: log})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go speaker.Run(ctx)
	go func() {
		defer cancel()
		lines := bufio.NewScanner(os.Stdin)
		lines.Buffer(nil, 1<<24)
		for lines.Scan() {
			var desired config.Desired
			if err := json.Unmarshal(lines.Bytes(), &desired); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
			speaker.Set(desired)
		}
	}()
	showChild(ctx, speaker)
	return nil
}

// maxShown bounds what a child writes of its routes.
const maxShown = 100

func showChild(ctx context.Context, speaker *Speaker) {
	out := json.NewEncoder(os.Stdout)
	var once sync.Once
	paths := map[string][]route.Path{}
	var first, last, shown time.Time
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		for taken := speaker.Take(1000); len(taken) > 0; taken = speaker.Take(1000) {
			last = time.Now()
			if first.IsZero() {
				first = last
			}
			for _, learned := range taken {
				delete(paths, learned.Prefix.String())
				for _, path := range learned.Paths {
					paths[learned.Prefix.String()] = append(paths[learned.Prefix.String()], *path)
				}
			}
		}
		if time.Since(shown) < 20*time.Millisecond {
			select { // a burst is shown once, not at each of its routes
			case <-ctx.Done():
				return
			case <-again.C:
			case <-speaker.Changed():
			}
			continue
		}
		shown = time.Now()
		view := childView{Sessions: speaker.Sessions(), Prefixes: len(paths), Took: last.Sub(first)}
		if len(paths) <= maxShown {
			view.Routes = paths
		}
		if err := out.Encode(view); err != nil {
			once.Do(func() { fmt.Fprintln(os.Stderr, err) })
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		case <-speaker.Changed():
		}
	}
}
