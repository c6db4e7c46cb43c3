package clearwayv1

import "testing"

func TestNewKnowsEveryKind(t *testing.T) {
	for _, kind := range Kinds() {
		object, err := New(kind)
		if err != nil {
			t.Fatal(err)
		}
		if object.GetKind() != kind || object.GetApiVersion() != APIVersion || object.GetMetadata() == nil {
			t.Errorf("New(%q) = %v", kind, object)
		}
		if back := Wrap(object).Object(); back.GetKind() != kind {
			t.Errorf("Wrap(%q).Object() is a %q", kind, back.GetKind())
		}
	}
}

func TestNewTakesPluralAndAnyCase(t *testing.T) {
	for _, kind := range []string{"ippools", "IPPool", "ippool", "BGPPEERS"} {
		if _, err := New(kind); err != nil {
			t.Error(err)
		}
	}
	if _, err := New("Poool"); err == nil {
		t.Error("an unknown kind was taken")
	}
}
