package pool

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

var operators = map[string]selection.Operator{
	"In": selection.In, "NotIn": selection.NotIn, "Exists": selection.Exists, "DoesNotExist": selection.DoesNotExist,
}

// parseSelector reads a standard label selector; absent and empty both select everything.
func parseSelector(faults *violations, field string, selector *clearwayv1.LabelSelector) labels.Selector {
	parsed := labels.NewSelector()
	before := len(*faults)
	byKey := selector.GetMatchLabels()
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		at := fmt.Sprintf("%s.matchLabels[%s]", field, key)
		checkKey(faults, at, key)
		checkValue(faults, at, byKey[key])
		parsed = withRequirement(parsed, key, selection.Equals, []string{byKey[key]})
	}
	for i, expression := range selector.GetMatchExpressions() {
		at := fmt.Sprintf("%s.matchExpressions[%d]", field, i)
		operator := parseExpression(faults, at, expression)
		parsed = withRequirement(parsed, expression.GetKey(), operator, expression.GetValues())
	}
	if len(*faults) > before {
		return labels.Nothing()
	}
	return parsed
}

func parseExpression(faults *violations, at string, expression *clearwayv1.LabelSelectorRequirement) selection.Operator {
	checkKey(faults, at+".key", expression.GetKey())
	operator, known := operators[expression.GetOperator()]
	values := expression.GetValues()
	wantsValues := operator == selection.In || operator == selection.NotIn
	switch {
	case !known:
		faults.add(at+".operator", expression.GetOperator(), "must be In, NotIn, Exists or DoesNotExist")
	case wantsValues && len(values) == 0:
		faults.add(at+".values", "", "operator %s needs at least one value", expression.GetOperator())
	case !wantsValues && len(values) > 0:
		faults.add(at+".values", strings.Join(values, ","), "operator %s takes no values; leave them out", expression.GetOperator())
	}
	for j, value := range values {
		checkValue(faults, fmt.Sprintf("%s.values[%d]", at, j), value)
	}
	return operator
}

// withRequirement adds a requirement; one with faults has been told of, and is left out.
func withRequirement(selector labels.Selector, key string, operator selection.Operator, values []string) labels.Selector {
	requirement, err := labels.NewRequirement(key, operator, values)
	if err != nil {
		return selector
	}
	return selector.Add(*requirement)
}

func checkKey(faults *violations, field, key string) {
	if key == "" {
		faults.add(field, "", "is required: a label's name, such as rack or topology.kubernetes.io/zone")
		return
	}
	if reasons := validation.IsQualifiedName(key); len(reasons) > 0 {
		faults.add(field, key, "is no label's name: %s", strings.Join(reasons, "; "))
	}
}

func checkValue(faults *violations, field, value string) {
	if reasons := validation.IsValidLabelValue(value); len(reasons) > 0 {
		faults.add(field, value, "is no label's value: %s", strings.Join(reasons, "; "))
	}
}
