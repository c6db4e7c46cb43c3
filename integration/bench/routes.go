package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// packing is how a table is put into UPDATEs.
type packing struct {
	name string
	// perUpdate prefixes share an UPDATE, as far as they fit; nextHops take turns from one UPDATE to the next.
	perUpdate, nextHops int
}

// A cluster of as many nodes as Clearway is made for.
const feedNodes = 5000

var packings = []packing{
	{"packed", 1000, feedNodes},
	{"one an UPDATE", 1, 1},
	{"one an UPDATE, own next hops", 1, feedNodes},
}

// routeCase is one feed, measured so many times.
type routeCase struct {
	size int
	packing
	rounds int
}

const routeLimit = 2 * time.Minute

func (c routeCase) String() string {
	return fmt.Sprintf("%s, %s", groupThousands(int64(c.size)), c.name)
}

func routeCases(env *environment) []routeCase {
	sizes := []struct{ size, rounds int }{
		{1000, env.rounds(7, 3, 1)}, {10_000, env.rounds(5, 3, 1)}, {100_000, env.rounds(2, 1, 1)},
	}
	if env.plan.Scale == Tiny {
		sizes = sizes[:1]
		sizes[0].size = 50
	}
	var cases []routeCase
	for _, each := range sizes {
		for _, packed := range packings {
			cases = append(cases, routeCase{each.size, packed, each.rounds})
		}
	}
	return cases
}

// routeFigures are one contender's, by case.
type routeFigures struct {
	install, withdraw, memory map[routeCase][]float64
}

// runRoutes measures from the first byte of the first UPDATE to the last route in the kernel, and back.
func runRoutes(ctx context.Context, env *environment) (Result, error) {
	routers := []*router{
		{name: "clearway", start: startClearwayRouter},
		{name: "bird", start: startBIRD},
		{name: "frr", start: startFRR},
	}
	return compareRouters(ctx, env, routers)
}

func compareRouters(ctx context.Context, env *environment, routers []*router) (Result, error) {
	feederSide, err := newNamespace()
	if err != nil {
		return Result{}, err
	}
	defer feederSide.close()
	figures := map[string]routeFigures{}
	for i, each := range routers {
		each.subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(64 + i), 0, 0}), 16)
		figures[each.name] = routeFigures{
			map[routeCase][]float64{}, map[routeCase][]float64{}, map[routeCase][]float64{},
		}
		defer each.tearDown()
		env.progress("routes: starting %s", each.name)
		if err := each.bringUp(ctx, env, feederSide); err != nil {
			return Result{}, fmt.Errorf("%s: %w", each.name, err)
		}
		if err := each.proveReady(ctx); err != nil {
			return Result{}, fmt.Errorf("%s: %w", each.name, err)
		}
	}
	cases := routeCases(env)
	for _, this := range cases {
		for round := range this.rounds {
			env.progress("routes: %s, round %d of %d", this, round+1, this.rounds)
			for _, each := range routers {
				if err := each.measure(ctx, this, figures[each.name], routers); err != nil {
					return Result{}, fmt.Errorf("%s, %s: %w", each.name, this, err)
				}
			}
		}
	}
	result := routeResult(cases, routers, figures)
	large, this := map[string]largeFigures{}, largeCaseOf(env.plan.Scale)
	var names []string
	for _, each := range routers {
		env.progress("routes: %s, at rest, %s", groupThousands(int64(this.size)), each.name)
		if large[each.name], err = each.measureLarge(ctx, this, routers); err != nil {
			return Result{}, fmt.Errorf("%s, %d routes: %w", each.name, this.size, err)
		}
		names = append(names, each.name)
	}
	table, targets := largeResult(this, names, large)
	result.Tables, result.Targets = append(result.Tables, table), append(result.Targets, targets...)
	return result, nil
}

// proveReady passes one route through, so that nothing of the start is in the first measurement.
func (r *router) proveReady(ctx context.Context) error {
	one := r.feed(1, packings[1])
	if _, err := r.pass(ctx, one.announce, 1); err != nil {
		return err
	}
	_, err := r.pass(ctx, one.withdraw, 0)
	return err
}

func (r *router) feed(size int, packed packing) feed {
	return newFeed(size, packed.perUpdate, []uint32{feederASN, 64900}, func(update int) netip.Addr {
		return r.nextHop(update % packed.nextHops)
	})
}

