package schema

import (
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestEveryKindIsDefined: each kind that may be applied has a definition, and no other.
func TestEveryKindIsDefined(t *testing.T) {
	defined, err := Kinds()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, kind := range clearwayv1.Kinds() {
		if clearwayv1.Writable(kind) {
			want = append(want, kind)
		}
	}
	slices.Sort(want)
	slices.Sort(defined)
	if !slices.Equal(defined, want) {
		t.Errorf("defined are %v, want %v", defined, want)
	}
}

// TestRulesAreOfMessages: a rule of a message that is no more would hold over nothing.
func TestRulesAreOfMessages(t *testing.T) {
	rules, err := book()
	if err != nil {
		t.Fatal(err)
	}
	messages := (&clearwayv1.Resource{}).ProtoReflect().Descriptor().ParentFile().Messages()
	for name := range rules.Messages {
		if messages.ByName(protoreflect.Name(name)) == nil {
			t.Errorf("there is no message %s", name)
		}
	}
}

func TestRulesThatAreWrong(t *testing.T) {
	for text, want := range map[string]string{
		"messages: {IPPool: {fields: {spec: {max: 3}}}}":                "field max not found",
		"messages: {IPPool: {fields: {spec: {use: nothing}}}}":          `IPPool.spec: uses "nothing"`,
		"messages: {IPPool: {fields: {spec: {items: {use: nothing}}}}}": `IPPool.spec: uses "nothing"`,
		"x: [": "read the rules",
	} {
		if _, err := parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestDefinition looks at one definition in every part that a definition has.
func TestDefinition(t *testing.T) {
	name, text, err := CRD((&clearwayv1.IPAMConfiguration{}).ProtoReflect().Descriptor())
	if err != nil || name != "ipamconfigurations.clearway.io" {
		t.Fatal(name, err)
	}
	var made map[string]any
	if err := yaml.Unmarshal(text, &made); err != nil {
		t.Fatal(err)
	}
	version := at(t, made, "spec", "versions").([]any)[0].(map[string]any)
	spec := at(t, version, "schema", "openAPIV3Schema", "properties", "spec").(map[string]any)
	if fallback, ok := spec["default"].(map[string]any); !ok || len(fallback) != 0 {
		t.Errorf("the default of spec is %v, want {}", spec["default"])
	}
	cooldown := at(t, spec, "properties", "cooldown").(map[string]any)
	if cooldown["default"] != "130s" || cooldown["pattern"] != durationPattern || len(cooldown["x-kubernetes-validations"].([]any)) != 1 {
		t.Errorf("cooldown: %v", cooldown)
	}
	if at(t, spec, "properties", "lowWater", "default") != 8 {
		t.Errorf("lowWater: %v", at(t, spec, "properties", "lowWater"))
	}
	status := at(t, version, "schema", "openAPIV3Schema", "properties", "status", "properties", "conditions").(map[string]any)
	if status["x-kubernetes-list-type"] != "map" {
		t.Errorf("conditions: %v", status)
	}
	if names := at(t, made, "spec", "names").(map[string]any); names["categories"].([]any)[0] != "clearway" || names["shortNames"].([]any)[0] != "ipamconfig" {
		t.Errorf("names: %v", names)
	}
}

func at(t *testing.T, in map[string]any, path ...string) any {
	t.Helper()
	var here any = in
	for _, name := range path {
		inside, ok := here.(map[string]any)
		if !ok || inside[name] == nil {
			t.Fatalf("there is no %v", path)
		}
		here = inside[name]
	}
	return here
}

func TestFaultsOfSize(t *testing.T) {
	long := strings.Repeat("x", 64)
	spec := &clearwayv1.IPPoolSpec{
		Cidr: strings.Repeat("1", 50), NodeSelector: &clearwayv1.LabelSelector{
			MatchLabels:      map[string]string{"a": long},
			MatchExpressions: []*clearwayv1.LabelSelectorRequirement{{Values: slices.Repeat([]string{"v"}, 101)}},
		},
	}
	var got []string
	for _, fault := range Faults("spec", spec.ProtoReflect()) {
		got = append(got, fault.Field+" "+fault.Value+" "+fault.Message)
	}
	slices.Sort(got)
	want := []string{
		"spec.cidr 50 characters must have at most 49 characters",
		"spec.nodeSelector.matchExpressions[0].values 101 entries must have at most 100 entries",
		"spec.nodeSelector.matchLabels[a] 64 characters must have at most 63 characters",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if found := Faults("spec", (&clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/8"}).ProtoReflect()); len(found) > 0 {
		t.Errorf("got %v", found)
	}
}
