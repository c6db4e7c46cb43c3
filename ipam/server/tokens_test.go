package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	identities "github.com/clearway/clearway/ipam/identity"
)

// registrar reviews tokens "node NAME" with yes, "away" with no answer, and all else with no.
type registrar struct {
	reviews atomic.Int64
	takes   time.Duration
}

func (r *registrar) Review(ctx context.Context, token string) (identities.Identity, error) {
	r.reviews.Add(1)
	time.Sleep(r.takes)
	switch node, ok := strings.CutPrefix(token, "node-"); {
	case ok:
		return identities.OfNode(node, "agent on "+node), nil
	case token == "away":
		return identities.Identity{}, errors.New("connection refused")
	}
	return identities.Identity{}, fmt.Errorf("%w: nobody issued it", identities.ErrToken)
}

func withToken(authorization ...string) context.Context {
	return metadata.NewIncomingContext(context.Background(), metadata.MD{"authorization": authorization})
}

func TestTokensAreJudged(t *testing.T) {
	judges := newTokens(&registrar{}, time.Now)
	for _, c := range []struct {
		name  string
		ctx   context.Context
		code  codes.Code
		error string
		node  string
	}{
		{"a node's", withToken("Bearer node-h1"), codes.OK, "", "h1"},
		{"in other letters", withToken("bearer node-h1"), codes.OK, "", "h1"},
		{"none", context.Background(), codes.Unauthenticated, "neither a certificate nor a token", ""},
		{"two", withToken("Bearer node-h1", "Bearer node-h2"), codes.Unauthenticated, "neither a certificate nor a token", ""},
		{"another scheme", withToken("Basic node-h1"), codes.Unauthenticated, `is not "Bearer TOKEN"`, ""},
		{"too long", withToken("Bearer " + strings.Repeat("x", maxToken+1)), codes.Unauthenticated, "has 8193 bytes; at most 8192 are taken", ""},
		{"nobody's", withToken("Bearer secret"), codes.PermissionDenied, "token is refused: nobody issued it", ""},
		{"cannot be judged", withToken("Bearer away"), codes.Unavailable, "cannot be judged now: connection refused", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			who, err := judges.judge(c.ctx)
			if status.Code(err) != c.code || err != nil && !strings.Contains(err.Error(), c.error) {
				t.Errorf("%v, not %v with %q", err, c.code, c.error)
			}
			if who.MayActAs("h1") != (c.node == "h1") || who.MayActAs("h2") || who.MayRead() || who.MayChange() {
				t.Errorf("it acts as %v with roles %v", who.Nodes(), who.Roles())
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error has the token: %v", err)
			}
		})
	}
}

func TestReviewsHoldForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		judge := &registrar{takes: time.Second}
		judges := newTokens(judge, time.Now)
		asked := func(token string, want int64) {
			t.Helper()
			before := judge.reviews.Load()
			_, _ = judges.judge(withToken("Bearer " + token))
			if got := judge.reviews.Load() - before; got != want {
				t.Errorf("%s: %d reviews, not %d", token, got, want)
			}
		}
		asked("node-h1", 1)
		asked("node-h1", 0)
		asked("node-h2", 1)
		asked("nobody", 1)
		asked("nobody", 0)
		asked("away", 1)
		asked("away", 1)
		time.Sleep(refuseFor)
		asked("nobody", 1)
		asked("node-h1", 0)
		time.Sleep(trustFor)
		asked("node-h1", 1)
	})
}

// TestOneReviewAtATime: all calls of an agent that start together wait for one review, and one that gives up does not end it
// for the others.
func TestOneReviewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		judge := &registrar{takes: time.Second}
		judges := newTokens(judge, time.Now)
		impatient, cancel := context.WithTimeout(withToken("Bearer node-h1"), time.Millisecond)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := judges.judge(impatient); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("the impatient one: %v", err)
			}
		})
		synctest.Wait()
		for range 20 {
			all.Go(func() {
				if who, err := judges.judge(withToken("Bearer node-h1")); err != nil || !who.MayActAs("h1") {
					t.Errorf("%v, %v", who, err)
				}
			})
		}
		all.Wait()
		if n := judge.reviews.Load(); n != 1 {
			t.Errorf("%d reviews", n)
		}
	})
}

// TestMadeUpTokensAreFew: a flood of them neither reaches the reviewer nor fills the memory.
func TestMadeUpTokensAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		judge := &registrar{}
		judges := newTokens(judge, time.Now)
		for i := range 3 * reviewBurst {
			_, err := judges.judge(withToken(fmt.Sprintf("Bearer x%d", i)))
			if want := map[bool]codes.Code{true: codes.PermissionDenied, false: codes.Unavailable}[i < reviewBurst]; status.Code(err) != want {
				t.Fatalf("token %d: %v", i, err)
			}
		}
		if n := judge.reviews.Load(); n != reviewBurst {
			t.Errorf("%d reviews", n)
		}
		for i := range maxReviews + 10 {
			judges.keep([32]byte{byte(i), byte(i >> 8), byte(i >> 16), 1}, review{until: time.Now().Add(time.Hour)})
		}
		if n := len(judges.reviews); n > maxReviews {
			t.Errorf("%d are kept", n)
		}
	})
}
