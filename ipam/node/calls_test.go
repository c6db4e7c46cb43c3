package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/ipam/node/nodetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// halved is an ipamd with a pool of one block of 16 addresses, whose low half fills first.
func halved(t testing.TB) *nodetest.IPAMD {
	d := nodetest.New(t)
	d.Pool("pods", &clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/28", BlockSize: 28, MinBlockSize: 30})
	return d
}

const (
	wholeBlock, lowHalf, highHalf = "10.0.0.0/28", "10.0.0.0/29", "10.0.0.8/29"
)

// advertisements are the different sets of blocks that the agent told its other half, in order.
func (a *agent) advertisements() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []string
	for _, s := range a.states {
		if text := fmt.Sprint(s.Blocks); len(all) == 0 || all[len(all)-1] != text {
			all = append(all, text)
		}
	}
	return all
}

func (a *agent) holdsOnly(d *nodetest.IPAMD, block string) {
	a.t.Helper()
	nodetest.Eventually(a.t, "the other half is given back", func() bool {
		return slices.Equal(d.Blocks("n1"), []string{block}) && fmt.Sprint(a.book.advertised()) == "["+block+"]" && len(a.book.specs()) == 1
	})
}

// The kept half is advertised before the whole is withdrawn, and the mirror names it as the block of its addresses.
func TestCallBackOfAHalf(t *testing.T) {
	d := halved(t)
	a := run(t, d, t.TempDir())
	held := a.mustAdd("c1")
	d.CallBack(wholeBlock, highHalf, "id1")
	a.holdsOnly(d, lowHalf)
	want := []string{"[" + wholeBlock + "]", "[" + lowHalf + " " + wholeBlock + "]", "[" + lowHalf + "]"}
	got := a.advertisements()
	if got[0] == "[]" {
		got = got[1:]
	}
	if swapped := []string{want[0], "[" + wholeBlock + " " + lowHalf + "]", want[2]}; !slices.Equal(got, want) && !slices.Equal(got, swapped) {
		t.Errorf("advertised %v, want %v", got, want)
	}
	if again := a.mustAdd("c1"); !slices.Equal(again, held) {
		t.Errorf("%v, then %v", held, again)
	}
	nodetest.Eventually(t, "the mirror has the new block", func() bool {
		mirror, _ := d.Mirror("n1")
		return len(mirror) == 1 && mirror["10.0.0.2"].GetBlock() == lowHalf && mirror["10.0.0.2"].GetJournalNumber() > 0
	})
	a.mustDel("c1")
	nodetest.Eventually(t, "the mirror has the release", func() bool { mirror, _ := d.Mirror("n1"); return len(mirror) == 0 })
}

// While a half is called back no ADD gets an address of it, and each ADD gets one of the other half.
func TestOneHolderWhileAHalfIsCalledBack(t *testing.T) {
	d := halved(t)
	a := run(t, d, t.TempDir())
	a.mustAdd("c0")
	d.Fail("AnswerCallBack", status.Error(codes.Unavailable, "not now"))
	d.CallBack(wholeBlock, highHalf, "id1")
	nodetest.Eventually(t, "the agent has sealed it and answers", func() bool { return d.Calls("AnswerCallBack") > 0 })
	for i := range 5 {
		if got := a.mustAdd(fmt.Sprint("c", i+1)); !netip.MustParsePrefix(lowHalf).Contains(netip.MustParsePrefix(got[0]).Addr()) {
			t.Fatalf("%v is of the half that is called back", got)
		}
	}
	_, err := a.api.Add(t.Context(), &clearwayv1.AddRequest{Attachment: attachment("more")})
	wantCode(t, err, cniTryLater, "")
	_, err = a.add("static", func(r *clearwayv1.AddRequest) { r.Addresses = []string{"10.0.0.9"} })
	wantCode(t, err, cniTryLater, "sealed")

	// It is taken back: the half gives addresses again.
	d.CallBack(wholeBlock, "", "")
	nodetest.Eventually(t, "the half is open", func() bool { _, err := a.add("more"); return err == nil })
}

