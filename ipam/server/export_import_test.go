package server_test

import (
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func (d *ipamd) export() (header *clearwayv1.ExportHeader, all []*clearwayv1.Resource) {
	d.t.Helper()
	stream, err := d.Export(testContext(d.t), &clearwayv1.ExportRequest{})
	for err == nil {
		var answer *clearwayv1.ExportResponse
		if answer, err = stream.Recv(); err == nil {
			if answer.GetHeader() != nil {
				header = answer.GetHeader()
			}
			all = append(all, answer.GetResources()...)
		}
	}
	if !errors.Is(err, io.EOF) {
		d.t.Fatal(err)
	}
	return header, all
}

func (d *ipamd) importAll(header *clearwayv1.ExportHeader, all []*clearwayv1.Resource, dry bool) (*clearwayv1.ImportResponse, error) {
	stream, err := d.Import(testContext(d.t))
	if err != nil {
		return nil, err
	}
	_ = stream.Send(&clearwayv1.ImportRequest{Header: header, DryRun: dry, Resources: all}) // its error is the answer's
	return stream.CloseAndRecv()
}

// TestExportGoesIntoAnEmptyStoreAlone: all comes back, the nodes are awaited, what is claimed later has greater
// generations; a store that has moved on refuses it.
func TestExportGoesIntoAnEmptyStoreAlone(t *testing.T) {
	d := start(t, newFake())
	d.apply(ipPool("pods", "10.244.0.0/24"))
	one := newJournal()
	a := one.mustRegister(t, d, "n1")
	block := one.mustClaim(t, a, "k1")
	a.mirror(&clearwayv1.MirrorAssignmentsRequest{ThroughNumber: 7, Assigned: []*clearwayv1.AssignmentSpec{assignment("n1", "10.244.0.5", 7)}})
	header, all := d.export()
	if len(all) != 4 {
		t.Fatalf("exported are %v", all)
	}
	_, err := d.importAll(header, all, false)
	wantCode(t, err, codes.FailedPrecondition)
	newer := one.mustClaim(t, a, "k2") // since the export
	d.stop()

	d = start(t, newFake())
	bad := proto.CloneOf(header)
	bad.Version = 2
	_, err = d.importAll(bad, all, false)
	wantCode(t, err, codes.InvalidArgument)
	if got, err := d.importAll(header, all, true); err != nil || got.GetBlocks() != 1 || got.GetNodes() != 1 || d.store(t).GetRecovery() != nil {
		t.Fatalf("dry: got %v, %v", got, err)
	}
	for range 2 { // repeated, as after a lost reply
		if got, err := d.importAll(header, all, false); err != nil || got.GetResources() != 1 || got.GetAssignments() != 1 {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	if awaited := d.store(t).GetRecovery().GetAwaited(); len(awaited) != 1 {
		t.Errorf("awaited are %q", awaited)
	}
	fresh := newJournal()
	wantRecovering(t, fresh.claim(fresh.mustRegister(t, d, "n2"), "k1"))
	a = one.mustRegister(t, d, "n1")
	if len(a.registered.GetBlocks()) != 2 || len(a.registered.GetSealedBlocks()) != 0 || one.blocks[block] == nil || one.blocks[newer] == nil {
		t.Errorf("got %v", a.registered)
	}
	d.recovered(t)
	third := one.mustClaim(t, a, "k3")
	if one.blocks[third].GetGeneration() <= one.blocks[newer].GetGeneration() {
		t.Error("generations went back")
	}
	_, err = d.importAll(header, all, false)
	wantCode(t, err, codes.FailedPrecondition)
}
