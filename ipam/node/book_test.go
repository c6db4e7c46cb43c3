package node

import (
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clearway/clearway/ipam/node/journal"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// paper is a journal in memory: it keeps records as the file would, and applies them.
type paper struct {
	snapshot, records []journal.Record
	last              uint64
}

func (p *paper) write(t *rapid.T, b *book, r record) {
	entry, err := encode(r)
	if err != nil {
		t.Fatal(err)
	}
	p.last++
	one := journal.Record{Number: p.last, Type: entry.Type, Payload: entry.Payload}
	p.records = append(p.records, one)
	b.Apply([]journal.Applied{{Record: one, Value: r}})
}

func (p *paper) compact(b *book) {
	p.snapshot, p.records = nil, nil
	for _, entry := range b.Snapshot() {
		p.snapshot = append(p.snapshot, journal.Record{Number: p.last, Type: entry.Type, Payload: entry.Payload})
	}
}

func (p *paper) reopen(t *rapid.T, now func() time.Time) *book {
	b := newBook(slog.New(slog.DiscardHandler), now)
	b.configure(testSettings(t))
	contents := journal.Contents{Last: p.last, Snapshot: p.snapshot, Records: p.records}
	if err := b.load(contents); err != nil {
		t.Fatal(err)
	}
	return b
}

func testSettings(t *rapid.T) *settings {
	s, faults := newSettings(&clearwayv1.NodeSnapshot{Pools: []*clearwayv1.IPPool{{
		ApiVersion: clearwayv1.APIVersion, Kind: "IPPool", Metadata: &clearwayv1.ObjectMeta{Name: "p"},
		Spec: &clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/24", BlockSize: 29},
	}}}, nil)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return s
}

// image is what is durable in a book, for comparison.
type image struct {
	held    map[key]assignment
	blocks  map[netip.Prefix]string
	claims  map[string]string
	resting map[string]time.Time
	boot    string
}

func imageOf(b *book) image {
	all, _ := b.assignments()
	i := image{
		held: map[key]assignment{}, blocks: map[netip.Prefix]string{}, claims: map[string]string{},
		resting: map[string]time.Time{}, boot: b.bootID,
	}
	for _, a := range all {
		one := *a
		one.time = time.Time{} // loses its monotonic reading on disk
		i.held[a.key] = one
	}
	for _, o := range b.blocks {
		i.blocks[o.CIDR] = fmt.Sprint(o.Pool, o.Generation, o.blockRecord.Sealed, o.returnDurable, o.Count(b.now()).Assigned)
		o.Resting(b.now(), func(addr netip.Addr, until time.Time, _ string) { i.resting[addr.String()] = until.Round(0).UTC() })
	}
	for name, p := range b.pools {
		if p.claimKey != "" {
			i.claims[name] = p.claimKey
		}
	}
	return i
}

// TestOneHolderRecoveryIsWhatMemoryWas drives a book through a random life. At any moment the journal, compacted or
// not, gives the same book again, and every held address is assigned in its block, to one holder.
func TestOneHolderRecoveryIsWhatMemoryWas(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Unix(1_700_000_000, 0).UTC()
		clock := func() time.Time { return now }
		b, p := newBook(slog.New(slog.DiscardHandler), clock), &paper{}
		b.configure(testSettings(rt))
		p.write(rt, b, bootRecord{BootID: "b0", Time: now})
		boots := 0
		anyKey := func() key {
			return key{Network: "n", Container: fmt.Sprint("c", rapid.IntRange(0, 9).Draw(rt, "attachment")), Ifname: "eth0"}
		}
		anyBlock := func() netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(8 * rapid.IntRange(0, 3).Draw(rt, "block"))}), 29)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"claim": func(rt *rapid.T) {
				p.write(rt, b, claimRecord{Pool: "p", RequestKey: fmt.Sprint("k", p.last)})
			},
			"own": func(rt *rapid.T) {
				p.write(rt, b, blockRecord{
					CIDR: anyBlock(), Pool: "p", Generation: int64(p.last), RequestKey: b.pool("p").claimKey,
					Sealed: rapid.IntRange(0, 4).Draw(rt, "seal") == 0,
				})
			},
			"lose": func(rt *rapid.T) {
				p.write(rt, b, blockGoneRecord{CIDR: anyBlock(), Generation: int64(p.last)})
			},
			"add": func(rt *rapid.T) {
				k := anyKey()
				if b.heldBy(k) != nil {
					return
				}
				taken, _, err := b.reserve(request{key: k, began: now})
				if err != nil || taken == nil {
					return
				}
				if rapid.IntRange(0, 3).Draw(rt, "disk") == 0 {
					b.undo(taken)
					return
				}
				p.write(rt, b, assignRecord{key: k, Addrs: taken, Time: now})
			},
			"del": func(rt *rapid.T) {
				if a := b.heldBy(anyKey()); a != nil {
					p.write(rt, b, releaseRecord{key: a.key, Number: a.number, Time: now, Until: now.Add(130 * time.Second)})
				}
			},
			"late del": func(rt *rapid.T) {
				if a := b.heldBy(anyKey()); a != nil { // of a generation before
					p.write(rt, b, releaseRecord{key: a.key, Number: a.number - 1, Time: now, Until: now})
					if b.heldBy(a.key) != a {
						rt.Fatal("a late DEL freed a newer holder's address")
					}
				}
			},
			"wait": func(rt *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(rt, "seconds")) * time.Second)
			},
			"compact": func(*rapid.T) { p.compact(b) },
			"boot": func(rt *rapid.T) {
				if rapid.IntRange(0, 5).Draw(rt, "chance") == 0 {
					boots++
					p.write(rt, b, bootRecord{BootID: fmt.Sprint("b", boots), Time: now})
				}
			},
			"": func(rt *rapid.T) {
				was, again := imageOf(b), imageOf(p.reopen(rt, clock))
				if !reflect.DeepEqual(was, again) {
					rt.Fatalf("memory has\n%+v\nthe journal gives\n%+v", was, again)
				}
				seen := map[netip.Addr]key{}
				for k, a := range was.held {
					for _, h := range a.addrs {
						if other, twice := seen[h.Addr]; twice {
							rt.Fatalf("%s is held by %v and %v", h.Addr, k, other)
						}
						seen[h.Addr] = k
						if o := b.blockOf(h.Addr); o != nil && !o.Assigned(h.Addr) {
							rt.Fatalf("%s is held and free", h.Addr)
						}
					}
				}
			},
		})
	})
}

