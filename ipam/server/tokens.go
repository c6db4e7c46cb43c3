package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	identities "github.com/clearway/clearway/ipam/identity"
)

// Tokens judges the bearer tokens (RFC 6750) of callers. Safe for concurrent use.
type Tokens interface {
	// Review tells whose a token is. identity.ErrToken, and why, for one that is not good, any other error when that could
	// not be found out.
	Review(ctx context.Context, token string) (identities.Identity, error)
}

const (
	// maxToken bounds a token in bytes; those of service accounts have about 1,200.
	maxToken = 8 << 10
	// reviewTime bounds one review.
	reviewTime = 5 * time.Second
	// trustFor is how long a review that said yes holds, and refuseFor one that said no. Who is deleted in the cluster goes
	// on for at most trustFor.
	trustFor  = time.Minute
	refuseFor = 5 * time.Second
	// maxReviews is how many reviews are kept: more than there are nodes.
	maxReviews = 16384
	// reviewRate and reviewBurst bound the reviews a second: all nodes at once after a start, and no flood of made-up tokens.
	reviewRate  = 200
	reviewBurst = 2000
)

// tokens keeps reviews for a while: an agent makes many calls with one token.
type tokens struct {
	reviewer Tokens
	now      func() time.Time
	pace     *rate.Limiter
	flights  singleflight.Group // one review at a time of one token

	mu      sync.Mutex // guards reviews
	reviews map[[sha256.Size]byte]review
}

// review is a verdict, and until when it holds.
type review struct {
	who   identities.Identity
	err   error
	until time.Time
}

func newTokens(reviewer Tokens, now func() time.Time) *tokens {
	if reviewer == nil {
		return nil
	}
	return &tokens{
		reviewer: reviewer, now: now, pace: rate.NewLimiter(reviewRate, reviewBurst), reviews: map[[sha256.Size]byte]review{},
	}
}

// judge finds whose token a call has. The error is the call's answer, and never has the token.
func (t *tokens) judge(ctx context.Context) (identities.Identity, error) {
	token, err := bearer(ctx)
	if err != nil {
		return identities.Of(nil), err
	}
	key := sha256.Sum256([]byte(token))
	if known, ok := t.known(key); ok {
		return known.who, known.err
	}
	// The review is of all who wait for it, so that it does not end with the first one's call.
	done := t.flights.DoChan(string(key[:]), func() (any, error) {
		return t.review(context.WithoutCancel(ctx), key, token), nil
	})
	select {
	case made := <-done:
		verdict := made.Val.(review)
		return verdict.who, verdict.err
	case <-ctx.Done():
		return identities.Of(nil), status.FromContextError(ctx.Err()).Err()
	}
}

func bearer(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return "", status.Error(codes.Unauthenticated, "the call has neither a certificate nor a token: give one of them")
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	switch {
	case !ok || !strings.EqualFold(scheme, "bearer") || token == "":
		return "", status.Error(codes.Unauthenticated, `the call's authorization is not "Bearer TOKEN"`)
	case len(token) > maxToken:
		return "", status.Errorf(codes.Unauthenticated, "the call's token has %d bytes; at most %d are taken", len(token), maxToken)
	}
	return token, nil
}

func (t *tokens) known(key [sha256.Size]byte) (review, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.reviews[key]
	return known, ok && t.now().Before(known.until)
}

func (t *tokens) review(ctx context.Context, key [sha256.Size]byte, token string) review {
	if !t.pace.AllowN(t.now(), 1) {
		return review{who: identities.Of(nil), err: status.Errorf(codes.Unavailable,
			"more than %d new tokens a second are to be judged; try again", reviewRate)}
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTime)
	defer cancel()
	who, err := t.reviewer.Review(ctx, token)
	switch {
	case err == nil:
		return t.keep(key, review{who: who, until: t.now().Add(trustFor)})
	case errors.Is(err, identities.ErrToken):
		refused := review{who: identities.Of(nil), err: status.Error(codes.PermissionDenied, err.Error())}
		refused.until = t.now().Add(refuseFor)
		return t.keep(key, refused)
	}
	// Unavailable: the caller tries again; nothing is known of the token.
	return review{who: identities.Of(nil), err: status.Errorf(codes.Unavailable, "the token cannot be judged now: %v", err)}
}

// keep notes a review. Where there are too many, those that are over go, and then any.
func (t *tokens) keep(key [sha256.Size]byte, made review) review {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.reviews) >= maxReviews {
		now := t.now()
		for old, one := range t.reviews {
			if !now.Before(one.until) {
				delete(t.reviews, old)
			}
		}
	}
	for old := range t.reviews {
		if len(t.reviews) < maxReviews {
			break
		}
		delete(t.reviews, old)
	}
	t.reviews[key] = made
	return made
}
