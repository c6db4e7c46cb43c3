package manifest

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/proto/clearway/v1"
)

var block = &clearwayv1.Block{
	ApiVersion: clearwayv1.APIVersion, Kind: "Block",
	Metadata: &clearwayv1.ObjectMeta{Name: "10-244-1-0-26", Generation: 4, Labels: map[string]string{"b": "yes", "a": "64512:20"}},
	Spec: &clearwayv1.BlockSpec{
		Cidr: "10.244.1.0/26", Pool: "pods", Node: "n1", State: clearwayv1.BlockState_BLOCK_STATE_OWNED,
		Generation: 9007199254740993, ClaimedTime: timestamppb.New(time.Date(2026, 1, 31, 12, 0, 0, 500e6, time.UTC)),
	},
	Status: &clearwayv1.BlockStatus{Addresses: 64},
}

func TestWrite(t *testing.T) {
	for format, want := range map[Format]string{
		YAML: `apiVersion: clearway.io/v1
kind: Block
metadata:
  name: 10-244-1-0-26
  generation: 4
  labels:
    a: "64512:20"
    b: "yes"
spec:
  cidr: 10.244.1.0/26
  pool: pods
  node: n1
  state: Owned
  generation: 9007199254740993
  claimedTime: "2026-01-31T12:00:00.5Z"
status:
  addresses: 64
  assigned: 0
  cooling: 0
  sealed: false
`,
		JSON: `{
  "apiVersion": "clearway.io/v1",
  "kind": "Block",
  "metadata": {
    "name": "10-244-1-0-26",
    "generation": 4,
    "labels": {
      "a": "64512:20",
      "b": "yes"
    }
  },
  "spec": {
    "cidr": "10.244.1.0/26",
    "pool": "pods",
    "node": "n1",
    "state": "Owned",
    "generation": 9007199254740993,
    "claimedTime": "2026-01-31T12:00:00.5Z"
  },
  "status": {
    "addresses": 64,
    "assigned": 0,
    "cooling": 0,
    "sealed": false
  }
}
`,
	} {
		var text bytes.Buffer
		if err := Write(&text, format, block); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, text.String()); diff != "" {
			t.Error(diff)
		}
	}
	if err := Write(&bytes.Buffer{}, "xml", block); err == nil {
		t.Error("an unknown format is taken")
	}
}

func TestWriteList(t *testing.T) {
	node, _ := clearwayv1.New("Node")
	for format, want := range map[Format][2]string{
		YAML: {"items: []\n", "items:\n- apiVersion: clearway.io/v1\n  kind: Node\n  metadata: {}\n  spec: {}\n" +
			"  status:\n    asNumber: 0\n"},
		JSON: {"{\n  \"items\": []\n}\n", "{\n  \"items\": [\n    {\n      \"apiVersion\": \"clearway.io/v1\",\n"},
	} {
		var none, two bytes.Buffer
		if err := WriteList(&none, format, nil); err != nil || none.String() != want[0] {
			t.Errorf("%q, %v", none.String(), err)
		}
		if err := WriteList(&two, format, []clearwayv1.Object{node, node}); err != nil || !strings.HasPrefix(two.String(), want[1]) {
			t.Errorf("%s, %v", two.String(), err)
		}
	}
}

// drawMessage makes a message with random fields, as the schema has them.
func drawMessage(t *rapid.T, message protoreflect.Message) {
	known := message.Descriptor().Fields()
	for i := range known.Len() {
		descriptor := known.Get(i)
		name := string(descriptor.FullName())
		if !rapid.Bool().Draw(t, name) || descriptor.Name() == "api_version" || descriptor.Name() == "kind" && message.Has(descriptor) {
			continue
		}
		switch {
		case descriptor.IsMap():
			for range rapid.IntRange(0, 3).Draw(t, name) {
				key := protoreflect.ValueOfString(rapid.String().Draw(t, "key")).MapKey()
				message.Mutable(descriptor).Map().Set(key, protoreflect.ValueOfString(rapid.String().Draw(t, "value")))
			}
		case descriptor.IsList():
			list := message.Mutable(descriptor).List()
			for range rapid.IntRange(0, 3).Draw(t, name) {
				list.Append(drawValue(t, list.NewElement(), descriptor))
			}
		default:
			message.Set(descriptor, drawValue(t, message.NewField(descriptor), descriptor))
		}
	}
}

func drawValue(t *rapid.T, empty protoreflect.Value, descriptor protoreflect.FieldDescriptor) protoreflect.Value {
	texts := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
		"", "yes", "null", "~", "1", "0x1", "1.5", "1:20", "2026-01-31", "- a", "a: b", "#", "*a", "&a", "<<", "a\nb\n", "\n", " a ", "{", "true",
	}))
	switch descriptor.Kind() {
	case protoreflect.MessageKind:
		if descriptor.Message().FullName() == timestamp {
			at := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "seconds"), rapid.Int64Range(0, 999999999).Draw(t, "nanos"))
			return protoreflect.ValueOfMessage(timestamppb.New(at).ProtoReflect())
		}
		drawMessage(t, empty.Message())
		return empty
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(texts.Draw(t, "text"))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.EnumKind:
		values := descriptor.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(rapid.IntRange(0, values.Len()-1).Draw(t, "enum")).Number())
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "int32"))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "uint32"))
	}
	t.Fatalf("%s is of a kind this package does not know", descriptor.FullName())
	return empty
}

