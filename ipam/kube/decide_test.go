package kube

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// made is a resource of a generation of an object; without UID it is ipamd's own.
func made(kind, name, uid string, generation int64) clearwayv1.Object {
	metadata := &clearwayv1.ObjectMeta{Name: name}
	if uid != "" {
		metadata.Source = &clearwayv1.Source{Uid: uid, Generation: generation}
	}
	switch kind {
	case "IPPool":
		return &clearwayv1.IPPool{Kind: kind, Metadata: metadata}
	case "BGPPeer":
		return &clearwayv1.BGPPeer{Kind: kind, Metadata: metadata}
	}
	return &clearwayv1.BGPFilter{Kind: kind, Metadata: metadata}
}

func byKey(objects ...clearwayv1.Object) map[key]clearwayv1.Object {
	all := map[key]clearwayv1.Object{}
	for _, one := range objects {
		all[keyOf(one)] = one
	}
	return all
}

func written(all []step) string {
	var words []string
	for _, one := range all {
		verb := "take"
		if one.take == nil {
			verb = "drop"
		}
		words = append(words, fmt.Sprintf("%s %s/%s", verb, one.kind, one.name))
	}
	return strings.Join(words, ", ")
}

func TestSteps(t *testing.T) {
	deleting := made("IPPool", "old", "u1", 1)
	deleting.GetMetadata().DeletionTimestamp = timestamppb.New(epoch)
	labelled := made("IPPool", "a", "u1", 1)
	labelled.GetMetadata().Labels = map[string]string{"x": "y"}
	refused := func(uid string, generation int64, ago time.Duration) map[key]refusal {
		return map[key]refusal{{"IPPool", "a"}: {of: &clearwayv1.Source{Uid: uid, Generation: generation}, at: epoch.Add(-ago)}}
	}
	for name, c := range map[string]struct {
		wanted, held map[key]clearwayv1.Object
		refused      map[key]refusal
		want         string
	}{
		"nothing":                   {nil, nil, nil, ""},
		"new ones, by kind":         {byKey(made("BGPPeer", "p", "u1", 1), made("BGPFilter", "f", "u2", 1), made("IPPool", "a", "u3", 1)), nil, nil, "take IPPool/a, take BGPFilter/f, take BGPPeer/p"},
		"up to date":                {byKey(made("IPPool", "a", "u1", 1)), byKey(made("IPPool", "a", "u1", 1)), nil, ""},
		"changed":                   {byKey(made("IPPool", "a", "u1", 2)), byKey(made("IPPool", "a", "u1", 1)), nil, "take IPPool/a"},
		"labels do not count up":    {byKey(labelled), byKey(made("IPPool", "a", "u1", 1)), nil, "take IPPool/a"},
		"another of the name":       {byKey(made("IPPool", "a", "u2", 1)), byKey(made("IPPool", "a", "u1", 1)), nil, "take IPPool/a"},
		"of before, adopted":        {byKey(made("IPPool", "a", "u2", 1)), byKey(made("IPPool", "a", "", 0)), nil, "take IPPool/a"},
		"of before, left alone":     {nil, byKey(made("IPPool", "a", "", 0)), nil, ""},
		"gone, users first":         {nil, byKey(made("BGPPeer", "p", "u1", 1), made("BGPFilter", "f", "u2", 1)), nil, "drop BGPPeer/p, drop BGPFilter/f"},
		"dropped before others":     {byKey(made("IPPool", "b", "u2", 1)), byKey(made("IPPool", "a", "u1", 1)), nil, "drop IPPool/a, take IPPool/b"},
		"is being deleted":          {nil, byKey(deleting), nil, ""},
		"back while it is deleted":  {byKey(made("IPPool", "old", "u1", 1)), byKey(deleting), nil, "take IPPool/old"},
		"refused":                   {byKey(made("IPPool", "a", "u1", 2)), byKey(made("IPPool", "a", "u1", 1)), refused("u1", 2, time.Second), ""},
		"refused, tried again":      {byKey(made("IPPool", "a", "u1", 2)), byKey(made("IPPool", "a", "u1", 1)), refused("u1", 2, retryAfter), "take IPPool/a"},
		"refused, and changed":      {byKey(made("IPPool", "a", "u1", 3)), byKey(made("IPPool", "a", "u1", 1)), refused("u1", 2, time.Second), "take IPPool/a"},
		"not to be dropped yet":     {nil, byKey(made("IPPool", "a", "u1", 1)), refused("u1", 0, time.Second), ""},
		"to be dropped, once again": {nil, byKey(made("IPPool", "a", "u1", 1)), refused("u1", 0, retryAfter), "drop IPPool/a"},
	} {
		if got := written(steps(c.wanted, c.held, c.refused, epoch)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestStepsLeadThere: whatever was there before, doing the steps makes the copies what the API server has, and nothing is
// done twice. What is ipamd's own stays.
func TestStepsLeadThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string, uids []string) map[key]clearwayv1.Object {
			all := map[key]clearwayv1.Object{}
			for i := range rapid.IntRange(0, 6).Draw(t, label) {
				kind := rapid.SampledFrom([]string{"IPPool", "BGPPeer", "BGPFilter"}).Draw(t, fmt.Sprint(label, i))
				name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, fmt.Sprint(label, i, " name"))
				uid := rapid.SampledFrom(uids).Draw(t, fmt.Sprint(label, i, " uid"))
				one := made(kind, name, uid, rapid.Int64Range(1, 3).Draw(t, fmt.Sprint(label, i, " generation")))
				all[keyOf(one)] = one
			}
			return all
		}
		wanted, held := draw("wanted", []string{"u1", "u2"}), draw("held", []string{"u1", "u2", ""})
		own := map[key]bool{}
		for k, one := range held {
			own[k] = one.GetMetadata().GetSource() == nil && wanted[k] == nil
		}
		for _, one := range steps(wanted, held, nil, epoch) {
			if one.take == nil {
				delete(held, one.key)
			} else {
				held[one.key] = one.take
			}
		}
		if again := steps(wanted, held, nil, epoch); len(again) > 0 {
			t.Fatalf("still to do: %s", written(again))
		}
		for k := range held {
			if wanted[k] == nil && !own[k] {
				t.Fatalf("%v is left", k)
			}
		}
		for k, is := range own {
			if is && held[k] == nil {
				t.Fatalf("%v, which is ipamd's own, was dropped", k)
			}
		}
	})
}

// TestEveryKindHasARank: a kind that has none would be taken in no order.
func TestEveryKindHasARank(t *testing.T) {
	var ranked []string
	for kind := range rank {
		ranked = append(ranked, kind)
	}
	want := kinds()
	slices.Sort(ranked)
	slices.Sort(want)
	if !slices.Equal(ranked, want) {
		t.Errorf("ranks of %v, kinds %v", ranked, want)
	}
}
