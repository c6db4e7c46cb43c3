package kube

import (
	"encoding/json"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func TestStatusIsWrittenOnlyWhenItChanges(t *testing.T) {
	pool := made("IPPool", "a", "u1", 2).(*clearwayv1.IPPool)
	pool.Status = &clearwayv1.IPPoolStatus{
		Phase: "Active", Assigned: 5, FreeAddresses: 1 << 40,
		Conditions: []*clearwayv1.Condition{{Type: "Available", Status: "True", Reason: "Active"}},
	}
	accepted := verdictOf(pool, pool, refusal{}, false)
	first, err := statusFor(pool, accepted, 2, nil, epoch)
	if err != nil {
		t.Fatal(err)
	}
	object := &unstructured.Unstructured{Object: map[string]any{"kind": "IPPool"}}
	changed := withStatus(object, first)
	if changed == nil {
		t.Fatal("a first status is not written")
	}
	// As the API server hands it back.
	text, err := json.Marshal(changed.Object)
	if err != nil {
		t.Fatal(err)
	}
	back := &unstructured.Unstructured{}
	if err := back.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	seen, _ := back.Object["status"].(map[string]any)
	later, err := statusFor(pool, accepted, 2, seen, epoch.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if again := withStatus(back, later); again != nil {
		t.Errorf("it is written again: %v, was %v", later, seen)
	}
	if seen["freeAddresses"] != int64(1<<40) || seen["blocks"] != int64(0) {
		t.Errorf("numbers are %v, %v", seen["freeAddresses"], seen["blocks"])
	}
	pool.Status.Assigned = 6
	if later, err = statusFor(pool, accepted, 2, seen, epoch.Add(time.Hour)); err != nil || withStatus(back, later) == nil {
		t.Errorf("a change is not written: %v, %v", later, err)
	}
	refused := verdict{"False", reasonRefused, "no"}
	if later, err = statusFor(pool, refused, 2, seen, epoch.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	conditions := later["conditions"].([]any)
	for _, one := range conditions {
		condition := one.(map[string]any)
		want := epoch
		if condition["type"] == conditionAccepted {
			want = epoch.Add(time.Hour)
		}
		if condition["lastTransitionTime"] != want.Format(time.RFC3339) {
			t.Errorf("condition %v, want the time %s", condition, want)
		}
	}
}

func TestVerdict(t *testing.T) {
	old, now := made("IPPool", "a", "u1", 1), made("IPPool", "a", "u1", 2)
	for name, c := range map[string]struct {
		held    clearwayv1.Object
		refused *refusal
		want    verdict
	}{
		"in force":                   {now, nil, verdict{"True", "Accepted", "is in force"}},
		"not looked at":              {old, nil, verdict{"Unknown", "Pending", "has not been looked at yet"}},
		"refused, none before":       {nil, &refusal{of: &clearwayv1.Source{Uid: "u1", Generation: 2}, text: "no"}, verdict{"False", "Refused", "no"}},
		"refused, one before":        {old, &refusal{of: &clearwayv1.Source{Uid: "u1", Generation: 2}, text: "no"}, verdict{"False", "Refused", "no; the one that was accepted before is in force"}},
		"the one before was refused": {nil, &refusal{of: &clearwayv1.Source{Uid: "u1", Generation: 1}, text: "no"}, verdict{"Unknown", "Pending", "has not been looked at yet"}},
	} {
		of := refusal{}
		if c.refused != nil {
			of = *c.refused
		}
		if got := verdictOf(c.held, now, of, c.refused != nil); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestObjectsThereAndBack: what is written into the API server is read from it again.
func TestObjectsThereAndBack(t *testing.T) {
	multihop := true
	for _, object := range []clearwayv1.Object{
		&clearwayv1.BGPPeer{
			ApiVersion: clearwayv1.APIVersion, Kind: "BGPPeer",
			Metadata: &clearwayv1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}},
			Spec: &clearwayv1.BGPPeerSpec{
				PeerAddress: "192.0.2.1", PeerAsn: 4294967295, AllowOwnAs: proto.Int32(0), Families: []string{"IPv4"},
				Bfd: &clearwayv1.BFD{Multihop: &multihop, MinTtl: 250},
			},
		},
		&clearwayv1.IPPool{
			ApiVersion: clearwayv1.APIVersion, Kind: "IPPool", Metadata: &clearwayv1.ObjectMeta{Name: "p"},
			Spec: &clearwayv1.IPPoolSpec{
				Cidr: "10.0.0.0/8", Priority: -5, ReservedFirst: proto.Int32(0), AvoidBuggyIps: true, DrainCidrs: []string{"10.0.0.0/24"},
				NodeSelector: &clearwayv1.LabelSelector{MatchLabels: map[string]string{"x": "y"}},
			},
		},
		&clearwayv1.BGPFilter{ApiVersion: clearwayv1.APIVersion, Kind: "BGPFilter", Metadata: &clearwayv1.ObjectMeta{Name: "p"}, Spec: &clearwayv1.BGPFilterSpec{}},
	} {
		over := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"x": "y"}}}
		over.SetAPIVersion(clearwayv1.APIVersion)
		over.SetKind(object.GetKind())
		over.SetName("p")
		over.SetAnnotations(map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}", "old": "one"})
		there, err := toKubernetes(object, over)
		if err != nil {
			t.Fatal(err)
		}
		if there.Object["status"] == nil || there.GetAnnotations()["old"] != "" || there.GetAnnotations()["kubectl.kubernetes.io/last-applied-configuration"] != "{}" {
			t.Errorf("status or annotations: %v", there.Object)
		}
		there.SetUID("u")
		there.SetGeneration(7)
		back, err := fromKubernetes(there)
		if err != nil {
			t.Fatal(err)
		}
		if source := back.GetMetadata().GetSource(); source.GetUid() != "u" || source.GetGeneration() != 7 {
			t.Errorf("source %v", source)
		}
		back.GetMetadata().Source = nil
		if !proto.Equal(back, object) {
			t.Errorf("%v\nis back as %v", object, back)
		}
	}
}

func TestUnknownFieldsAreNamed(t *testing.T) {
	object := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"cidr": "10.0.0.0/8", "newField": "x"}}}
	object.SetKind("IPPool")
	if _, err := fromKubernetes(object); err == nil {
		t.Error("a field that nobody knows is taken")
	}
}
