package bench

import (
	"encoding/json"
	"math"
	"time"
)

// Report is one whole run.
type Report struct {
	Time    time.Time `json:"time"`
	Machine Machine   `json:"machine"`
	Results []Result  `json:"results"`
}

// Result is what one Part found.
type Result struct {
	Part  string `json:"part"`
	Title string `json:"title"`
	// How it was measured, a sentence each: what a reader must know to judge the figures.
	Method  []string `json:"method"`
	Tables  []Table  `json:"tables"`
	Targets []Target `json:"targets"`
}

// Table compares contenders. The first is Clearway; the others are what it is measured against.
type Table struct {
	Title      string   `json:"title"`
	Contenders []string `json:"contenders"`
	Rows       []Row    `json:"rows"`
}

// Row is one measurement of each contender.
type Row struct {
	Metric string  `json:"metric"`
	Unit   string  `json:"unit"`
	Values []Value `json:"values"`
	// MoreIsBetter tells rates from times and sizes.
	MoreIsBetter bool `json:"moreIsBetter,omitempty"`
}

// Value is a measured number; NaN is one that was not measured, and null in JSON.
type Value float64

// MarshalJSON writes what was not measured as null: JSON has no NaN.
func (v Value) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(v)) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(v))
}

// Target is a figure that the project has set itself.
type Target struct {
	Name string `json:"name"`
	// Want and Got in words, with their units.
	Want string `json:"want"`
	Got  string `json:"got"`
	Met  bool   `json:"met"`
}

// ratio is the first contender's value over another's.
func (r Row) ratio(other int) float64 {
	if other >= len(r.Values) || r.Values[other] == 0 {
		return missing
	}
	return float64(r.Values[0] / r.Values[other])
}

func row(metric, unit string, values ...float64) Row {
	made := Row{Metric: metric, Unit: unit, Values: make([]Value, len(values))}
	for i, value := range values {
		made.Values[i] = Value(value)
	}
	return made
}

func rateRow(metric, unit string, values ...float64) Row {
	made := row(metric, unit, values...)
	made.MoreIsBetter = true
	return made
}

// Missed lists the targets that were not reached.
func (r *Report) Missed() []Target {
	var missed []Target
	for _, result := range r.Results {
		for _, target := range result.Targets {
			if !target.Met {
				missed = append(missed, target)
			}
		}
	}
	return missed
}
