package pool_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func TestReservation(t *testing.T) {
	object := &clearwayv1.IPReservation{
		Metadata: &clearwayv1.ObjectMeta{Name: "routers"},
		Spec:     &clearwayv1.IPReservationSpec{Reason: "VRRP", Until: "2027-01-31T18:00:00Z", Cidrs: []string{"10.0.0.0/30", "10.0.0.9", "fd00::5-fd00::9"}},
	}
	got, faults := pool.ParseReservation(object)
	if !got.InForce(got.Until.Add(-1)) || got.InForce(got.Until) || !(pool.Reservation{}).InForce(got.Until) {
		t.Errorf("in force until %s", got.Until)
	}
	if want := "{routers [10.0.0.0-10.0.0.3 10.0.0.9-10.0.0.9 fd00::5-fd00::9] VRRP 2027-01-31 18:00:00 +0000 UTC}"; fmt.Sprint(got) != want || len(faults) > 0 {
		t.Errorf("%v, %v", got, faults)
	}
}

func TestNamedErrorsOfSettings(t *testing.T) {
	reservation := func(cidrs ...string) clearwayv1.Object {
		return &clearwayv1.IPReservation{Spec: &clearwayv1.IPReservationSpec{Cidrs: cidrs}}
	}
	settings := func(spec *clearwayv1.IPAMConfigurationSpec) clearwayv1.Object {
		return &clearwayv1.IPAMConfiguration{Metadata: &clearwayv1.ObjectMeta{Name: "default"}, Spec: spec}
	}
	for _, test := range []struct {
		object clearwayv1.Object
		want   string
	}{
		{reservation(), `spec.cidrs "": is required: prefixes, addresses, or ranges such as 192.0.2.10-192.0.2.20`},
		{reservation("10.0.0.0/8", "10.0.0.1/30"), `spec.cidrs[1] "10.0.0.1/30": host bits are set; the prefix is 10.0.0.0/30`},
		{&clearwayv1.IPReservation{Spec: &clearwayv1.IPReservationSpec{Cidrs: []string{"10.0.0.1"}, Until: "tomorrow"}},
			`spec.until "tomorrow": is not a time; write it as RFC 3339 has it, such as 2027-01-31T18:00:00Z or 2027-01-31T19:00:00+01:00`},
		{reservation("10.0.0.9-10.0.0.1"), `spec.cidrs[0] "10.0.0.9-10.0.0.1": the first address is after the last; write 10.0.0.1-10.0.0.9`},
		{reservation(strings.Split(strings.Repeat("10.0.0.1,", 1001), ",")...), `spec.cidrs "1002 entries": must have at most 1000 entries; use larger ranges, or a second IPReservation`},
		{settings(nil), ``},
		{settings(&clearwayv1.IPAMConfigurationSpec{Cooldown: "0s", BlockIdleTime: "0s", LowWater: proto.Int32(0)}), ``},
		{settings(&clearwayv1.IPAMConfigurationSpec{Cooldown: "130"}), `spec.cooldown "130": is not a duration; write it like 130s or 1m30s, from 0s to 24h0m0s`},
		{settings(&clearwayv1.IPAMConfigurationSpec{Cooldown: "-1s"}), `spec.cooldown "-1s": must be from 0s to 24h0m0s`},
		{settings(&clearwayv1.IPAMConfigurationSpec{Cooldown: "25h"}), `spec.cooldown "25h": must be from 0s to 24h0m0s`},
		{settings(&clearwayv1.IPAMConfigurationSpec{LowWater: proto.Int32(1025)}), `spec.lowWater "1025": must be from 0 to 1024 addresses`},
		{settings(&clearwayv1.IPAMConfigurationSpec{BlockIdleTime: "x"}), `spec.blockIdleTime "x": is not a duration; write it like 130s or 1m30s, from 0s to 720h0m0s`},
		{settings(&clearwayv1.IPAMConfigurationSpec{HistoryRetention: "5m"}), `spec.historyRetention "5m": must be 0s (no history) or from 1h0m0s to 8760h0m0s`},
		{settings(&clearwayv1.IPAMConfigurationSpec{HistoryQuota: "100k"}), `spec.historyQuota "100k": must be from 1Mi to 4096Mi`},
		{settings(&clearwayv1.IPAMConfigurationSpec{HistoryQuota: "99999999999Ti"}), `spec.historyQuota "99999999999Ti": must be from 1Mi to 4096Mi`},
		{settings(&clearwayv1.IPAMConfigurationSpec{HistoryQuota: "256MB"}), `spec.historyQuota "256MB": is not a quantity of bytes; write it like 256Mi, from 1Mi to 4096Mi`},
		{settings(&clearwayv1.IPAMConfigurationSpec{HistoryRetention: "8760h", HistoryQuota: "1048576"}), ``},
		{&clearwayv1.IPAMConfiguration{Metadata: &clearwayv1.ObjectMeta{Name: "other"}}, `metadata.name "other": must be "default": that one is in force, and no other`},
		{&clearwayv1.IPPool{}, `spec.cidr "": is required: the pool's prefix, such as 10.244.0.0/16 or fd00:10:244::/48`},
		{&clearwayv1.Node{}, ``},
	} {
		if got := written(pool.Validate(test.object)); got != test.want {
			t.Errorf("%v:\n got %s\nwant %s", test.object, got, test.want)
		}
	}
}

func TestConfigurationDefaults(t *testing.T) {
	want := pool.Configuration{Cooldown: 130 * time.Second, LowWater: 8, BlockIdleTime: 10 * time.Minute, LeakGrace: 5 * time.Minute, OrphanGrace: time.Hour, RecoveryWait: 30 * time.Second,
		HistoryRetention: 168 * time.Hour, HistoryQuota: 256 << 20}
	if got, faults := pool.ParseIPAMConfiguration(nil); got != want || len(faults) > 0 {
		t.Errorf("%+v, %v", got, faults)
	}
	got, _ := pool.ParseIPAMConfiguration(&clearwayv1.IPAMConfiguration{Spec: &clearwayv1.IPAMConfigurationSpec{
		Cooldown: "1m30s", LowWater: proto.Int32(0), BlockIdleTime: "0s", LeakGrace: "1h", OrphanGrace: "0s", StatusFailsWhenFull: true,
		RecoveryWait: "2m", HistoryRetention: "0s", HistoryQuota: "1Gi",
	}})
	if got != (pool.Configuration{Cooldown: 90 * time.Second, LeakGrace: time.Hour, StatusFailsWhenFull: true, RecoveryWait: 2 * time.Minute, HistoryQuota: 1 << 30}) {
		t.Errorf("%+v", got)
	}
}

func TestLowWaterIsAtMostAQuarterOfTheBlock(t *testing.T) {
	settings := pool.DefaultConfiguration()
	for addresses, want := range map[uint64]int{64: 8, 32: 8, 16: 4, 4: 1, 1: 0} {
		if got := settings.LowWaterOf(addresses); got != want {
			t.Errorf("%d addresses: %d, want %d", addresses, got, want)
		}
	}
}
