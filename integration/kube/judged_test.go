package kube

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/clearway/clearway/integration/kubeapi"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// doors are the two ways in for a resource: the API server's and ipamd's.
type doors struct {
	api    *kubeapi.Server
	client clearwayv1.ResourceServiceClient
}

// ipamd is what ipamd says of a resource that is not to be kept; "" is yes.
func (d doors) ipamd(ctx context.Context, t fataler, object clearwayv1.Object) string {
	_, err := d.client.Apply(ctx, &clearwayv1.ApplyRequest{DryRun: true, Resources: []*clearwayv1.Resource{clearwayv1.Wrap(object)}})
	switch status.Code(err) {
	case codes.OK:
		return ""
	case codes.InvalidArgument:
		return status.Convert(err).Message()
	}
	t.Fatal(err)
	return ""
}

// kubernetes is what the API server says of it; "" is yes.
func (d doors) kubernetes(ctx context.Context, t fataler, object clearwayv1.Object) string {
	text, err := protojson.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	plural := strings.ToLower(object.GetKind()) + "s"
	code, answer, err := d.api.Call(ctx, http.MethodPost, "/apis/clearway.io/v1/"+plural+"?dryRun=All&fieldValidation=Strict", text, "")
	switch {
	case err != nil:
		t.Fatal(err)
	case code == http.StatusCreated:
		return ""
	case code == http.StatusUnprocessableEntity:
		var said struct{ Message string }
		if err := json.Unmarshal(answer, &said); err != nil {
			t.Fatal(err)
		}
		return said.Message
	}
	t.Fatal(fmt.Sprintf("%d: %s", code, answer))
	return ""
}

// fataler is what tests and rapid's checks have in common.
type fataler interface{ Fatal(...any) }

// testDefinitions: what the API server refuses is what ipamd refuses.
func testDefinitions(t *testing.T, api *kubeapi.Server, i *ipamd) {
	d := doors{api, clearwayv1.NewResourceServiceClient(i.conn)}
	t.Run("cases", func(t *testing.T) { d.table(t) })
	t.Run("anything", func(t *testing.T) {
		taken := map[string]int{}
		for round := range 8 { // a hundred resources each, unless rapid's own flag says otherwise
			if os.Getenv("CI") != "" {
				// CI judges a change by what it changed: there the same are drawn each time. Every other run draws others.
				if err := flag.Set("rapid.seed", strconv.Itoa(1+round)); err != nil {
					t.Fatal(err)
				}
			}
			rapid.Check(t, func(r *rapid.T) { d.anything(t, r, taken) })
		}
		for _, kind := range written() {
			if taken[kind] == 0 {
				t.Errorf("no %s was taken: the test draws nothing that is right", kind)
			}
		}
		t.Logf("taken: %v", taken)
	})
	t.Run("secrets", func(t *testing.T) {
		said := d.kubernetes(t.Context(), t, resource(t, "BGPPeer", "p", `{"peerAddress": "192.0.2.1", "peerASN": 65101, "passwordFile": "hunter2"}`))
		if said == "" || strings.Contains(said, "hunter2") {
			t.Errorf("a password that stands in passwordFile's place: %q", said)
		}
	})
}

// table holds both doors to testdata/judged.txt.
func (d doors) table(t *testing.T) {
	text, err := os.ReadFile("testdata/judged.txt")
	if err != nil {
		t.Fatal(err)
	}
	refused, lines := 0, 0
	for number, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		lines++
		line, alone := strings.CutPrefix(line, "ipamd: ")
		parts := strings.SplitN(line, " ", 3)
		one := resource(t, parts[0], parts[1], parts[2])
		here, there := d.ipamd(t.Context(), t, one), d.kubernetes(t.Context(), t, one)
		if here != "" {
			refused++
		}
		switch {
		case alone && (here == "" || there != ""):
			t.Errorf("line %d: %s\nis no longer ipamd's alone to refuse\n ipamd: %s\n Kubernetes: %s", number+1, line, here, there)
		case !alone && (here == "") != (there == ""):
			t.Errorf("line %d: %s\n ipamd: %s\n Kubernetes: %s", number+1, line, here, there)
		}
	}
	if refused < 50 || lines-refused < 30 {
		t.Errorf("%d of %d are refused: the table has lost its cases", refused, lines)
	}
}

func resource(t *testing.T, kind, name, spec string) clearwayv1.Object {
	t.Helper()
	made, err := clearwayv1.New(kind)
	if err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(fmt.Appendf(nil, `{"metadata": {"name": %q}, "spec": %s}`, name, spec), made); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	setKind(made, kind)
	return made
}

