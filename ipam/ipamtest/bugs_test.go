package ipamtest_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc"

	"github.com/clearway/clearway/ipam/server"
	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

var linearTime = flag.Duration("linear.time", 5*time.Second, "how long blocks are claimed for the proof of linearizability")

// bug is what is broken on purpose, around ipamd. The zero value breaks nothing.
type bug struct {
	store  func(server.Store) server.Store
	meddle grpc.UnaryServerInterceptor
}

// TestBugsAreFound breaks what keeps blocks apart, one thing at a time: the history of a few claims must tell, and must
// tell nothing where nothing is broken.
func TestBugsAreFound(t *testing.T) {
	office := &newest{}
	for _, c := range []struct {
		name   string
		broken bug
		want   porcupine.CheckResult
	}{
		{"nothing is broken", bug{}, porcupine.Ok},
		{"no fence", bug{store: func(s server.Store) server.Store { return &unfenced{s, office} }}, porcupine.Illegal},
		{"blocks forgotten", bug{store: func(s server.Store) server.Store { return &amnesia{s} }}, porcupine.Illegal},
		{"release without compare", bug{meddle: newForgetful().meddle}, porcupine.Illegal},
	} {
		t.Run(c.name, func(t *testing.T) {
			made := newClaimers(t, c.broken)
			made.tempt()
			if got := made.judge(); got != c.want {
				t.Errorf("the history of %d steps is %s, want %s: %+v", len(made.history), got, c.want, made.history)
			}
		})
	}
}

// tempt leads an allocator into temptation: a release that comes late, when another has the block, and a leader that has
// lost its office and was not told.
func (c *claimers) tempt() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	first, second := c.claimer(0, 1), c.claimer(1, 1)
	var all []claimed
	for range 8 { // the whole pool
		got, ok := first.claim(ctx)
		if !ok {
			c.t.Fatal("no block")
		}
		all = append(all, got)
	}
	first.release(ctx, all[0])
	for ok := false; !ok && ctx.Err() == nil; { // it is free after a moment
		_, ok = second.claim(ctx)
	}
	first.release(ctx, all[0]) // again, of what is another's by now
	first.release(ctx, all[1])
	old := c.trio.leader()
	old.depose(c.records)
	eventually(c.t, "another leads", func() error {
		for _, r := range c.trio.replicas {
			if r != old && r.leads() {
				return nil
			}
		}
		return errors.New("none does")
	})
	until, stop := context.WithTimeout(ctx, 4*time.Second)
	defer stop()
	var claiming sync.WaitGroup
	for i, r := range c.trio.replicas {
		one := c.claimer(2+i, 1)
		one.only = r
		claiming.Go(func() {
			for until.Err() == nil {
				one.claim(until)
				pause(until, one.random, 50*time.Millisecond)
			}
		})
	}
	claiming.Wait()
}

// newest is the newest term that anybody has.
type newest struct {
	mu   sync.Mutex
	term record.Term
}

// unfenced writes in whatever term there is, without a guard, and never learns that its own is over.
type unfenced struct {
	server.Store
	office *newest
}

func (s *unfenced) Campaign(ctx context.Context, address string) (record.Term, error) {
	term, err := s.Store.Campaign(ctx, address)
	if err != nil {
		return term, err
	}
	s.office.mu.Lock()
	defer s.office.mu.Unlock()
	s.office.term = term
	return record.Term{Revision: term.Revision, Lost: make(chan struct{})}, nil
}

func (s *unfenced) Commit(ctx context.Context, _ record.Term, txn record.Txn) (int64, error) {
	s.office.mu.Lock()
	term := s.office.term
	s.office.mu.Unlock()
	return s.Store.Commit(ctx, term, record.Txn{Ops: txn.Ops})
}

// amnesia reads no blocks when it takes office, so that the check for overlap knows none.
type amnesia struct{ server.Store }

func (s *amnesia) Load(ctx context.Context, each func(record.Record) error) (int64, error) {
	return s.Store.Load(ctx, func(one record.Record) error {
		if one.Key.Room() == record.Blocks {
			return nil
		}
		return each(one)
	})
}

// forgetful lets every release free whoever owns the block by now.
type forgetful struct {
	mu       sync.Mutex
	sessions map[string]string  // by node
	owners   map[string]claimed // by block
}

func newForgetful() *forgetful {
	return &forgetful{sessions: map[string]string{}, owners: map[string]claimed{}}
}

func (f *forgetful) meddle(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	f.mu.Lock()
	if release, ok := request.(*clearwayv1.ReleaseBlockRequest); ok {
		owner := f.owners[release.GetCidr()]
		release.Node, release.Generation, release.SessionId = owner.node, owner.generation, f.sessions[owner.node]
	}
	f.mu.Unlock()
	answer, err := handle(ctx, request)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch got := answer.(type) {
	case *clearwayv1.RegisterResponse:
		f.sessions[request.(*clearwayv1.RegisterRequest).GetNode()] = got.GetSessionId()
	case *clearwayv1.ClaimBlockResponse:
		block := got.GetBlock()
		f.owners[block.GetCidr()] = claimed{block.GetNode(), block.GetCidr(), block.GetGeneration()}
	}
	return answer, err
}

// TestAgentsBugsAreFound breaks what keeps addresses apart on one node: the ledger of the Pods must tell, and must tell
// nothing where nothing is broken.
func TestAgentsBugsAreFound(t *testing.T) {
	for _, c := range []struct {
		name, want string
		between    func(t *testing.T, m *machine, before string)
	}{
		{"nothing is broken", "", func(_ *testing.T, m *machine, _ string) { m.restart(true) }},
		{"answered before fsync", "OneHolder", func(t *testing.T, m *machine, before string) {
			m.stop() // and what was written since is lost with the power
			m.mu.Lock()
			defer m.mu.Unlock()
			dir := m.folderLocked()
			copyFolder(t, before, dir)
			m.startLocked(dir)
		}},
		{"freed on missing information", "CHECK", func(t *testing.T, m *machine, _ string) {
			if _, err := m.process().api.GC(t.Context(), &clearwayv1.GCRequest{Network: "pods"}); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSoak(t, 1)
			m := s.machines[0]
			if !m.add("n0-first", 20*time.Second) {
				t.Fatal("no address")
			}
			s.compare("the mirror has the first Pod")
			for _, r := range s.trio.replicas { // nothing is mirrored from here on, and nobody is told of a loss
				r.kill(true)
			}
			before := filepath.Join(t.TempDir(), "before")
			if err := os.MkdirAll(before, 0o700); err != nil {
				t.Fatal(err)
			}
			copyFolder(t, m.process().dir, before)
			if !m.add("n0-second", 5*time.Second) {
				t.Fatal("no address")
			}
			c.between(t, m, before)
			if !m.add("n0-third", 5*time.Second) {
				t.Fatal("no address")
			}
			for _, pod := range []string{"n0-first", "n0-second", "n0-third"} {
				m.check(pod)
			}
			if told := strings.Join(s.ledger.told(), "\n"); (told == "") != (c.want == "") || !strings.Contains(told, c.want) {
				t.Errorf("told %q, want %q", told, c.want)
			}
		})
	}
}
