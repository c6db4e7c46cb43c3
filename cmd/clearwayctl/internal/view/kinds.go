package view

import (
	"fmt"
	"strings"

	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest/nearest"
)

// short are the other names of each kind, in lower case; an "s" behind any of them is taken too.
var short = map[string][]string{
	"IPPool":            {"ipp", "pool"},
	"IPReservation":     {"ipr", "reservation"},
	"IPQuota":           {"ipq", "quota"},
	"IPAMConfiguration": {"ipamconfig", "ipamc"},
	"BGPConfiguration":  {"bgpconfig", "bgpc"},
	"BGPPeer":           {"bgpp", "peer"},
	"BGPFilter":         {"bgpf", "filter"},
	"Node":              {"no"},
	"Block":             {"blk"},
	"Assignment":        {"asg"},
	"BGPSession":        {"bgps", "session"},
	"Route":             {"rt"},
	"Event":             {"ev"},
}

// Kind finds a kind by its name in any case, its plural, or a short name.
func Kind(name string) (string, error) {
	wanted := strings.ToLower(name)
	var all []string
	for _, kind := range clearwayv1.Kinds() {
		for _, known := range names(kind) {
			if wanted == known || wanted == known+"s" {
				return kind, nil
			}
			all = append(all, known)
		}
	}
	list := "the kinds are " + strings.Join(clearwayv1.Kinds(), ", ")
	if hint := nearest.Hint(name, all); hint != "" {
		list = strings.TrimPrefix(hint, "; ")
	}
	return "", fmt.Errorf("kind %q is unknown; %s", name, list)
}

func names(kind string) []string {
	return append([]string{strings.ToLower(kind)}, short[kind]...)
}

// KindNames describes the kinds, a line each: "ippools (ipp, pool)   IPPool".
func KindNames() string {
	var text strings.Builder
	for _, kind := range clearwayv1.Kinds() {
		access := ""
		if !clearwayv1.Writable(kind) {
			access = "  (read only)"
		}
		fmt.Fprintf(&text, "  %-19s %-18s%s\n", strings.ToLower(kind)+"s", strings.Join(short[kind], ", "), access)
	}
	return strings.TrimRight(text.String(), "\n")
}

// Lower writes a resource as results name it: "ippool/pods".
func Lower(object clearwayv1.Object) string {
	return strings.ToLower(object.GetKind()) + "/" + object.GetMetadata().GetName()
}