// measure does one round of one contender, alone: the others are idle by then.
func (r *router) measure(ctx context.Context, this routeCase, into routeFigures, all []*router) error {
	table := r.feed(this.size, this.packing)
	if err := quiesceAll(ctx, all); err != nil {
		return err
	}
	took, err := r.pass(ctx, table.announce, table.size)
	if err != nil {
		return err
	}
	into.install[this] = append(into.install[this], took)
	if err := quiesceAll(ctx, all); err != nil {
		return err
	}
	if err := r.verify(table.size); err != nil {
		return err
	}
	memory, err := r.residentMiB()
	if err != nil {
		return err
	}
	into.memory[this] = append(into.memory[this], memory)
	if took, err = r.pass(ctx, table.withdraw, 0); err != nil {
		return fmt.Errorf("withdrawal: %w", err)
	}
	into.withdraw[this] = append(into.withdraw[this], took)
	return nil
}

// pass writes messages and gives the milliseconds from the first byte until the kernel has as many routes.
func (r *router) pass(ctx context.Context, messages []byte, want int) (float64, error) {
	began := time.Now()
	wrote := make(chan error, 1)
	go func() { wrote <- r.feeder.write(messages) }()
	ended, err := r.watch.await(ctx, want, routeLimit, r.check)
	if err != nil {
		r.feeder.close() // the writer may be stuck behind a router that reads no more
		return 0, errors.Join(err, <-wrote)
	}
	return milliseconds(ended.Sub(began)), <-wrote
}

// verify holds the count of notifications against a dump of the table.
func (r *router) verify(want int) error {
	got, err := r.within.countRoutes()
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("the kernel's table has %d of %d routes, though it told of all", got, want)
	}
	return nil
}

func quiesceAll(ctx context.Context, routers []*router) error {
	var all []*process
	for _, each := range routers {
		all = append(append(all, each.processes...), each.helpers...)
	}
	return quiesce(ctx, 10*time.Second, all...)
}

func routeResult(cases []routeCase, routers []*router, figures map[string]routeFigures) Result {
	var names []string
	for _, each := range routers {
		names = append(names, each.name)
	}
	table := func(title, unit string, of func(routeFigures) map[routeCase][]float64) Table {
		made := Table{Title: title, Contenders: names}
		for _, this := range cases {
			var medians []float64
			for _, name := range names {
				medians = append(medians, median(of(figures[name])[this]))
			}
			made.Rows = append(made.Rows, row(this.String(), unit, medians...))
		}
		return made
	}
	result := Result{
		Method: routeMethod,
		Tables: []Table{
			table("First UPDATE to last kernel route", "ms", func(f routeFigures) map[routeCase][]float64 { return f.install }),
			table("First withdrawal to last route gone", "ms", func(f routeFigures) map[routeCase][]float64 { return f.withdraw }),
			table("Resident memory with these routes", "MiB", func(f routeFigures) map[routeCase][]float64 { return f.memory }),
		},
	}
	for i, this := range cases {
		if this.size == 10_000 {
			ratio := result.Tables[0].Rows[i].ratio(1)
			result.Targets = append(result.Targets, atMost(this.String()+": in the kernel", "BIRD", ratio, 2))
		}
	}
	return result
}

var routeMethod = []string{
	"Each router runs in a network namespace of its own, with one eBGP session to a feeder that writes prepared bytes as fast as the socket takes them.",
	"The prefixes are /26 blocks. \"Packed\": as many in an UPDATE as fit, some 800, with a next hop for each UPDATE. \"One an UPDATE\": all by the same next hop, as a ToR sends them that names itself. \"Own next hops\": 5,000 nodes in turn, as a route reflector sends them.",
	"Routes are counted by the kernel's notifications, read every 0.2 ms by a reader that nobody has to wake; a dump of the table then confirms the count.",
	"Medians of rounds that alternate between the routers; before each, all of them have gone idle.",
	"Memory is the resident size of clearway-agent, of bird, and of bgpd and zebra together, once all routes are in and the router is idle; for the largest table, 10 s later. ipamd is not counted: it is no router and runs elsewhere.",
	"One route of the largest table is withdrawn and told again, 21 times; the time is from its UPDATE to the kernel's route.",
	"BIRD and FRR run as the distribution builds them, with default settings but for FRR's \"no bgp ebgp-requires-policy\". Clearway imports with \"importScope: All\".",
}
