package pool

import (
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Validate tells every fault of an IPPool, IPReservation, IPQuota or IPAMConfiguration by itself, of what is beside apiVersion,
// kind and metadata, which are alike in all kinds. Other kinds have none.
func Validate(object clearwayv1.Object) []*clearwayv1.FieldViolation {
	switch object := object.(type) {
	case *clearwayv1.IPPool:
		_, faults := Parse(object)
		return faults
	case *clearwayv1.IPReservation:
		_, faults := ParseReservation(object)
		return faults
	case *clearwayv1.IPQuota:
		_, faults := ParseQuota(object)
		return faults
	case *clearwayv1.IPAMConfiguration:
		_, faults := ParseIPAMConfiguration(object)
		return append(faults, checkDefaultName(object.GetMetadata().GetName())...)
	}
	return nil
}

// checkDefaultName refuses settings that would never be in force.
func checkDefaultName(name string) []*clearwayv1.FieldViolation {
	var faults violations
	if name != "default" {
		faults.add("metadata.name", name, `must be "default": that one is in force, and no other`)
	}
	return faults
}
