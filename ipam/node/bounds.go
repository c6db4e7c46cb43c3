package node

import (
	"k8s.io/apimachinery/pkg/util/validation"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Bounds of what comes in by the socket. They are far above what a runtime sends, and keep one record of the journal
// small.
const (
	maxID        = 256  // of a network's name and a container ID
	maxIfname    = 15   // IFNAMSIZ of linux/if.h, less its NUL
	maxPodField  = 253  // the longest DNS name
	maxNetns     = 1024 // bytes of a path; the longest of a runtime has some 60
	maxPools     = 16
	maxAddresses = 16
	maxValid     = 100_000 // attachments in a GC
)

// parseAttachment holds an attachment to the CNI specification (section "Parameters"): a container ID and a network's
// name begin with a letter or digit, followed by those and "_.-"; an interface has a name that Linux takes.
func parseAttachment(a *clearwayv1.Attachment) (key, error) {
	k := keyOf(a)
	if !isID(k.Container) {
		return key{}, refuse(cniBadEnvironment, "attachment.containerID: %.64q must be 1 to %d letters, digits, '_', '.' or '-', "+
			"and begin with a letter or digit", k.Container, maxID)
	}
	if k.Network != "" && !isID(k.Network) {
		return key{}, refuse(cniBadConfig, "attachment.network: %.64q must be up to %d letters, digits, '_', '.' or '-', "+
			"and begin with a letter or digit", k.Network, maxID)
	}
	if !isIfname(k.Ifname) {
		return key{}, refuse(cniBadEnvironment, "attachment.ifname: %.64q must be 1 to %d printable characters without '/', ':' and space, "+
			"and not '.' or '..'", k.Ifname, maxIfname)
	}
	return k, nil
}

func isID(text string) bool {
	if text == "" || len(text) > maxID {
		return false
	}
	for i, c := range []byte(text) {
		alphanumeric := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alphanumeric && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return true
}

func isIfname(text string) bool {
	if text == "" || len(text) > maxIfname || text == "." || text == ".." {
		return false
	}
	for _, c := range []byte(text) {
		if c <= ' ' || c > '~' || c == '/' || c == ':' {
			return false
		}
	}
	return true
}

func checkPod(p *clearwayv1.Pod) error {
	for field, text := range map[string]string{"namespace": p.GetNamespace(), "name": p.GetName(), "uid": p.GetUid()} {
		if len(text) > maxPodField {
			return refuse(cniBadEnvironment, "pod.%s: %.64q... has %d bytes, at most %d are taken", field, text, len(text), maxPodField)
		}
	}
	return nil
}

func checkPools(names []string) error { return checkPoolNames("pools", names) }

// checkPoolNames checks names that stand somewhere.
func checkPoolNames(where string, names []string) error {
	if len(names) > maxPools {
		return refuse(cniBadConfig, "%s: there are %d names, at most %d are taken", where, len(names), maxPools)
	}
	for _, name := range names {
		if reasons := validation.IsDNS1123Subdomain(name); len(reasons) > 0 {
			return refuse(cniBadConfig, "%s: %.64q is no pool's name: %s", where, name, reasons[0])
		}
	}
	return nil
}

func parseGC(in *clearwayv1.GCRequest) (map[key]bool, error) {
	if in.GetNetwork() != "" && !isID(in.GetNetwork()) {
		return nil, refuse(cniBadConfig, "network: %.64q is no network's name", in.GetNetwork())
	}
	if n := len(in.GetValidAttachments()); n > maxValid {
		return nil, refuse(cniBadConfig, "valid_attachments: there are %d, at most %d are taken", n, maxValid)
	}
	valid := make(map[key]bool, len(in.GetValidAttachments()))
	for _, a := range in.GetValidAttachments() {
		// Compared as they are: an attachment that names itself oddly must not be freed for it. The list is of one
		// network, also where its entries do not say so.
		k := keyOf(a)
		k.Network = in.GetNetwork()
		valid[k] = true
	}
	return valid, nil
}