// TestCooledAfterAClockWasSet: a rest ends by the clock since boot while the agent runs. After a restart only the wall's
// time is known: set back by hours, it makes no address rest longer than the cooldown from then on.
func TestCooledAfterAClockWasSet(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Unix(1_700_000_000, 0).UTC()
		clock := func() time.Time { return now }
		b, p := newBook(slog.New(slog.DiscardHandler), clock), &paper{}
		b.configure(testSettings(rt))
		p.write(rt, b, bootRecord{BootID: "b0", Time: now})
		p.write(rt, b, blockRecord{CIDR: netip.MustParsePrefix("10.0.0.0/29"), Pool: "p", Generation: 1})
		for i := range rapid.IntRange(1, 4).Draw(rt, "pods") {
			k := key{Container: fmt.Sprint(i)}
			taken, _, err := b.reserve(request{key: k, began: now})
			if err != nil || taken == nil {
				rt.Fatalf("%v, %v", taken, err)
			}
			p.write(rt, b, assignRecord{key: k, Addrs: taken, Time: now})
			p.write(rt, b, releaseRecord{key: k, Number: b.heldBy(k).number, Time: now, Until: now.Add(130 * time.Second)})
		}
		if rapid.Bool().Draw(rt, "compact") {
			p.compact(b)
		}
		now = now.Add(time.Duration(rapid.IntRange(-36000, 36000).Draw(rt, "seconds")) * time.Second)
		for _, o := range p.reopen(rt, clock).blocks {
			o.Resting(now, func(addr netip.Addr, until time.Time, _ string) {
				if rest := until.Sub(now); rest > 130*time.Second {
					rt.Fatalf("%s rests for %s", addr, rest)
				}
			})
		}
	})
}

// TestMirrorPieces: applying the pieces in order to an empty copy gives what is held, wherever they are cut, and each
// tenure that is over is told once: by the release of what the copy has, or by itself.
func TestMirrorPieces(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b, p := newBook(slog.New(slog.DiscardHandler), time.Now), &paper{}
		copied := map[string]int64{}
		over, told := map[string]int{}, map[string]int{}
		tenure := func(address string, number int64) string { return fmt.Sprint(address, " ", number) }
		after := uint64(0)
		sync := func() {
			piece, ok := b.mirrorPiece(after)
			if !ok {
				rt.Fatal("no piece")
			}
			for _, one := range piece.GetEnded() {
				told[tenure(one.GetAssignment().GetAddress(), one.GetAssignment().GetJournalNumber())]++
			}
			for _, r := range piece.GetReleased() {
				if copied[r.GetAddress()] == r.GetJournalNumber() {
					told[tenure(r.GetAddress(), r.GetJournalNumber())]++
				}
			}
			for _, spec := range piece.GetAssigned() {
				copied[spec.GetAddress()] = spec.GetJournalNumber()
			}
			for _, r := range piece.GetReleased() {
				if copied[r.GetAddress()] <= r.GetJournalNumber() {
					delete(copied, r.GetAddress())
				}
			}
			after = uint64(piece.GetThroughNumber())
		}
		for range rapid.IntRange(0, 60).Draw(rt, "steps") {
			k := key{Container: fmt.Sprint(rapid.IntRange(0, 5).Draw(rt, "attachment"))}
			switch a := b.heldBy(k); {
			case rapid.IntRange(0, 5).Draw(rt, "sync") == 0:
				sync()
			case a != nil:
				p.write(rt, b, releaseRecord{key: k, Number: a.number})
				over[tenure(a.addrs[0].Addr.String(), int64(a.number))]++
			default:
				addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 7).Draw(rt, "address"))})
				if b.holders[addr] == nil {
					p.write(rt, b, assignRecord{key: k, Addrs: []held{{Addr: addr}}})
				}
			}
		}
		for after != p.last {
			sync()
		}
		want := map[string]int64{}
		for addr, a := range b.holders {
			want[addr.String()] = int64(a.number)
		}
		if !reflect.DeepEqual(want, copied) {
			rt.Fatalf("held %v, copied %v", want, copied)
		}
		if !reflect.DeepEqual(over, told) {
			rt.Fatalf("over are %v, told were %v", over, told)
		}
	})
}

func TestChangesAreBoundedAndSaySo(t *testing.T) {
	var l changeLog
	for i := range uint64(3 * maxChanges) {
		l.add(change{number: i + 1})
	}
	if len(l.list) > maxChanges {
		t.Fatalf("%d changes", len(l.list))
	}
	if _, ok := l.since(0, 10); ok {
		t.Fatal("forgotten changes are said to be known")
	}
	got, ok := l.since(3*maxChanges-5, 3)
	numbers := []uint64{}
	for _, c := range got {
		numbers = append(numbers, c.number)
	}
	if !ok || !slices.Equal(numbers, []uint64{3*maxChanges - 4, 3*maxChanges - 3, 3*maxChanges - 2}) {
		t.Fatalf("%v %v", numbers, ok)
	}
}