func setKind(of clearwayv1.Object, kind string) {
	message := of.ProtoReflect()
	fields := message.Descriptor().Fields()
	message.Set(fields.ByName("api_version"), protoreflect.ValueOfString(clearwayv1.APIVersion))
	message.Set(fields.ByName("kind"), protoreflect.ValueOfString(kind))
}

func written() []string {
	var kinds []string
	for _, kind := range clearwayv1.Kinds() {
		if clearwayv1.Writable(kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// anything draws a resource and holds both doors to one answer.
func (d doors) anything(t *testing.T, r *rapid.T, taken map[string]int) {
	kind := rapid.SampledFrom(written()).Draw(r, "kind")
	made, err := clearwayv1.New(kind)
	if err != nil {
		t.Fatal(err)
	}
	made.GetMetadata().Name = "default"
	message := made.ProtoReflect()
	spec := message.Descriptor().Fields().ByName("spec")
	draw(r, "spec", message.Mutable(spec).Message())
	here, there := d.ipamd(t.Context(), r, made), d.kubernetes(t.Context(), r, made)
	if here == "" {
		taken[kind]++
	}
	if (here == "") != (there == "") {
		text, _ := protojson.Marshal(made)
		r.Fatalf("%s\n ipamd: %s\n Kubernetes: %s", text, here, there)
	}
}

// texts are what text fields are drawn from: the first half is right somewhere.
var texts = map[string][]string{
	"":                 {"a", "default", "b.c", "", "A b", "-"},
	"cidr":             {"10.0.0.0/16", "10.0.0.0/24", "fd00::/64", "fd00::/120", "10.0.0.0/30", "10.0.0.1/24", "x", "127.0.0.0/8", "0.0.0.0/0"},
	"kind":             {"", "Block", "Floating", "LoadBalancer"},
	"layout":           {"", "", "Elastic", "Rigid"},
	"gateway":          {"", "", "10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.0", "10.0.255.255", "10.0.0.255", "10.0.0.3", "fd00::", "y"},
	"drainTo":          {"", "", "", "default"},
	"drainCIDRs":       {"10.0.0.0/28", "fd00::/122", "10.0.0.128/25", "10.0.1.0/24"},
	"cidrs":            {"10.0.0.0/24", "10.0.0.1", "10.0.0.1-10.0.0.9", "fd00::1-fd00::9", "10.0.0.9-10.0.0.1", "10.0.0.1/8", "1-2"},
	"until":            {"", "2027-01-31T18:00:00Z", "2027-01-31T18:00:00+01:00", "2027-13-31T18:00:00Z", "now"},
	"duration":         {"", "1s", "30s", "1m", "3600s", "0s", "500ms", "100h", "1.5s", "x", "9s", "3s", "20ms", "1h"},
	"historyQuota":     {"", "1Mi", "1G", "4Gi", "5Gi", "1k", "z"},
	"nodeMesh":         {"", "Auto", "Full", "None", "Reflectors"},
	"aggregates":       {"10.0.0.0/8", "fd00::/8", "192.0.2.0/24", "10.0.0.1/8", "::/0"},
	"address":          {"192.0.2.1", "2001:db8::1", "192.0.2.1", "192.0.2.2", "10.0.0.1", "224.0.0.1", "fe80::1", ""},
	"importScope":      {"", "Owned", "Pools", "All", "all"},
	"families":         {"IPv4", "IPv6", "ipv4"},
	"passwordFile":     {"", "/a", "a"},
	"communities":      {"64512:100", "64512:1:2", "NoExport", "graceful-shutdown", "65535:65535", "65536:1", "64512:*", "x", "1:4294967296:1"},
	"anyCommunities":   {"64512:*", "*:*:*", "NoExport", "64512:1", "65536:*", "64512"},
	"regex":            {"", "^64512_", "_65001$", "[_1]", "a", "12"},
	"peerType":         {"", "External", "Internal", "external"},
	"sources":          {"Own", "VIP", "Learned", "own"},
	"nextHop":          {"", "Self", "Keep", "keep"},
	"nextHops":         {"192.0.2.0/24", "2001:db8::/64", "192.0.2.1/24"},
	"peers":            {"tor", "192.0.2.1", "2001:db8::1", "Tor", "fe80::1%eth0"},
	"stickyTime":       {"", "", "1h", "0s", "9000h"},
	"action":           {"Accept", "Reject", "Continue", "Accept", ""},
	"addresses":        {"192.0.2.11/24", "2001:db8::11/64", "10.0.0.1/8", "127.0.0.1/8", "192.0.2.11"},
	"operator":         {"In", "NotIn", "Exists", "DoesNotExist", "in"},
	"key":              {"rack", "a.b/c", "rack", "a.b/c", "", "a b"},
	"values":           {"r1", "", "r 1"},
	"importFilters":    {"a", "b.c", "d", "A"},
	"connectTime":      {"", "5s", "0s"},
	"cooldown":         {"", "0s", "24h", "25h"},
	"leakGrace":        {"", "0s", "24h", "25h"},
	"orphanGrace":      {"", "0s", "10s", "1s"},
	"keepaliveTime":    {"", "", "1s", "3s", "31s"},
	"holdTime":         {"", "", "9s", "3s", "90s", "2s", "4s"},
	"blockIdleTime":    {"", "0s", "10m"},
	"recoveryWait":     {"", "0s", "1h", "2h"},
	"historyRetention": {"", "0s", "1h", "1m"},
}

// alike are fields whose texts are drawn from another's.
var alike = map[string]string{
	"restartTime": "duration", "deferralTime": "duration", "minTx": "duration", "minRx": "duration", "connectRetryTime": "connectTime",
	"peerAddress": "address", "sourceAddress": "address", "exportFilters": "importFilters", "reason": "",
	"loadBalancerIPs": "aggregates", "externalIPs": "aggregates", "clusterIPs": "aggregates",
	"allCommunities": "anyCommunities", "noCommunities": "anyCommunities", "removeCommunities": "anyCommunities", "addCommunities": "communities",
}

// whole are what numbers are drawn from.
var whole = map[string][]int64{
	"":              {0, 1, 2, 3, -1, 256},
	"blockSize":     {0, 0, 24, 26, 28, 30, 32, 122, 124, 128, 12},
	"minBlockSize":  {0, 0, 26, 28, 32, 122, 128},
	"asNumber":      {0, 64512, 4294967295, 23456},
	"peerASN":       {64512, 65101, 4294967295, 64512, 23456, 0},
	"localASNumber": {0, 64512, 23456},
	"ge":            {0, 8, 16, 24, 32, 64, 120, 129},
	"le":            {0, 8, 16, 24, 32, 64, 120, 129},
	"priority":      {-5, 0, 7},
	"lowWater":      {0, 8, 1024, 1025, -1},
	"reservedFirst": {0, 1, 2, 3, 16, 127, 128, 255, 256, 65536, -1},
	"reservedLast":  {0, 1, 2, 3, 16, 127, 128, 255, 256, 65536, -1},
	"multihopTTL":   {0, 0, 2, 255, 1},
	"minTTL":        {0, 0, 1, 255, 256},
	"listenPort":    {0, 179, -1, 65535, 65536},
	"peerPort":      {0, 179, 65535, -1},
}

// draw fills in a message: each field is there half of the time.
func draw(r *rapid.T, path string, message protoreflect.Message) {
	for i := range message.Descriptor().Fields().Len() {
		field := message.Descriptor().Fields().Get(i)
		at := path + "." + field.JSONName()
		required := field.JSONName() == "cidr" || field.JSONName() == "peerAddress" || field.JSONName() == "peerASN" || field.JSONName() == "cidrs"
		if rapid.IntRange(0, 3).Draw(r, at+"?") > 0 && !required && field.JSONName() != "action" {
			continue
		}
		switch {
		case field.IsMap():
			key := rapid.SampledFrom(texts["key"]).Draw(r, at)
			message.Mutable(field).Map().Set(protoreflect.ValueOfString(key).MapKey(),
				protoreflect.ValueOfString(rapid.SampledFrom(texts["values"]).Draw(r, at)))
		case field.IsList():
			list := message.Mutable(field).List()
			for range rapid.IntRange(0, 2).Draw(r, at+" length") {
				list.Append(drawOne(r, at, field, list.NewElement()))
			}
		default:
			message.Set(field, drawOne(r, at, field, message.NewField(field)))
		}
	}
}

func drawOne(r *rapid.T, at string, field protoreflect.FieldDescriptor, empty protoreflect.Value) protoreflect.Value {
	name := field.JSONName()
	if other, ok := alike[name]; ok {
		name = other
	}
	switch field.Kind() {
	case protoreflect.MessageKind:
		draw(r, at, empty.Message())
		return empty
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(r, at))
	case protoreflect.StringKind:
		from, ok := texts[name]
		if !ok {
			from = texts[""]
		}
		return protoreflect.ValueOfString(rapid.SampledFrom(from).Draw(r, at))
	}
	from, ok := whole[name]
	if !ok {
		from = whole[""]
	}
	number := rapid.SampledFrom(from).Draw(r, at)
	if field.Kind() == protoreflect.Uint32Kind {
		return protoreflect.ValueOfUint32(uint32(max(number, 0)))
	}
	return protoreflect.ValueOfInt32(int32(number))
}