// A quarter is called back, and Pods in both halves keep their roads: each part is advertised before the whole goes.
func TestCallBackOfAQuarter(t *testing.T) {
	d := halved(t)
	a := run(t, d, t.TempDir())
	low := a.mustAdd("low")
	high := a.mustAdd("high", func(r *clearwayv1.AddRequest) { r.Addresses = []string{"10.0.0.9"} })
	d.CallBack(wholeBlock, "10.0.0.12/30", "id1")
	nodetest.Eventually(t, "the quarter is given back", func() bool {
		return fmt.Sprint(d.Blocks("n1")) == "[10.0.0.0/29 10.0.0.8/30]" && fmt.Sprint(a.book.advertised()) == "[10.0.0.0/29 10.0.0.8/30]"
	})
	for _, text := range a.advertisements()[1:] {
		if text != "["+wholeBlock+"]" && !strings.Contains(text, lowHalf) {
			t.Errorf("advertised %v", a.advertisements())
		}
	}
	if err := a.checkHolds("low", low...); err != nil {
		t.Error(err)
	}
	if err := a.checkHolds("high", high...); err != nil {
		t.Error(err)
	}
}

func TestCallBackIsDeclined(t *testing.T) {
	d := halved(t)
	a := run(t, d, t.TempDir())
	a.mustAdd("low")
	a.mustAdd("high", func(r *clearwayv1.AddRequest) { r.Addresses = []string{"10.0.0.9"} })
	for i, test := range []struct{ called, words string }{
		{highHalf, "an address of the part is assigned"}, {wholeBlock, "an address of the block is assigned"},
		{"10.0.0.0/27", "no part of the block"}, {"10.1.0.0/29", "no part of the block"},
	} {
		d.CallBack(wholeBlock, test.called, fmt.Sprint("id", i))
		nodetest.Eventually(t, "it is declined", func() bool { return len(d.Refusals()) == i+1 })
		if got := d.Refusals()[i]; !strings.Contains(got, test.words) {
			t.Errorf("%s: %q does not tell %q", test.called, got, test.words)
		}
	}
	a.mustAdd("still")
	a.mustDel("high")
	d.CallBack(wholeBlock, highHalf, "again")
	a.holdsOnly(d, lowHalf)
}

// An answer that could not be sent is sent again, although ipamd says nothing new.
func TestCallBackIsAnsweredInTheEnd(t *testing.T) {
	d := halved(t)
	a := run(t, d, t.TempDir())
	a.mustAdd("low")
	d.Fail("AnswerCallBack", status.Error(codes.Unavailable, "not now"))
	d.CallBack(wholeBlock, lowHalf, "id1")
	nodetest.Eventually(t, "it is declined again and again", func() bool { return d.Calls("AnswerCallBack") >= 4 })
	d.Fail("AnswerCallBack", nil)
	nodetest.Eventually(t, "it is declined", func() bool { return len(d.Refusals()) > 0 })
}

