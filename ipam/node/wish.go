package node

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// The annotations by which a Pod, or its namespace, says what it wants. Each is a list with commas.
const (
	annotationPools     = "clearway.io/pools"
	annotationIPv4Pools = "clearway.io/ipv4-pools"
	annotationIPv6Pools = "clearway.io/ipv6-pools"
	annotationFamilies  = "clearway.io/families"
	annotationAddresses = "clearway.io/addresses"
	annotationOwner     = "clearway.io/owner"
)

// wishes reads what pools an ADD asks for, the Pod's annotations first, then the namespace's, then the network
// configuration's pools, and who asks.
func wishes(in *clearwayv1.AddRequest) (pool.Query, error) {
	query := pool.Query{Pod: &pool.Subject{
		Namespace: in.GetPod().GetNamespace(), NamespaceLabels: in.GetNamespaceLabels(), Labels: in.GetPodLabels(),
	}}
	for _, from := range []struct {
		of          string
		annotations map[string]string
	}{{"the Pod", in.GetAnnotations()}, {"the Pod's namespace", in.GetNamespaceAnnotations()}} {
		wanted, err := wantedPools(from.of, from.annotations)
		if err != nil {
			return pool.Query{}, err
		}
		query.Wanted = append(query.Wanted, wanted...)
		if text, said := from.annotations[annotationFamilies]; said && query.Families == 0 {
			if query.Families, err = parseFamilies(text, from.of); err != nil {
				return pool.Query{}, err
			}
		}
	}
	query.Wanted = append(query.Wanted, networkPools(in.GetPools())...)
	return query, nil
}

// networkPools are the pools that a network configuration names.
func networkPools(names []string) []pool.Wanted {
	if len(names) == 0 {
		return nil
	}
	return []pool.Wanted{{Where: "pools of the network configuration", Names: names}}
}

func wantedPools(of string, annotations map[string]string) ([]pool.Wanted, error) {
	var all []pool.Wanted
	for _, one := range []struct {
		key  string
		only pool.Families
	}{{annotationIPv4Pools, pool.IPv4}, {annotationIPv6Pools, pool.IPv6}, {annotationPools, 0}} {
		text, said := annotations[one.key]
		if !said {
			continue
		}
		where := fmt.Sprintf("annotation %s of %s", one.key, of)
		names := splitList(text)
		if len(names) == 0 {
			return nil, refuse(cniBadConfig, "%s: %.64q names no pool; write IPPools with commas, as pods,pods6", where, text)
		}
		if err := checkPoolNames(where, names); err != nil {
			return nil, err
		}
		all = append(all, pool.Wanted{Where: where, Names: names, Only: one.only})
	}
	return all, nil
}

func parseFamilies(text, of string) (families pool.Families, err error) {
	for _, name := range splitList(text) {
		switch name {
		case "IPv4":
			families |= pool.IPv4
		case "IPv6":
			families |= pool.IPv6
		default:
			families = 0
		}
		if families == 0 {
			break
		}
	}
	if families == 0 {
		return 0, refuse(cniBadConfig, "annotation %s of %s: %.64q must be IPv4, IPv6, or both with a comma", annotationFamilies, of, text)
	}
	return families, nil
}

// wantedAddresses are those that an ADD asks for: the request's, and of a family that it does not speak of the Pod's
// annotation's.
func wantedAddresses(in *clearwayv1.AddRequest) ([]netip.Addr, error) {
	static, err := parseStatic("addresses", in.GetAddresses())
	if err != nil {
		return nil, err
	}
	text, said := in.GetAnnotations()[annotationAddresses]
	if !said {
		return static, nil
	}
	where := "annotation " + annotationAddresses + " of the Pod"
	texts := splitList(text)
	if len(texts) == 0 {
		return nil, refuse(cniBadConfig, "%s: %.64q names no address; write them with commas, as 10.244.0.7,fd00:10:244::7", where, text)
	}
	annotated, err := parseStatic(where, texts)
	if err != nil {
		return nil, err
	}
	for _, addr := range annotated {
		if !slices.ContainsFunc(static, func(other netip.Addr) bool { return other.Is4() == addr.Is4() }) {
			static = append(static, addr)
		}
	}
	return static, nil
}

// wantedOwner is who keeps the addresses of an ADD, where the Pod's annotation says so: a name within its namespace.
func wantedOwner(in *clearwayv1.AddRequest) (string, error) {
	text, said := in.GetAnnotations()[annotationOwner]
	if !said {
		return "", nil
	}
	if reasons := validation.IsDNS1123Subdomain(text); len(reasons) > 0 {
		return "", refuse(cniBadConfig, "annotation %s of the Pod: %.64q must be a name within its namespace, as db-0: %s", annotationOwner, text, reasons[0])
	}
	return in.GetPod().GetNamespace() + "/" + text, nil
}

// parseStatic reads addresses that are asked for, one of each family at most.
func parseStatic(where string, texts []string) ([]netip.Addr, error) {
	static, err := parseAddresses(where, texts)
	switch {
	case err != nil:
		return nil, err
	case len(static) > 2:
		return nil, refuse(cniBadConfig, "%s: %d were asked for; ask for one of each family at most", where, len(static))
	case len(static) == 2 && static[0].Is4() == static[1].Is4():
		return nil, refuse(cniBadConfig, "%s: %s and %s are of one family; ask for one of each at most", where, static[0], static[1])
	}
	return static, nil
}

// splitList takes a list with commas apart; empty entries and spaces around entries do not count.
func splitList(text string) []string {
	var entries []string
	for entry := range strings.SplitSeq(text, ",") {
		if entry = strings.TrimSpace(entry); entry != "" {
			entries = append(entries, entry)
		}
	}
	return entries
}

// knowNamespace fills in what ipamd knows of the Pod's namespace, where the runtime said nothing of it. It is the agent's own
// copy: no call is made for it.
func knowNamespace(in *clearwayv1.AddRequest, snapshot *clearwayv1.NodeSnapshot) {
	known := snapshot.GetNamespaces()[in.GetPod().GetNamespace()]
	if known == nil {
		return
	}
	if len(in.GetNamespaceLabels()) == 0 {
		in.NamespaceLabels = known.GetLabels()
	}
	if len(in.GetNamespaceAnnotations()) == 0 {
		in.NamespaceAnnotations = known.GetAnnotations()
	}
}
