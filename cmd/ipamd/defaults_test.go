package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// defaulted fills a resource with the defaults that the API server would.
func defaulted(t *testing.T, object clearwayv1.Object) {
	t.Helper()
	kind := string(object.ProtoReflect().Descriptor().Name())
	text, err := os.ReadFile(filepath.Join("../../deploy/kubernetes/crds", strings.ToLower(kind)+"s.clearway.io.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	type schema struct {
		Default    any
		Properties map[string]struct{ Default any }
	}
	var definition struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPI struct{ Properties map[string]schema } `yaml:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &definition); err != nil {
		t.Fatal(err)
	}
	spec := map[string]any{}
	for name, property := range definition.Spec.Versions[0].Schema.OpenAPI.Properties["spec"].Properties {
		if property.Default != nil {
			spec[name] = property.Default
		}
	}
	if len(spec) == 0 {
		t.Fatalf("%s has no defaults", kind)
	}
	content, err := json.Marshal(map[string]any{"spec": spec})
	if err != nil {
		t.Fatal(err)
	}
	made := object.ProtoReflect().New().Interface()
	if err := protojson.Unmarshal(content, made); err != nil {
		t.Fatal(err)
	}
	proto.Merge(object, made)
}

// TestDefaultsSayTheSame: what the API server fills in is what holds where nothing is said.
func TestDefaultsSayTheSame(t *testing.T) {
	settings := &clearwayv1.IPAMConfiguration{}
	defaulted(t, settings)
	if got, faults := pool.ParseIPAMConfiguration(settings); got != pool.DefaultConfiguration() || len(faults) > 0 {
		t.Errorf("IPAMConfiguration: %+v, %v", got, faults)
	}
	said := &clearwayv1.IPPool{Metadata: &clearwayv1.ObjectMeta{Name: "p"}, Spec: &clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/16"}}
	bare, _ := pool.Parse(said)
	defaulted(t, said)
	if got, faults := pool.Parse(said); !reflect.DeepEqual(got, bare) || len(faults) > 0 {
		t.Errorf("IPPool: %+v, want %+v, %v", got, bare, faults)
	}
	snapshot := func() *clearwayv1.NodeSnapshot {
		return &clearwayv1.NodeSnapshot{
			Node:             &clearwayv1.Node{Status: &clearwayv1.NodeStatus{Addresses: []string{"192.0.2.11/24", "2001:db8::11/64"}}},
			BgpConfiguration: &clearwayv1.BGPConfiguration{Metadata: &clearwayv1.ObjectMeta{Name: "default"}},
			Peers: []*clearwayv1.BGPPeer{{
				Metadata: &clearwayv1.ObjectMeta{Name: "tor"}, Spec: &clearwayv1.BGPPeerSpec{PeerAddress: "192.0.2.1", PeerAsn: 65101},
			}},
		}
	}
	want, _ := config.Build("n", snapshot(), nil)
	filled := snapshot()
	defaulted(t, filled.GetBgpConfiguration())
	defaulted(t, filled.GetPeers()[0])
	if got, problems := config.Build("n", filled, nil); !reflect.DeepEqual(got, want) || len(problems) > 0 {
		t.Errorf("BGP: %+v, want %+v, %v", got, want, problems)
	}
}
