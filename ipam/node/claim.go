package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const (
	// claimTimeout bounds one call; the next one has the same request key, and so gets the same block.
	claimTimeout = 10 * time.Second
	// recoveringRetry is how soon a claim is tried again that waits for other nodes' reports.
	recoveringRetry = 2 * time.Second
	// claimsAtOnce bounds how many pools are asked for at once. It is one claim a pool in any case.
	claimsAtOnce = 8
)

// retryPolicy is how often a pool is asked for again by itself. A pool that is full stays so for a while; an ADD that
// waits asks sooner.
func retryPolicy() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval: 200 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 30 * time.Second,
	}
}

// waker is a signal that is kept until it is taken, once.
type waker chan struct{}

func newWaker() waker { return make(waker, 1) }

func (w waker) wake() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// claims keeps addresses ahead of need: it claims blocks for pools that run low.
type claims struct {
	*Node
	due waker
}

func (c *claims) wake() { c.due.wake() }

func (c *claims) run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, claimsAtOnce)
	for {
		due, next := c.book.dueClaims()
		for _, name := range due {
			running.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				c.claimOne(ctx, name)
				c.wake()
			})
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(max(next.Sub(c.now()), time.Millisecond))
		}
		select {
		case <-c.due:
		case <-timer:
		case <-ctx.Done():
			return nil
		}
	}
}

// dueClaims are the pools to ask for now, which it marks as running, and when the next one is due (zero: when woken).
func (b *book) dueClaims() (due []string, next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.offlineSince.IsZero() {
		return nil, time.Time{}
	}
	now := b.now()
	for _, name := range b.used() {
		p := b.pool(name)
		if p.running || !b.low(name, now) {
			continue
		}
		at := p.next
		if !p.wanted && p.heldOff.After(at) {
			at = p.heldOff
		}
		if soon := p.soon(); p.wanted && p.refusal != "" && soon.Before(at) {
			at = soon
		}
		if !now.Before(at) {
			p.running = true
			due = append(due, name)
		} else if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return due, next
}

// soon is when a pool is asked for again because an ADD waits.
func (p *poolState) soon() time.Time {
	if !p.refusedWanted {
		return time.Time{} // what was refused was ahead of need
	}
	return p.refusedAt.Add(refusalHolds)
}

// claimOne asks ipamd for one block of a pool.
func (c *claims) claimOne(ctx context.Context, name string) {
	wanted, needed := c.book.wants(name)
	block, err := c.claim(ctx, name, needed)
	c.book.claimed(name, wanted, err)
	switch {
	case err == nil:
		c.metrics.claims.WithLabelValues("ok").Inc()
		c.log.Info("got a block", "block", block.CIDR, "pool", name)
		c.notify()
	case isRefusal(err):
		c.metrics.claims.WithLabelValues("refused").Inc()
		c.log.Warn("ipamd refused a block", "pool", name, "error", err)
	case ctx.Err() == nil:
		c.metrics.claims.WithLabelValues("failed").Inc()
		c.log.Info("claim of a block failed; it is tried again", "pool", name, "error", err)
	}
}

func (c *claims) claim(ctx context.Context, name string, needed bool) (blockRecord, error) {
	s := c.session()
	if s == nil {
		return blockRecord{}, errOffline
	}
	key := c.book.claimKey(name)
	if key == "" {
		key = uuid.NewString()
		if _, err := c.write(ctx, claimRecord{Pool: name, RequestKey: key}); err != nil {
			return blockRecord{}, err
		}
	}
	call, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	answer, err := s.client.ClaimBlock(call, &clearwayv1.ClaimBlockRequest{
		Node: c.options.Node, SessionId: s.id, RequestKey: key, Pool: name, Needed: needed,
	})
	if err != nil {
		s.judge(err)
		return blockRecord{}, err
	}
	c.reach(position{answer.GetIncarnation(), s.term, answer.GetRevision()})
	return c.adoptClaimed(ctx, name, key, answer.GetBlock())
}

// adoptClaimed takes the block that answered a claim. One that cannot be used closes the claim, so that the next one is
// for another block.
func (c *claims) adoptClaimed(ctx context.Context, name, key string, spec *clearwayv1.BlockSpec) (blockRecord, error) {
	r, err := parseBlock(spec)
	if err == nil {
		if why := c.book.valid(r.CIDR); why != "" {
			err = errors.New(why)
		}
	}
	if err != nil {
		c.log.Error("ipamd gave a block that cannot be used", "pool", name, "block", spec.GetCidr(), "error", err)
		_, closeErr := c.write(ctx, claimRecord{Pool: name})
		return r, errors.Join(fmt.Errorf("block %q cannot be used: %w", spec.GetCidr(), err), closeErr)
	}
	r.RequestKey, r.Pool = key, name
	_, err = c.write(ctx, r)
	return r, err
}

// wants tells whether an ADD waits for a block of a pool, and whether it needs one: there is not even an address that
// rests. To cut a rest short is better than to take another node's block.
func (b *book) wants(name string) (wanted, needed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wanted = b.pool(name).wanted
	return wanted, wanted && b.useLocked(name, b.now()).Cooling == 0
}

func (b *book) claimKey(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pool(name).claimKey
}

// claimed notes how a claim ended; wanted: an ADD waited when it was sent.
func (b *book) claimed(name string, wanted bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, now := b.pool(name), b.now()
	p.running = false
	switch err {
	case nil:
		p.wanted, p.refusal, p.refusedSince, p.next = false, "", time.Time{}, time.Time{}
		p.promised = false
		p.retry = nil
	default:
		if isRefusal(err) {
			p.wanted = p.wanted && !wanted // who came meanwhile has not been answered
			p.refusedWanted = wanted
			p.refusal, p.refusedAt = status.Convert(err).Message(), now
			if p.refusedSince.IsZero() {
				p.refusedSince = now
			}
			p.promised = callingBack(err)
		}
		if p.retry == nil {
			p.retry = retryPolicy()
		}
		p.next = now.Add(p.retry.NextBackOff())
		if soon := now.Add(recoveringRetry); isRecovering(err) && soon.Before(p.next) {
			p.next = soon
		}
	}
	b.wakeLocked()
}

// isRefusal tells whether ipamd said no, rather than nothing or "not now".
func isRefusal(err error) bool {
	if isRecovering(err) {
		return true
	}
	switch status.Code(err) {
	case codes.ResourceExhausted:
		return !isTooMany(err)
	case codes.FailedPrecondition, codes.NotFound, codes.InvalidArgument, codes.PermissionDenied,
		codes.Unimplemented, codes.OutOfRange:
		return true
	}
	return false
}

// isTooMany tells whether ipamd refused a call only for how many there were: that says nothing of what was asked.
func isTooMany(err error) bool {
	return slices.ContainsFunc(status.Convert(err).Details(), func(detail any) bool {
		_, retry := detail.(*errdetails.RetryInfo)
		return retry
	})
}

// callingBack tells whether a refusal says that something is being called back for this node.
func callingBack(err error) bool {
	for _, detail := range status.Convert(err).Details() {
		if _, is := detail.(*clearwayv1.CallingBack); is {
			return true
		}
	}
	return false
}

// isRecovering tells whether ipamd gives no block until the other nodes have reported theirs, after a restore.
func isRecovering(err error) bool {
	return slices.ContainsFunc(status.Convert(err).Details(), func(detail any) bool {
		_, is := detail.(*clearwayv1.Recovering)
		return is
	})
}

// errOffline: there is no session with ipamd.
var errOffline = errors.New("ipamd does not answer")
