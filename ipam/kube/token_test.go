package kube

import (
	"errors"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/clearway/clearway/ipam/identity"
)

func TestJudgesReviews(t *testing.T) {
	good := func(change ...func(*authenticationv1.TokenReviewStatus)) authenticationv1.TokenReviewStatus {
		status := authenticationv1.TokenReviewStatus{
			Authenticated: true, Audiences: []string{TokenAudience},
			User: authenticationv1.UserInfo{
				Username: "system:serviceaccount:clearway-system:clearway-agent",
				Extra:    map[string]authenticationv1.ExtraValue{nodeNameExtra: {"n1"}},
			},
		}
		for _, one := range change {
			one(&status)
		}
		return status
	}
	for _, c := range []struct {
		name   string
		status authenticationv1.TokenReviewStatus
		want   string // of the error; empty: it is node n1
	}{
		{"an agent's", good(), ""},
		{"unknown", authenticationv1.TokenReviewStatus{}, "does not know it for audience clearway-ipamd"},
		{"for the API server", good(func(s *authenticationv1.TokenReviewStatus) { s.Audiences = []string{"https://kubernetes.default.svc"} }),
			"it is for audiences"},
		{"for all", good(func(s *authenticationv1.TokenReviewStatus) { s.Audiences = nil }), "it is for audiences"},
		{"another account's", good(func(s *authenticationv1.TokenReviewStatus) { s.User.Username += "2" }),
			"it is of system:serviceaccount:clearway-system:clearway-agent2, and not of the agents' service account"},
		{"a user's of that name", good(func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "clearway-system:clearway-agent" }),
			"and not of the agents' service account"},
		{"of no node", good(func(s *authenticationv1.TokenReviewStatus) { s.User.Extra = nil }), "it names no node"},
		{"of two nodes", good(func(s *authenticationv1.TokenReviewStatus) { s.User.Extra[nodeNameExtra] = []string{"n1", "n2"} }), "it names no node"},
	} {
		t.Run(c.name, func(t *testing.T) {
			who, err := judgeReview(c.status, "clearway-system:clearway-agent")
			switch {
			case c.want == "" && (err != nil || !who.MayActAs("n1") || who.MayActAs("n2") || who.MayRead()):
				t.Errorf("%v acts as %v, %v", who, who.Nodes(), err)
			case c.want != "" && (!errors.Is(err, identity.ErrToken) || !strings.Contains(err.Error(), c.want) || len(who.Nodes()) > 0):
				t.Errorf("%v, %v", who.Nodes(), err)
			}
		})
	}
}

func TestAccountsNames(t *testing.T) {
	for _, bad := range []string{"", "clearway-agent", "/a", "a/", "a/b/c", "a:b/c", "a/b:c"} {
		if err := CheckAccount(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if err := CheckAccount("clearway-system/clearway-agent"); err != nil {
		t.Error(err)
	}
}
