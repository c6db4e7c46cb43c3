package migrate

import (
	"fmt"
	"regexp"
	"strings"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// The terms of Calico's selectors that label selectors know: has(k), !has(k), k == 'v', k != 'v', k in {...}, k not in {...}.
var (
	hasTerm   = regexp.MustCompile(`^(!?)\s*has\(\s*([\w./-]+)\s*\)$`)
	equalTerm = regexp.MustCompile(`^([\w./-]+)\s*(==|!=)\s*(?:'([^']*)'|"([^"]*)")$`)
	inTerm    = regexp.MustCompile(`^([\w./-]+)\s+(in|not\s+in)\s*\{([^}]*)\}$`)
	oneValue  = regexp.MustCompile(`^\s*(?:'([^']*)'|"([^"]*)")\s*$`)
)

// selector reads a selector of Calico's (its documentation, "Selectors") as a label selector. Of "", all() and global() it is
// nil: everything. What label selectors cannot say is an error.
func selector(text string) (*clearwayv1.LabelSelector, error) {
	text = strings.TrimSpace(text)
	if text == "" || text == "all()" || text == "global()" {
		return nil, nil
	}
	selector := &clearwayv1.LabelSelector{}
	for _, term := range strings.Split(text, "&&") {
		term = strings.TrimSpace(term)
		if term == "all()" {
			continue
		}
		one, err := requirement(term)
		if err != nil {
			return nil, err
		}
		selector.MatchExpressions = append(selector.MatchExpressions, one)
	}
	return selector, nil
}

func requirement(term string) (*clearwayv1.LabelSelectorRequirement, error) {
	if found := hasTerm.FindStringSubmatch(term); found != nil {
		operator := "Exists"
		if found[1] != "" {
			operator = "DoesNotExist"
		}
		return &clearwayv1.LabelSelectorRequirement{Key: found[2], Operator: operator}, nil
	}
	if found := equalTerm.FindStringSubmatch(term); found != nil {
		operator := "In"
		if found[2] == "!=" { // as NotIn does, it takes what has no such label
			operator = "NotIn"
		}
		return &clearwayv1.LabelSelectorRequirement{Key: found[1], Operator: operator, Values: []string{found[3] + found[4]}}, nil
	}
	found := inTerm.FindStringSubmatch(term)
	if found == nil {
		return nil, fmt.Errorf("%q is no term that a label selector knows", term)
	}
	one := &clearwayv1.LabelSelectorRequirement{Key: found[1], Operator: "In"}
	if strings.HasPrefix(found[2], "not") {
		one.Operator = "NotIn"
	}
	for _, text := range strings.Split(found[3], ",") {
		value := oneValue.FindStringSubmatch(text)
		if value == nil {
			return nil, fmt.Errorf("%q is no value in quotes", strings.TrimSpace(text))
		}
		one.Values = append(one.Values, value[1]+value[2])
	}
	return one, nil
}
