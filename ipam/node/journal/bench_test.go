package journal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkAppend is the journal next to the bare disk: p50 of writing as many bytes and fdatasync, in the same folder.
func BenchmarkAppend(b *testing.B) {
	payload := make([]byte, 300)
	b.Run("raw", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		var took []time.Duration
		for b.Loop() {
			began := time.Now()
			if _, err := f.Write(payload); err != nil {
				b.Fatal(err)
			}
			if err := unix.Fdatasync(int(f.Fd())); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(began))
		}
		report(b, took)
	})
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			j, _, err := Open(b.TempDir(), Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			if err := j.Start(nothing{}); err != nil {
				b.Fatal(err)
			}
			took := make([][]time.Duration, callers)
			b.ResetTimer()
			var all sync.WaitGroup
			for c := range callers {
				all.Go(func() {
					for range b.N / callers {
						began := time.Now()
						if _, err := j.Append(context.Background(), Entry{Payload: payload}); err != nil {
							b.Error(err)
							return
						}
						took[c] = append(took[c], time.Since(began))
					}
				})
			}
			all.Wait()
			report(b, slices.Concat(took...))
		})
	}
}

type nothing struct{}

func (nothing) Apply([]Applied)   {}
func (nothing) Snapshot() []Entry { return nil }

func report(b *testing.B, took []time.Duration) {
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	b.ReportMetric(float64(len(took))/b.Elapsed().Seconds(), "appends/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(0, "ns/op")
}
