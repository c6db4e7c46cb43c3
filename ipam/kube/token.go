package kube

import (
	"context"
	"fmt"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/clearway/clearway/ipam/identity"
)

const (
	// TokenAudience is whom agents' tokens must be for: one that is for the API server, or for anybody else, is no proof here.
	TokenAudience = "clearway-ipamd"
	// nodeNameExtra is where a review has the node of the Pod that a token is bound to (from Kubernetes 1.30 on).
	nodeNameExtra = "authentication.kubernetes.io/node-name"
	userPrefix    = "system:serviceaccount:"
)

// reviewsOf is a client of token reviews. It has a pace of its own: ipamd bounds them, and all agents come at once.
func reviewsOf(config *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := authenticationv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	reviews := rest.CopyConfig(config)
	reviews.QPS = -1
	reviews.GroupVersion, reviews.APIPath = &authenticationv1.SchemeGroupVersion, "/apis"
	reviews.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return rest.RESTClientFor(reviews)
}

// Tokens judges agents' tokens: projected ones of a service account, bound to the Pod and so to its node.
type Tokens struct {
	client rest.Interface // of authentication.k8s.io
	agent  string         // NAMESPACE:NAME of the agents' service account
}

// CheckAccount refuses what is not "NAMESPACE/NAME" of a service account.
func CheckAccount(account string) error {
	namespace, name, ok := strings.Cut(account, "/")
	if !ok || namespace == "" || name == "" || strings.ContainsAny(name, "/:") || strings.Contains(namespace, ":") {
		return fmt.Errorf("%q is not NAMESPACE/NAME of a service account", account)
	}
	return nil
}

// Tokens makes a judge of the tokens of one service account, which CheckAccount has found good.
func (c *Cluster) Tokens(account string) *Tokens {
	return &Tokens{client: c.reviews, agent: strings.Replace(account, "/", ":", 1)}
}

// Review asks the API server whose a token is (TokenReview). It must be for TokenAudience, of the agents' service account,
// and name a node.
func (t *Tokens) Review(ctx context.Context, token string) (identity.Identity, error) {
	review := &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{TokenAudience}},
	}
	err := t.client.Post().Resource("tokenreviews").Body(review).Do(ctx).Into(review)
	if err != nil {
		return identity.Identity{}, fmt.Errorf("TokenReview: %w", err)
	}
	return judgeReview(review.Status, t.agent)
}

// judgeReview is the pure half of Review. The token itself is in no error.
func judgeReview(status authenticationv1.TokenReviewStatus, agent string) (identity.Identity, error) {
	refuse := func(format string, values ...any) (identity.Identity, error) {
		return identity.Identity{}, fmt.Errorf("%w: %s", identity.ErrToken, fmt.Sprintf(format, values...))
	}
	user := status.User.Username
	account, isAccount := strings.CutPrefix(user, userPrefix)
	nodes := status.User.Extra[nodeNameExtra]
	switch {
	case !status.Authenticated:
		return refuse("the API server does not know it for audience %s: it is over, for another audience, or its Pod is no more", TokenAudience)
	case len(status.Audiences) != 1 || status.Audiences[0] != TokenAudience:
		return refuse("it is for audiences %q, and not for %q", status.Audiences, TokenAudience)
	case !isAccount || account != agent:
		return refuse("it is of %s, and not of the agents' service account, %s%s", user, userPrefix, agent)
	case len(nodes) != 1 || nodes[0] == "":
		return refuse("it names no node: it must be bound to a Pod that runs on one, by Kubernetes 1.30 or later")
	}
	return identity.OfNode(nodes[0], user+" on "+nodes[0]), nil
}
