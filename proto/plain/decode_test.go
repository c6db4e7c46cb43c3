package plain

import (
	"testing"

	"google.golang.org/protobuf/proto"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// FuzzDecode compares with protobuf's decoder, whatever the bytes are.
func FuzzDecode(f *testing.F) {
	whole, err := proto.Marshal(&clearwayv1.AddResponse{
		Addresses: []*clearwayv1.AddressConfig{{Address: "10.244.3.7/16", Gateway: "10.244.0.1"}, {}},
		Routes:    []*clearwayv1.RouteConfig{{Destination: "0.0.0.0/0"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte("\x0a\x03\x0a\x01\xff"))                         // no UTF-8
	f.Add([]byte("\x00\x01"))                                     // field 0
	f.Add([]byte("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f")) // a number too large
	f.Add([]byte("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")) // longer than any
	f.Add([]byte("\x0f"))                                         // no such type
	f.Fuzz(func(t *testing.T, message []byte) {
		got, want := &AddResponse{}, &clearwayv1.AddResponse{}
		gotErr, wantErr := got.decode(message), proto.Unmarshal(message, want)
		if gotErr != nil {
			// Groups alone are refused here and skipped there.
			if wantErr == nil && !hasGroup(message) {
				t.Fatalf("%q: %v, and protobuf reads %v", message, gotErr, want)
			}
			return
		}
		if wantErr != nil || len(got.Addresses) != len(want.Addresses) || len(got.Routes) != len(want.Routes) {
			t.Fatalf("%q: %+v; protobuf: %v, %v", message, got, want, wantErr)
		}
		for i, one := range want.Addresses {
			if got.Addresses[i] != (AddressConfig{one.Address, one.Gateway}) {
				t.Fatalf("%q: %+v; protobuf: %v", message, got, want)
			}
		}
		for i, one := range want.Routes {
			if got.Routes[i] != (RouteConfig{one.Destination, one.Gateway}) {
				t.Fatalf("%q: %+v; protobuf: %v", message, got, want)
			}
		}
	})
}

// hasGroup tells whether a byte may be a group's key.
func hasGroup(message []byte) bool {
	for _, b := range message {
		if b&7 == 3 {
			return true
		}
	}
	return false
}