func drawObject(t *rapid.T) clearwayv1.Object {
	object, err := clearwayv1.New(rapid.SampledFrom(clearwayv1.Kinds()).Draw(t, "kind"))
	if err != nil {
		t.Fatal(err)
	}
	drawMessage(t, object.ProtoReflect())
	if object.GetMetadata().GetName() == "" {
		object.GetMetadata().Name = "named"
	}
	return object
}

// like compares as the text form can tell: an empty message and an absent one are the same.
var like = []cmp.Option{protocmp.Transform(), protocmp.IgnoreEmptyMessages()}

// What is written is read back as it was, whatever the kind and the values; Read gives the same but for what it drops.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		object := drawObject(t)
		format := rapid.SampledFrom([]Format{JSON, YAML}).Draw(t, "format")
		var one, list bytes.Buffer
		if err := Write(&one, format, object); err != nil {
			t.Fatal(err)
		}
		if err := WriteList(&list, format, []clearwayv1.Object{block, object, block}); err != nil {
			t.Fatal(err)
		}
		items, err := ReadBack("one", bytes.NewReader(one.Bytes()))
		if err != nil || len(items) != 1 {
			t.Fatalf("%v\n%s", err, one.String())
		}
		if diff := cmp.Diff(object, items[0].Object, like...); diff != "" {
			t.Fatalf("%s\n%s", diff, one.String())
		}
		if items, err = ReadBack("list", bytes.NewReader(list.Bytes())); err != nil || len(items) != 3 {
			t.Fatalf("%v\n%s", err, list.String())
		}
		if diff := cmp.Diff(object, items[1].Object, like...); diff != "" {
			t.Fatalf("%s\n%s", diff, list.String())
		}
		if clearwayv1.Writable(object.GetKind()) {
			checkDropped(t, object, one.String())
		}
	})
}

func checkDropped(t *rapid.T, object clearwayv1.Object, text string) {
	items, err := Read("one", strings.NewReader(text))
	if err != nil || len(items) != 1 {
		t.Fatalf("%v\n%s", err, text)
	}
	want := proto.Clone(object).(clearwayv1.Object)
	meta := want.GetMetadata()
	meta.Uid, meta.Generation, meta.CreationTimestamp, meta.Source = "", 0, nil, nil
	if status := want.ProtoReflect().Descriptor().Fields().ByName("status"); status != nil {
		want.ProtoReflect().Clear(status)
	}
	if diff := cmp.Diff(want, items[0].Object, like...); diff != "" {
		t.Fatalf("%s\n%s", diff, text)
	}
}

// Our JSON is protobuf's own, but for enumerations: protojson reads it to the same message.
func TestWriteAgreesWithProtojson(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		object := drawObject(t)
		if object.GetKind() == "Block" {
			object.(*clearwayv1.Block).Spec = nil
		}
		var text bytes.Buffer
		if err := Write(&text, JSON, object); err != nil {
			t.Fatal(err)
		}
		twin, _ := clearwayv1.New(object.GetKind())
		proto.Reset(twin)
		if err := protojson.Unmarshal(text.Bytes(), twin); err != nil {
			t.Fatalf("%v\n%s", err, text.String())
		}
		if diff := cmp.Diff(object, twin, like...); diff != "" {
			t.Fatal(diff)
		}
	})
}

// What protojson writes can be read, with its numbers in quotes and its long names of enumerations.
func TestReadTakesProtojson(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		object := drawObject(t)
		text, err := protojson.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.ContainsFunc(text, unprintable) || bytes.ContainsAny(text, "\u2028\u2029") {
			t.Skip("JSON, but not YAML")
		}
		items, err := ReadBack("protojson", bytes.NewReader(text))
		if err != nil || len(items) != 1 {
			t.Fatalf("%v\n%s", err, text)
		}
		if diff := cmp.Diff(object, items[0].Object, like...); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Whatever the input, there is an error that names the file, or items that can be written and read again.
func FuzzRead(f *testing.F) {
	f.Add("apiVersion: clearway.io/v1\nkind: IPPool\nmetadata: {name: a}\nspec: {cidr: 10.0.0.0/8, blockSize: 26}\n")
	f.Add("items: [{kind: Node}]\n---\n&a {<<: *a}\n")
	f.Add("kind: [\n")
	f.Add(minimal("a"))
	f.Fuzz(func(t *testing.T, text string) {
		items, err := Read("fuzz", strings.NewReader(text))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "fuzz:") {
				t.Fatalf("the file is not named: %v", err)
			}
			return
		}
		for _, item := range items {
			var written bytes.Buffer
			if err := Write(&written, YAML, item.Object); err != nil {
				t.Fatal(err)
			}
			again, err := Read("again", &written)
			if err != nil || len(again) != 1 {
				t.Fatalf("%v", err)
			}
			if diff := cmp.Diff(item.Object, again[0].Object, like...); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}
