package bench

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func sampleReport() *Report {
	return &Report{
		Time: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC),
		Results: []Result{{
			Part: "cni", Title: "CNI", Method: []string{"Side by side."},
			Tables: []Table{{Title: "One at a time", Contenders: []string{"clearway", "host-local"}, Rows: []Row{
				row("ADD p50", "ms", 4.5, 5), rateRow("ADD", "calls/s", 1234567, 400), row("DEL p50", "ms", 3, missing),
			}}},
			Targets: []Target{atMost("ADD p50", "host-local", 0.9, 1.5), below("Add p99", 4, 3)},
		}},
	}
}

func TestMarkdownShowsRatiosAndMisses(t *testing.T) {
	var out strings.Builder
	if err := sampleReport().WriteMarkdown(&out); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"## The machine, 2026-11-23",
		"| One at a time | clearway | host-local | vs host-local |",
		"| ADD p50 (ms) | 4.50 | 5.00 | 0.90x |",
		"| ADD (calls/s, more is better) | 1,234,567 | 400 | 3086.42x |",
		"| DEL p50 (ms) | 3.00 | - | - |",
		"| ADD p50 | at most 1.50x host-local's | 0.90x | reached |",
		"| Add p99 | under 3.00 ms | 4.00 ms | MISSED |",
	} {
		if !strings.Contains(out.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
}

func TestMissedListsOnlyMisses(t *testing.T) {
	missed := sampleReport().Missed()
	if len(missed) != 1 || missed[0].Name != "Add p99" {
		t.Errorf("missed %v", missed)
	}
}

// A ratio that could not be measured must not pass for a target that was reached.
func TestTargetWithoutFigureIsMissed(t *testing.T) {
	if target := atMost("x", "y", missing, 2); target.Met {
		t.Error("a ratio that is no number was taken for a good one")
	}
	if target := timesAtLeast("x", "y", missing, 2); target.Met {
		t.Error("a rate that was not measured is reached")
	}
	if target := below("x", missing, 2); target.Met {
		t.Error("a time that is no number was taken for a good one")
	}
}

func TestJSONWritesWhatIsMissingAsNull(t *testing.T) {
	text, err := json.Marshal(sampleReport())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `"values":[3,null]`) {
		t.Errorf("no null in %s", text)
	}
}

func TestUnknownPartIsNamed(t *testing.T) {
	_, err := choose([]string{"routes", "coffee"})
	if err == nil || !strings.Contains(err.Error(), `"coffee"`) || !strings.Contains(err.Error(), "cni, allocate, fleet, routes") {
		t.Errorf("error %v names neither the part nor those there are", err)
	}
}
