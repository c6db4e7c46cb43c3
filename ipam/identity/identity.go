// Package identity says who a certificate's holder is, and what that one may do. The subject's organizations (O) name
// roles, and its common name (CN) names the holder:
//
//	O=clearway:operators, CN=alice     reads and changes resources
//	O=clearway:viewers,   CN=bob       reads resources
//	O=clearway:nodes,     CN=node:h1   acts as node h1 and reads nothing else
//	O=clearway:ipamd,     CN=ipamd     serves; calls nobody
//
// Several organizations add up. A certificate that names none of them acts as the nodes it names and nothing else, so
// that certificates made by others, with the node's name alone, are a node's. A token that an authority of tokens has
// judged (in a cluster, the API server) may stand in a certificate's place: OfNode. This is the one place that knows: ipamd
// judges callers by it, and clearwayctl makes certificates by it.
package identity

import (
	"cmp"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Role is what a certificate is for.
type Role string

// The roles.
const (
	Operator Role = "operator"
	Viewer   Role = "viewer"
	Node     Role = "node"
	Ipamd    Role = "ipamd"
)

// Roles are all of them.
var Roles = []Role{Operator, Viewer, Node, Ipamd}

// nodePrefix begins the common name of a node's certificate. Without a role it is left out by other makers.
const nodePrefix = "node:"

// Organization is the subject's organization by which a certificate has the role.
func (r Role) Organization() string {
	return map[Role]string{
		Operator: "clearway:operators", Viewer: "clearway:viewers", Node: "clearway:nodes", Ipamd: "clearway:ipamd",
	}[r]
}

// Subject is that of a certificate of a role for a holder.
func Subject(role Role, holder string) pkix.Name {
	if role == Node {
		holder = nodePrefix + holder
	}
	return pkix.Name{Organization: []string{role.Organization()}, CommonName: holder}
}

// Identity is what a certificate or a token says of its holder. The zero value may do nothing.
type Identity struct {
	proof   string // what tells of the holder; empty: a certificate
	subject string
	holder  string
	roles   []Role
	nodes   []string
}

// Of reads a certificate, which must have been verified; nil is nobody's.
func Of(certificate *x509.Certificate) Identity {
	if certificate == nil {
		return Identity{subject: "none"}
	}
	subject := certificate.Subject
	holder, marked := strings.CutPrefix(subject.CommonName, nodePrefix)
	made := Identity{subject: subject.String(), holder: holder}
	for _, role := range Roles {
		if slices.Contains(subject.Organization, role.Organization()) {
			made.roles = append(made.roles, role)
		}
	}
	bare := len(made.roles) == 0
	if bare || marked || slices.Contains(made.roles, Node) {
		made.nodes = nodeNames(holder, certificate.DNSNames)
	}
	if marked && !slices.Contains(made.roles, Node) {
		made.roles = append(made.roles, Node)
	}
	return made
}

// ErrToken says that a token is not good.
var ErrToken = errors.New("token is refused")

// OfNode is the identity of a node's agent that is proven by a token. The holder is whom the token was issued to.
func OfNode(node, holder string) Identity {
	return Identity{proof: "token", subject: holder, holder: holder, roles: []Role{Node}, nodes: []string{node}}
}

func nodeNames(holder string, dnsNames []string) []string {
	var names []string
	for _, name := range append([]string{holder}, dnsNames...) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Roles are those that the holder has.
func (i Identity) Roles() []Role { return i.roles }

// Nodes are the names of those it may act as.
func (i Identity) Nodes() []string { return i.nodes }

// Holder is the common name, without a node's prefix, or whom the token was issued to.
func (i Identity) Holder() string { return i.holder }

// String is the certificate's subject, or whom the token was issued to.
func (i Identity) String() string { return i.subject }

// MayRead tells whether the holder may read resources.
func (i Identity) MayRead() bool { return i.has(Viewer) || i.has(Operator) }

// MayChange tells whether the holder may change resources.
func (i Identity) MayChange() bool { return i.has(Operator) }

// MayActAs tells whether the holder may call as a node.
func (i Identity) MayActAs(node string) bool { return node != "" && slices.Contains(i.nodes, node) }

func (i Identity) has(role Role) bool { return slices.Contains(i.roles, role) }

// Is tells in words who the holder is, for a refusal: "the certificate (O=clearway:nodes,CN=node:h1) is a node's".
func (i Identity) Is() string {
	words := make([]string, 0, len(i.roles))
	for _, role := range i.roles {
		words = append(words, map[Role]string{
			Operator: "an operator's", Viewer: "a viewer's", Node: "a node's", Ipamd: "an ipamd's",
		}[role])
	}
	if len(words) == 0 {
		words = []string{"of no role"}
	}
	return fmt.Sprintf("the %s (%s) is %s", cmp.Or(i.proof, "certificate"), i.subject, strings.Join(words, " and "))
}
