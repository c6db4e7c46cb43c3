package manifest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/clearway/clearway/proto/clearway/v1"
)

func TestRead(t *testing.T) {
	const text = `# pools
apiVersion: clearway.io/v1
kind: IPPool
metadata: {name: pods, labels: {team: net}}
spec: {cidr: 10.244.0.0/16, kind: Block, blockSize: 26, nodeSelector: {matchLabels: {rack: r1}}}
---
---
apiVersion: clearway.io/v1
kind: BGPPeer
metadata:
  name: tor-r1
  resourceVersion: "12"
  uid: 6f1
  generation: 3
  creationTimestamp: 2026-01-31T12:00:00Z
spec:
  nodeSelector:
    matchExpressions:
    - {key: rack, operator: In, values: [r1, "2"]}
  peerASN: 4200000000
  allowOwnAS: 0
  disabled: true
  holdTime: null
status: {wanted: many, unheardOf: 1}
`
	items, err := Read("all.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []clearwayv1.Object{
		&clearwayv1.IPPool{
			ApiVersion: clearwayv1.APIVersion, Kind: "IPPool",
			Metadata: &clearwayv1.ObjectMeta{Name: "pods", Labels: map[string]string{"team": "net"}},
			Spec: &clearwayv1.IPPoolSpec{
				Cidr: "10.244.0.0/16", Kind: "Block", BlockSize: 26,
				NodeSelector: &clearwayv1.LabelSelector{MatchLabels: map[string]string{"rack": "r1"}},
			},
		},
		&clearwayv1.BGPPeer{
			ApiVersion: clearwayv1.APIVersion, Kind: "BGPPeer",
			Metadata: &clearwayv1.ObjectMeta{Name: "tor-r1", ResourceVersion: "12"},
			Spec: &clearwayv1.BGPPeerSpec{
				NodeSelector: &clearwayv1.LabelSelector{MatchExpressions: []*clearwayv1.LabelSelectorRequirement{
					{Key: "rack", Operator: "In", Values: []string{"r1", "2"}},
				}},
				PeerAsn: 4200000000, AllowOwnAs: new(int32), Disabled: true,
			},
		},
	}
	var got []clearwayv1.Object
	for _, item := range items {
		got = append(got, item.Object)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if got, want := items[1].Fault("spec.peerASN", "is taken").Error(),
		"all.yaml:20:12: BGPPeer/tor-r1: spec.peerASN: is taken"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := items[1].Fault("spec.nodeSelector.matchExpressions[0].zzz", "x").Error(),
		"all.yaml:19:7: BGPPeer/tor-r1: spec.nodeSelector.matchExpressions[0].zzz: x"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := items[0].Fault("", "x").Error(); got != "all.yaml:2: IPPool/pods: x" {
		t.Errorf("got %s", got)
	}
}

func TestReadLists(t *testing.T) {
	for _, text := range []string{
		`{"items": [` + minimal("a") + "," + minimal("b") + `]}`,
		"apiVersion: v1\nkind: List\nmetadata: {resourceVersion: \"\"}\nitems:\n- " + minimal("a") + "\n- " + minimal("b"),
		minimal("a") + "\n---\n" + minimal("b"),
	} {
		items, err := Read("list", strings.NewReader(text))
		if err != nil || len(items) != 2 || items[1].Object.GetMetadata().GetName() != "b" {
			t.Errorf("%s: %v, %v", text, items, err)
		}
	}
	for _, text := range []string{"", "# nothing\n", "---\n---\n", "null\n"} {
		if items, err := Read("empty", strings.NewReader(text)); err != nil || len(items) != 0 {
			t.Errorf("%q: %v, %v", text, items, err)
		}
	}
}

func minimal(name string) string {
	return `{"apiVersion": "clearway.io/v1", "kind": "BGPFilter", "metadata": {"name": "` + name + `"}}`
}

func TestReadAnchorsAndMerges(t *testing.T) {
	const text = `
apiVersion: clearway.io/v1
kind: BGPPeer
metadata: {name: a, labels: &labels {rack: r1}}
spec: &spec {peerAddress: 192.0.2.1, peerASN: 65101, holdTime: 9s, nodeSelector: {matchLabels: *labels}}
---
apiVersion: clearway.io/v1
kind: IPReservation
metadata: {name: b}
spec:
  <<: [{reason: &why merged}, {reason: later}]
  cidrs: [*why]
`
	items, err := Read("anchors", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := items[0].Object.(*clearwayv1.BGPPeer).Spec.NodeSelector.MatchLabels["rack"]; got != "r1" {
		t.Errorf("got %q", got)
	}
	if got := items[1].Object.(*clearwayv1.IPReservation).Spec; got.Reason != "merged" || got.Cidrs[0] != "merged" {
		t.Errorf("got %v", got)
	}
}

// Each file of testdata/faults is read; its faults are those of the file beside it.
func TestNamedErrorsOfFiles(t *testing.T) {
	entries, err := os.ReadDir("testdata/faults")
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, entry := range entries {
		name, isYAML := strings.CutSuffix(entry.Name(), ".yaml")
		if !isYAML {
			continue
		}
		t.Run(name, func(t *testing.T) {
			file, err := os.Open("testdata/faults/" + entry.Name())
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			items, err := Read(entry.Name(), file)
			if len(items) > 0 || !errors.As(err, new(Faults)) {
				t.Fatalf("%d items, %v", len(items), err)
			}
			golden := "testdata/faults/" + name + ".txt"
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, _ := os.ReadFile(golden)
			if diff := cmp.Diff(string(want), err.Error()+"\n"); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestUnique(t *testing.T) {
	items, err := Read("twice.yaml", strings.NewReader(minimal("a")+"\n---\n"+minimal("b")+"\n---\n"+minimal("a")))
	if err != nil {
		t.Fatal(err)
	}
	if err := Unique(items[:2]); err != nil {
		t.Error(err)
	}
	if err := Unique(items); err == nil || err.Error() != "twice.yaml:5: BGPFilter/a: is given twice, first at twice.yaml:1" {
		t.Error(err)
	}
}

func TestReadBounds(t *testing.T) {
	// Each level merges the one below twice: 2^29 values in 30 lines.
	bomb := "a0: &a0 {x: y}\n"
	for i := 1; i < 30; i++ {
		bomb += fmt.Sprintf("a%d: &a%d {<<: [*a%d, *a%d]}\n", i, i, i-1, i-1)
	}
	wide := "a: &a {" + strings.Repeat("x: y, ", 1000) + "}\nspec: {<<: [" + strings.Repeat("*a, ", 1000) + "]}\n" +
		"apiVersion: clearway.io/v1\nkind: BGPFilter\nmetadata: {name: a}\n"
	many := strings.Repeat(minimal("x")+"\n---\n", maxResources+1)
	for name, c := range map[string]struct{ text, want string }{
		"bomb":  {"apiVersion: clearway.io/v1\nkind: BGPFilter\nmetadata: {name: a}\n" + bomb + "spec: *a29\n", "nested too deeply"},
		"wide":  {wide, "more than 500000 values"},
		"large": {strings.Repeat("#", maxBytes+1), "larger than 8 MiB"},
		"many":  {many, "more than 1000 resources"},
		"cycle": {"&a {items: [*a]}", "kind: is missing"},
		"loop":  {"&a {<<: *a}", "nested too deeply"},
	} {
		_, err := Read(name, strings.NewReader(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func TestFaultsAreBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString("apiVersion: clearway.io/v1\nkind: BGPFilter\nmetadata: {name: a}\nspec:\n")
	for i := range 50 {
		text.WriteString("  zz" + strings.Repeat("z", i) + ": 1\n")
	}
	_, err := Read("f", strings.NewReader(text.String()))
	if lines := strings.Split(err.Error(), "\n"); len(lines) != maxFaults+1 || lines[maxFaults] != "and 30 more" {
		t.Errorf("%d lines: %v", len(lines), err)
	}
}
