package server

import (
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Kinds that rules here single out.
const (
	kindPool              = "IPPool"
	kindReservation       = "IPReservation"
	kindQuota             = "IPQuota"
	kindIPAMConfiguration = "IPAMConfiguration"
	kindBGPConfiguration  = "BGPConfiguration"
	kindPeer              = "BGPPeer"
	kindFilter            = "BGPFilter"
	kindNode              = "Node"
	kindBlock             = "Block"
	kindAssignment        = "Assignment"
	kindSession           = "BGPSession"
	kindRoute             = "Route"
	kindEvent             = "Event"
)

// defaultName is the name of a kind's one resource in force.
const defaultName = "default"

func labelSet(of map[string]string) labels.Set { return labels.Set(of) }

// selects tells whether a standard selector takes these labels; absent and empty take all. A selector that would not
// have been accepted takes none.
func selects(selector *clearwayv1.LabelSelector, of map[string]string) bool {
	set := labels.Set(of)
	for key, value := range selector.GetMatchLabels() {
		if !set.Has(key) || set.Get(key) != value {
			return false
		}
	}
	for _, expression := range selector.GetMatchExpressions() {
		operator, known := operators[expression.GetOperator()]
		requirement, err := labels.NewRequirement(expression.GetKey(), operator, expression.GetValues())
		if !known || err != nil || !requirement.Matches(set) {
			return false
		}
	}
	return true
}

var operators = map[string]selection.Operator{
	"In": selection.In, "NotIn": selection.NotIn, "Exists": selection.Exists, "DoesNotExist": selection.DoesNotExist,
}