// A block that drains while a part of it is called back goes back when that is over: what ipamd makes of the answer is
// not known before.
func TestCallBackGoesBeforeDrain(t *testing.T) {
	d := halved(t)
	a := run(t, d, t.TempDir())
	a.mustAdd("c1")
	d.Fail("AnswerCallBack", status.Error(codes.Unavailable, "not now"))
	d.CallBack(wholeBlock, highHalf, "id1")
	nodetest.Eventually(t, "the agent has sealed it and answers", func() bool { return d.Calls("AnswerCallBack") > 0 })
	d.Pool("pods", &clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/28", BlockSize: 28, MinBlockSize: 30, Drain: true})
	nodetest.Eventually(t, "the node knows", func() bool {
		a.book.mu.Lock()
		defer a.book.mu.Unlock()
		return a.book.blocks[0].draining
	})
	a.mustDel("c1")
	if got := a.book.returnable(); len(got) > 0 {
		t.Errorf("gives back %v, of which a part is called back", got)
	}
	d.CallBack(wholeBlock, "", "")
	nodetest.Eventually(t, "it is given back", func() bool { return len(d.Blocks("n1")) == 0 })
}

// Of a part whose journal was lost before it was given back nobody knows which addresses rest: all of them do.
func TestCooledPartOfALostJournal(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		name  string
		part  blockRecord
		rests time.Time
	}{
		{"known", blockRecord{Parent: netip.MustParsePrefix(wholeBlock)}, time.Time{}},
		{"salvaged", blockRecord{Parent: netip.MustParsePrefix(wholeBlock), Sealed: true}, now.Add(130 * time.Second)},
		{"lost", blockRecord{}, now.Add(130 * time.Second)},
	} {
		b := newBook(slog.New(slog.DiscardHandler), func() time.Time { return now })
		test.part.CIDR, test.part.Withdrawing = netip.MustParsePrefix(highHalf), true
		b.addBlock(test.part)
		b.setOnline(true)
		now = now.Add(overlapTime)
		if !b.beginWithdrawals() {
			t.Fatalf("%s: it is not given back", test.name)
		}
		if got := b.blocks[0].returning.RestUntil; !test.rests.IsZero() && got.Before(test.rests) || test.rests.IsZero() && !got.IsZero() {
			t.Errorf("%s: it rests until %v, want %v", test.name, got, test.rests)
		}
	}
}

