package identity

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"testing"
)

func TestOf(t *testing.T) {
	for _, c := range []struct {
		name         string
		subject      pkix.Name
		dns          []string
		read, change bool
		nodes        []string
	}{
		{"operator", Subject(Operator, "alice"), nil, true, true, nil},
		{"viewer", Subject(Viewer, "bob"), nil, true, false, nil},
		{"node", Subject(Node, "h1"), nil, false, false, []string{"h1"}},
		{"node by DNS name too", Subject(Node, "h1"), []string{"h1.example.com", "h1"}, false, false, []string{"h1", "h1.example.com"}},
		{"node by its organization, without prefix", pkix.Name{Organization: []string{"clearway:nodes"}, CommonName: "h1"}, nil, false, false, []string{"h1"}},
		{"node by its prefix alone", pkix.Name{CommonName: "node:h1"}, nil, false, false, []string{"h1"}},
		{"ipamd", Subject(Ipamd, "ipamd"), []string{"ipamd.example.com"}, false, false, nil},
		{"an operator's DNS names are no nodes", Subject(Operator, "h1"), []string{"h1"}, true, true, nil},
		{"no role: the nodes it names", pkix.Name{CommonName: "h1"}, []string{"h2"}, false, false, []string{"h1", "h2"}},
		{"no name", pkix.Name{}, nil, false, false, nil},
		{"an empty node", pkix.Name{CommonName: "node:"}, nil, false, false, nil},
		{"another's organization", pkix.Name{Organization: []string{"operators"}, CommonName: "x"}, nil, false, false, []string{"x"}},
		{"in another case", pkix.Name{Organization: []string{"Clearway:Operators"}, CommonName: "x"}, nil, false, false, []string{"x"}},
		{"roles add up", pkix.Name{Organization: []string{"clearway:viewers", "clearway:nodes"}, CommonName: "node:h1"}, nil, true, false, []string{"h1"}},
		{"the unit is no organization", pkix.Name{OrganizationalUnit: []string{"clearway:operators"}, CommonName: "x"}, nil, false, false, []string{"x"}},
	} {
		got := Of(&x509.Certificate{Subject: c.subject, DNSNames: c.dns})
		if got.MayRead() != c.read || got.MayChange() != c.change || !slices.Equal(got.Nodes(), c.nodes) {
			t.Errorf("%s: read %v, change %v, nodes %q", c.name, got.MayRead(), got.MayChange(), got.Nodes())
		}
		if got.MayActAs("") || got.MayActAs("*") {
			t.Errorf("%s acts as nobody", c.name)
		}
	}
	if nobody := Of(nil); nobody.MayRead() || nobody.MayChange() || nobody.MayActAs("none") {
		t.Error("nobody may do something")
	}
}

// What is written for a role is read as that role alone.
func TestSubjectIsReadBack(t *testing.T) {
	for _, role := range Roles {
		got := Of(&x509.Certificate{Subject: Subject(role, "x")})
		if !slices.Equal(got.Roles(), []Role{role}) || got.Holder() != "x" {
			t.Errorf("%s: roles %v, holder %q", role, got.Roles(), got.Holder())
		}
	}
}
