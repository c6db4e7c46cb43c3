package view

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

var now = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func TestKind(t *testing.T) {
	for name, want := range map[string]string{
		"ippool": "IPPool", "IPPools": "IPPool", "ipp": "IPPool", "pools": "IPPool", "Peers": "BGPPeer", "bgpp": "BGPPeer",
		"no": "Node", "nodes": "Node", "asg": "Assignment", "SESSIONS": "BGPSession", "rt": "Route", "ev": "Event",
	} {
		if got, err := Kind(name); err != nil || got != want {
			t.Errorf("Kind(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"ippol": `did you mean "ippool"?`, "deployments": "the kinds are IPPool, ", "": "the kinds are",
	} {
		if _, err := Kind(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Kind(%q): %v", name, err)
		}
	}
}

// No two kinds share a name, and every kind has one to type, a table, and a line in the help.
func TestEveryKindIsShown(t *testing.T) {
	owner := map[string]string{}
	for _, kind := range clearwayv1.Kinds() {
		if len(short[kind]) == 0 {
			t.Errorf("%s has no short name", kind)
		}
		for _, name := range names(kind) {
			for _, form := range []string{name, name + "s"} {
				if other, taken := owner[form]; taken && other != kind {
					t.Errorf("%q is %s and %s", form, other, kind)
				}
				owner[form] = kind
			}
		}
		if !strings.Contains(KindNames(), strings.ToLower(kind)+"s") {
			t.Errorf("%s is not in the help", kind)
		}
		object, err := clearwayv1.New(kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, wide := range []bool{false, true} {
			var text bytes.Buffer
			if err := Table(&text, kind, []clearwayv1.Object{object}, Style{Wide: wide, Now: now}); err != nil {
				t.Errorf("an empty %s: %v", kind, err)
			}
			if lines := strings.Count(text.String(), "\n"); lines != 2 {
				t.Errorf("an empty %s has %d lines", kind, lines)
			}
		}
	}
	if err := Table(&bytes.Buffer{}, "Pod", nil, Style{}); err == nil {
		t.Error("a kind that is none has a table")
	}
}

// The tables and descriptions of one resource of each kind, every field set, as they were last read by a person.
func TestGoldens(t *testing.T) {
	file, err := os.Open("testdata/all.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	items, err := manifest.ReadBack("all.yaml", file)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, kind := range clearwayv1.Kinds() {
		var objects []clearwayv1.Object
		for _, item := range items {
			if item.Object.GetKind() == kind {
				objects = append(objects, item.Object)
			}
		}
		if len(objects) == 0 {
			t.Errorf("all.yaml has no %s", kind)
			continue
		}
		text.WriteString("== " + kind + "\n")
		for _, wide := range []bool{false, true} {
			if err := Table(&text, kind, objects, Style{Wide: wide, Now: now}); err != nil {
				t.Error(err)
			}
			text.WriteString("\n")
		}
		if err := Describe(&text, objects[0], nil, now); err != nil {
			t.Error(err)
		}
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile("testdata/all.txt", text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/all.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text.String()); diff != "" {
		t.Error(diff)
	}
}

// What a peer or a Pod wrote reaches neither the layout nor the terminal.
func TestControlCharactersAreNotPrinted(t *testing.T) {
	session := &clearwayv1.BGPSession{
		Kind: "BGPSession", Metadata: &clearwayv1.ObjectMeta{Name: "a"},
		Status: &clearwayv1.BGPSessionStatus{Reason: "\x1b[2Jshutdown\tby\npeer\u009b"},
	}
	var text bytes.Buffer
	if err := Table(&text, "BGPSession", []clearwayv1.Object{session}, Style{Now: now}); err != nil {
		t.Fatal(err)
	}
	if err := Describe(&text, session, nil, now); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(text.String(), "\x1b\t\u009b") || !strings.Contains(text.String(), " [2Jshutdown by peer ") {
		t.Errorf("got %q", text.String())
	}
}

func TestSpan(t *testing.T) {
	for span, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", 60 * time.Second: "1m", 61 * time.Second: "1m1s",
		11*time.Minute + time.Second: "11m", 3*time.Hour + 20*time.Minute: "3h20m", 26 * time.Hour: "1d2h", 400 * 24 * time.Hour: "400d",
	} {
		if got := Span(span); got != want {
			t.Errorf("Span(%s) = %q, want %q", span, got, want)
		}
	}
	if got := Age(now, nil); got != "" {
		t.Errorf("unknown is %q", got)
	}
	if got := Age(now, timestamppb.New(now.Add(time.Hour))); got != "0s" {
		t.Errorf("a clock ahead is %q", got)
	}
}

func TestTitle(t *testing.T) {
	for name, want := range map[string]string{
		"minBlockSize": "Min block size", "peerASN": "Peer ASN", "asNumber": "AS number", "cidr": "CIDR", "localASNumber": "Local AS number",
		"bootID": "Boot ID", "since": "Since",
	} {
		if got := title(name); got != want {
			t.Errorf("title(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestNatural(t *testing.T) {
	want := []string{"", "a", "a01", "a1", "a1b", "a2", "a10", "a10-2", "a10-10", "b"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, Natural)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	want = []string{"9.0.0.0/8", "10.0.0.0/8", "10.0.0.0/26", "10.0.0.2", "10.0.0.10", "2001:db8::2", "2001:db8::10", "", "pool2", "pool10"}
	got = slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, Addresses)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Both orders are total: antisymmetric, transitive, and equal only for the same text.
func TestOrdersAreTotal(t *testing.T) {
	texts := rapid.OneOf(rapid.StringMatching(`[ab]?[0-9]{0,3}[ab]?[0-9]{0,2}`), rapid.SampledFrom([]string{"10.0.0.0/8", "10.0.0.1", "::1", "::/0"}))
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := texts.Draw(t, "a"), texts.Draw(t, "b"), texts.Draw(t, "c")
		for name, compare := range map[string]func(a, b string) int{"Natural": Natural, "Addresses": Addresses} {
			if compare(a, b) != -compare(b, a) || (compare(a, b) == 0) != (a == b) {
				t.Fatalf("%s: %q and %q", name, a, b)
			}
			if compare(a, b) < 0 && compare(b, c) < 0 && compare(a, c) >= 0 {
				t.Fatalf("%s: %q, %q, %q", name, a, b, c)
			}
		}
	})
}