func TestCallBackOfAWholeFreeBlock(t *testing.T) {
	d := nodetest.New(t)
	d.Pool("pods", &clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/28", BlockSize: 29})
	a := run(t, d, t.TempDir())
	a.mustAdd("c1")
	d.Grant("n1", "pods", "10.0.0.8/29")
	a.stop()
	a = run(t, d, t.TempDir()+"/none", func(o *Options) { o.DataDir = a.options.DataDir })
	nodetest.Eventually(t, "both blocks are there", func() bool { return len(a.book.advertised()) == 2 })
	d.CallBack("10.0.0.8/29", "10.0.0.8/29", "id1")
	a.holdsOnly(d, "10.0.0.0/29")
	if got, err := a.add("c2"); err != nil {
		t.Errorf("%v, %v", got, err)
	}
}

// killAt stops an agent as kill -9 would at the moment when a condition holds, and starts another one on what is on disk
// then: a copy of the folder, taken while the first still ran.
func killAt(t *testing.T, d *nodetest.IPAMD, a *agent, what string, holds func() bool) *agent {
	t.Helper()
	nodetest.Eventually(t, what, holds)
	dir := t.TempDir()
	copyJournal(t, a.options.DataDir, dir)
	d.Stop() // what the first one still says is not heard
	a.stop()
	d.Start()
	return run(t, d, dir)
}

func copyJournal(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(from, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the agent lives: what it was just writing has another name by now
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, entry.Name()), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The agent is killed between any two steps; each time the next one goes on where it was, and the Pod's address is in an
// advertised block all the while.
func TestCallBackGoesOnAfterEachKill(t *testing.T) {
	unavailable := status.Error(codes.Unavailable, "lost")
	for name, test := range map[string]struct {
		hinder func(*nodetest.IPAMD)
		at     func(*nodetest.IPAMD, *agent) bool
		help   func(*nodetest.IPAMD)
	}{
		"asked": {
			hinder: func(d *nodetest.IPAMD) {},
			at:     func(d *nodetest.IPAMD, a *agent) bool { return true },
			help:   func(d *nodetest.IPAMD) {},
		},
		"sealed": {
			hinder: func(d *nodetest.IPAMD) { d.Fail("AnswerCallBack", unavailable) },
			at:     func(d *nodetest.IPAMD, a *agent) bool { return d.Calls("AnswerCallBack") > 0 },
			help:   func(d *nodetest.IPAMD) { d.Fail("AnswerCallBack", nil) },
		},
		"split, and the answer lost": {
			hinder: func(d *nodetest.IPAMD) { d.LoseReply("AnswerCallBack", unavailable) },
			at:     func(d *nodetest.IPAMD, a *agent) bool { return len(d.Blocks("n1")) == 2 },
			help:   func(d *nodetest.IPAMD) { d.LoseReply("AnswerCallBack", nil) },
		},
		"both advertised": {
			hinder: func(d *nodetest.IPAMD) {},
			at:     func(d *nodetest.IPAMD, a *agent) bool { return len(a.book.advertised()) == 2 },
			help:   func(d *nodetest.IPAMD) {},
		},
		"withdrawn": {
			hinder: func(d *nodetest.IPAMD) { d.Fail("ReleaseBlock", unavailable) },
			at:     func(d *nodetest.IPAMD, a *agent) bool { return d.Calls("ReleaseBlock") > 0 },
			help:   func(d *nodetest.IPAMD) { d.Fail("ReleaseBlock", nil) },
		},
		"given back, and the answer lost": {
			hinder: func(d *nodetest.IPAMD) { d.LoseReply("ReleaseBlock", unavailable) },
			at:     func(d *nodetest.IPAMD, a *agent) bool { return len(d.Blocks("n1")) == 1 && d.Calls("ReleaseBlock") > 0 },
			help:   func(d *nodetest.IPAMD) { d.LoseReply("ReleaseBlock", nil) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := halved(t)
			a := run(t, d, t.TempDir())
			held := a.mustAdd("c1")
			addr := netip.MustParsePrefix(held[0]).Addr()
			test.hinder(d)
			d.CallBack(wholeBlock, highHalf, "id1")
			a = killAt(t, d, a, name, func() bool { return test.at(d, a) })
			test.help(d)
			a.holdsOnly(d, lowHalf)
			if again := a.mustAdd("c1"); !slices.Equal(again, held) {
				t.Errorf("%v, then %v", held, again)
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			for _, s := range a.states {
				if !slices.ContainsFunc(s.Blocks, func(p netip.Prefix) bool { return p.Contains(addr) }) {
					t.Errorf("%s has no route: %v", addr, s.Blocks)
				}
			}
			if stranded := a.book.stranded(netip.MustParsePrefix(wholeBlock)); len(stranded) > 0 {
				t.Error(stranded)
			}
			for _, event := range d.Events() {
				if event.GetReason() == "BlockLost" {
					t.Error(event)
				}
			}
		})
	}
}

// An ADD waits for what is being called back, and gets it when it comes; without it, code 11 at its deadline.
func TestAddWaitsForWhatIsCalledBack(t *testing.T) {
	refusal, err := status.New(codes.ResourceExhausted, "the pool is full; one is being called back").WithDetails(&clearwayv1.CallingBack{})
	if err != nil {
		t.Fatal(err)
	}
	d := halved(t)
	d.Fail("ClaimBlock", refusal.Err())
	a := run(t, d, t.TempDir())
	nodetest.Eventually(t, "the agent is ready", a.Ready)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = a.api.Add(ctx, &clearwayv1.AddRequest{Attachment: attachment("late")})
	wantCode(t, err, cniTryLater, "one is being called back")

	got := make(chan error, 1)
	go func() { _, err := a.add("c1"); got <- err }()
	calls := d.Calls("ClaimBlock")
	nodetest.Eventually(t, "it is asked for again", func() bool { return d.Calls("ClaimBlock") > calls+1 })
	d.Fail("ClaimBlock", nil)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

// A block that another node had until now rests with its addresses: they are given last, and under pressure.
func TestCooledAddressesOfAnotherOwner(t *testing.T) {
	d := halved(t)
	d.Rest("pods", time.Now().Add(time.Hour))
	a := run(t, d, t.TempDir())
	nodetest.Eventually(t, "the block is there", func() bool { return len(a.book.advertised()) == 1 })
	a.book.mu.Lock()
	use := a.book.useLocked("pods", time.Now())
	a.book.mu.Unlock()
	if use.Ready != 0 || use.Cooling != 13 {
		t.Fatalf("%+v", use)
	}
	a.mustAdd("c1") // nothing else is to be had
}
