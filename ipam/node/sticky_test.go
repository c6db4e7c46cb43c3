package node

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/clearway/clearway/ipam/node/nodetest"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// named is an ADD of a Pod of a name, or of an owner by annotation.
func named(pod, owner string) func(*clearwayv1.AddRequest) {
	return func(r *clearwayv1.AddRequest) {
		r.Pod = &clearwayv1.Pod{Namespace: "db", Name: pod}
		if owner != "" {
			r.Annotations = map[string]string{"clearway.io/owner": owner}
		}
	}
}

// The sticky owner: who had an address gets it again while it rests, also after a restart, and nobody else does.
func TestCooledStickyOwner(t *testing.T) {
	for name, again := range map[string]func(*clearwayv1.AddRequest){
		"pod":   named("db-0", ""),
		"owner": named("db-1", "vm"),
	} {
		t.Run(name, func(t *testing.T) {
			d, dir := dualStack(t), t.TempDir()
			a := run(t, d, dir)
			first := a.mustAdd(name+"1", again)
			a.mustDel(name + "1")
			if other := a.mustAdd(name+"2", named("db-2"+name, "")); slices.Equal(first, other) {
				t.Errorf("another owner got %v", other)
			}
			if got := a.mustAdd(name+"3", again); !slices.Equal(got, first) {
				t.Errorf("%v, then %v", first, got)
			}
			a.mustDel(name + "3")
			a.stop()
			a = run(t, d, dir)
			if got := a.mustAdd(name+"4", again); !slices.Equal(got, first) {
				t.Errorf("after a restart: %v, then %v", first, got)
			}
			a.mustDel(name + "4")
			a.mustAdd(name+"5", func(r *clearwayv1.AddRequest) { again(r); r.Attachment.Ifname = "eth1" })
			if got := a.mustAdd(name+"6", again); !slices.Equal(got, first) {
				t.Errorf("beside another interface: %v, then %v", first, got)
			}
		})
	}
}

// An address whose rest was not cut short by its owner's ADD rests on for him.
func TestCooledStickyOwnerAfterAFailedAdd(t *testing.T) {
	d := nodetest.New(t)
	d.Pool("v4", &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/16"})
	d.Pool("v6", &clearwayv1.IPPoolSpec{Cidr: "fd00:1::/124", BlockSize: 124})
	a := run(t, d, t.TempDir())
	four := func(r *clearwayv1.AddRequest) {
		named("db-0", "")(r)
		r.Annotations = map[string]string{"clearway.io/families": "IPv4"}
	}
	first := a.mustAdd("c1", four)
	a.mustDel("c1")
	for i := range 14 {
		a.mustAdd(fmt.Sprint("filler", i), func(r *clearwayv1.AddRequest) { r.Annotations = map[string]string{"clearway.io/families": "IPv6"} })
	}
	_, err := a.add("c2", named("db-0", "")) // its IPv4 address is there, and no IPv6 address
	wantCode(t, err, cniTryLater, "no address is free")
	if held, _ := a.book.assignments(); len(held) != 14 || len(a.book.reserved) != 0 {
		t.Fatalf("the refused ADD left %d assignments, %v", len(held), a.book.reserved)
	}
	if got := a.mustAdd("c3", four); !slices.Equal(got, first) {
		t.Errorf("%v, then %v", first, got)
	}
}

// What is remembered of owners is bounded by what rests.
func TestStickiesAreBounded(t *testing.T) {
	d := nodetest.New(t)
	d.Pool("v4", &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/16", BlockSize: 26})
	d.Configure(&clearwayv1.IPAMConfigurationSpec{Cooldown: "1ms"})
	a := run(t, d, t.TempDir())
	for i := range 3 * leastSweep {
		a.mustAdd("c", named(fmt.Sprint("web-", i), ""))
		a.mustDel("c")
	}
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	if n := len(a.book.sticky.addrs); n > leastSweep {
		t.Errorf("%d owners are remembered", n)
	}
}

func TestStaticAddressElsewhereNamesItsOwner(t *testing.T) {
	d := dualStack(t)
	a := run(t, d, t.TempDir())
	a.mustAdd("c1")
	d.Grant("n2", "v4", "10.244.200.0/26")
	nodetest.Eventually(t, "the ownership log names it", func() bool {
		_, block := a.ownerOf(netip.MustParseAddr("10.244.200.0"))
		return block != ""
	})
	ask := func(r *clearwayv1.AddRequest) { r.Addresses = []string{"10.244.200.1"} }
	began := time.Now()
	_, err := a.add("c2", ask)
	wantCode(t, err, cniBadConfig, `block 10.244.200.0/26 with it is node "n2"'s`)
	wantCode(t, err, cniBadConfig, "Floating")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the refusal took %s", took)
	}
}

func TestNamedErrorsOfOwners(t *testing.T) {
	a := run(t, dualStack(t), t.TempDir())
	_, err := a.add("c1", named("db-0", "Not A Name"))
	wantCode(t, err, cniBadConfig, "clearway.io/owner")
}
