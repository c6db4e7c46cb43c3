package server_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func reservation(name, until string, cidrs ...string) *clearwayv1.Resource {
	return clearwayv1.Wrap(&clearwayv1.IPReservation{
		Metadata: &clearwayv1.ObjectMeta{Name: name},
		Spec:     &clearwayv1.IPReservationSpec{Cidrs: cidrs, Reason: "printers", Until: until},
	})
}

func (d *ipamd) summary(address string) (state, summary string) {
	d.t.Helper()
	answer, err := d.ShowAddress(testContext(d.t), &clearwayv1.ShowAddressRequest{Address: address})
	if err != nil {
		d.t.Fatal(err)
	}
	return answer.GetState(), answer.GetSummary()
}

// TestReservationOverHeldAddresses: they are told, in the answer, in the status and by address, and they stay.
func TestReservationOverHeldAddresses(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/16"))
	a := d.agent("n1")
	a.mustClaim("pods", "k1")
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 7, Assigned: []*clearwayv1.AssignmentSpec{assignment("n1", "10.244.0.5", 7)}})
	until := d.clock.Now().Add(time.Hour).Format(time.RFC3339)
	result := d.apply(reservation("desk", until, "10.244.0.4-10.244.0.9")).GetResults()[0]
	if got := strings.Join(result.GetWarnings(), "|"); got != "1 addresses in it are held, and stay so until who holds them ends: 10.244.0.5 by Pod default/pod7 (eth0) on node n1" {
		t.Errorf("warnings: %s", got)
	}
	status := func() *clearwayv1.IPReservationStatus {
		found, _ := d.list(&clearwayv1.ListRequest{Kind: "IPReservation", Name: "desk"})
		return found[0].GetIpReservation().GetStatus()
	}
	if got := status(); got.GetPhase() != "Active" || got.GetAssigned() != 1 {
		t.Errorf("status: %v", got)
	}
	for address, want := range map[string]string{
		"10.244.0.5": "Assigned 10.244.0.5 is held by Pod default/pod7 (eth0) on node n1, in block 10.244.0.0/26 of pool pods. " +
			"It is reserved by IPReservation desk (printers) until " + until + ", and is given to nobody else.",
		"10.244.0.6":     "Reserved 10.244.0.6 is reserved: IPReservation desk (printers) until " + until + ".",
		"10.244.255.255": "Reserved 10.244.255.255 is reserved: the first and last addresses of pool pods are not given out.",
	} {
		if state, summary := d.summary(address); state+" "+summary != want {
			t.Errorf("got  %s %s\nwant %s", state, summary, want)
		}
	}
	d.clock.Advance(2 * time.Hour)
	if state, _ := d.summary("10.244.0.6"); state != "Free" || status().GetPhase() != "Expired" {
		t.Errorf("when its time is over: %s, %s", state, status().GetPhase())
	}
	if got := d.apply(reservation("desk", until, "10.244.0.4")).GetResults()[0].GetWarnings(); len(got) != 1 || !strings.Contains(got[0], "is over") {
		t.Errorf("applied when its time is over: %v", got)
	}
}

// TestNoBlockOfReservedAddressesAlone: blocks that a node could give nothing of are left alone, for as long as that is so.
func TestNoBlockOfReservedAddressesAlone(t *testing.T) {
	d := start(t, newFake())
	until := d.clock.Now().Add(time.Hour).Format(time.RFC3339)
	d.apply(ipPool("pods", "10.244.0.0/24"), reservation("low", "", "10.244.0.0/27", "10.244.0.32-10.244.0.63"), reservation("some", "", "10.244.0.70"),
		reservation("high", until, "10.244.0.128/25"))
	a := d.agent("n1")
	if got := a.mustClaim("pods", "k1").GetCidr(); got != "10.244.0.64/26" {
		t.Errorf("claimed %s", got)
	}
	_, err := a.claim("pods", "k2")
	if wantCode(t, err, codes.ResourceExhausted); !strings.Contains(err.Error(), "3 free /26 are reserved or drained") {
		t.Error(err)
	}
	d.clock.Advance(2 * time.Hour)
	if got := a.mustClaim("pods", "k3").GetCidr(); got != "10.244.0.128/26" {
		t.Errorf("claimed %s when the reservation was over", got)
	}
	if _, err := d.Delete(testContext(t), &clearwayv1.DeleteRequest{Kind: "IPReservation", Name: "low"}); err != nil {
		t.Fatal(err)
	}
	if got := a.mustClaim("pods", "k4").GetCidr(); got != "10.244.0.0/26" {
		t.Errorf("claimed %s when the reservation was gone", got)
	}
}
