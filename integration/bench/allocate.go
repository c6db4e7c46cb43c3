package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/plain"
)

const allocateLimit = 30 * time.Second

// allocateResources let the addresses of one phase serve the next, so that no phase waits for a new block: what a
// block costs is another measurement.
const allocateResources = `---
apiVersion: clearway.io/v1
kind: IPAMConfiguration
metadata: {name: default}
spec: {cooldown: 0s, lowWater: 1024, blockIdleTime: 0s}
`

// phase is so many callers, each with its own connection, that make so many calls together.
type phase struct {
	callers, calls int
	// general: by grpc-go's client instead of the plugin's.
	general bool
}

func (p phase) String() string {
	text := fmt.Sprintf("%d callers", p.callers)
	if p.callers == 1 {
		text = "1 caller"
	}
	if p.general {
		text += ", by grpc-go's client"
	}
	return text
}

// phaseFigures are a phase's, over its rounds.
type phaseFigures struct {
	times, fsync, rates []float64
}

// runAllocate measures AddressService.Add on the agent's socket, beside what the disk alone costs.
func runAllocate(ctx context.Context, env *environment) (Result, error) {
	dir, err := env.folder("allocate")
	if err != nil {
		return Result{}, err
	}
	env.progress("allocate: starting ipamd and agent")
	daemons, err := startAddressing(ctx, env, dir, allocateResources)
	defer daemons.close()
	if err != nil {
		return Result{}, err
	}
	phases := []phase{
		{callers: 1, calls: env.pick(2000, 500, 5)},
		{callers: 16, calls: env.pick(16_000, 4000, 32)},
		{callers: 16, calls: env.pick(16_000, 4000, 32), general: true},
		{callers: 64, calls: env.pick(32_000, 8000, 64)},
	}
	callers, err := connectCallers(ctx, daemons.socket, phases[len(phases)-1].callers)
	defer closeCallers(callers)
	if err != nil {
		return Result{}, err
	}
	figures, err := allocateRounds(ctx, env, dir, daemons, callers, phases)
	if err != nil {
		return Result{}, err
	}
	return allocateResult(phases, figures), nil
}

func allocateRounds(ctx context.Context, env *environment, dir string, daemons addressing, callers []*caller, phases []phase) ([]phaseFigures, error) {
	env.progress("allocate: claiming the blocks that the phases need")
	if _, _, err := allocate(ctx, callers, phases[len(phases)-1], "warm"); err != nil {
		return nil, err
	}
	figures := make([]phaseFigures, len(phases))
	rounds := env.rounds(3, 1, 1)
	for round := range rounds {
		for i, this := range phases {
			env.progress("allocate: %v, round %d of %d", this, round+1, rounds)
			// The mirror of the phase before is written by then.
			if err := quiesce(ctx, 10*time.Second, daemons.ipamd, daemons.agent); err != nil {
				return nil, err
			}
			fsync, err := measureFsync(ctx, dir, env.pick(500, 200, 5))
			if err != nil {
				return nil, err
			}
			times, rate, err := allocate(ctx, callers, this, fmt.Sprintf("round-%d-%d", round, i))
			if err != nil {
				return nil, err
			}
			into := &figures[i]
			into.fsync, into.times, into.rates = append(into.fsync, fsync...), append(into.times, times...), append(into.rates, rate)
		}
	}
	return figures, nil
}

// caller is one client, with connections of its own.
type caller struct {
	plugin  *pluginClient
	general *generalClient
}

// by is the client that a phase calls with.
func (c *caller) by(this phase) client {
	if this.general {
		return c.general
	}
	return c.plugin
}

// client asks for addresses.
type client interface {
	add(ctx context.Context, name string) error
	del(ctx context.Context, name string) error
}

const benchNetwork, benchInterface, benchNetns = "bench", "eth0", "/proc/self/ns/net"

// pluginClient is the client that the plugin has.
type pluginClient struct {
	connection net.Conn
	client     *plain.Client
}

func (p *pluginClient) add(_ context.Context, name string) error {
	_, err := p.client.Add(&plain.AddRequest{
		Attachment: plain.Attachment{Network: benchNetwork, ContainerID: name, Ifname: benchInterface},
		Pod:        &plain.Pod{Namespace: benchNetwork, Name: name, UID: name},
		Netns:      benchNetns,
	}, time.Now().Add(allocateLimit))
	return err
}

func (p *pluginClient) del(_ context.Context, name string) error {
	return p.client.Del(&plain.DelRequest{
		Attachment: plain.Attachment{Network: benchNetwork, ContainerID: name, Ifname: benchInterface},
	}, time.Now().Add(allocateLimit))
}

// generalClient is the client of any gRPC program.
type generalClient struct {
	connection *grpc.ClientConn
	client     clearwayv1.AddressServiceClient
}

func (g *generalClient) add(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, allocateLimit)
	defer cancel()
	_, err := g.client.Add(ctx, &clearwayv1.AddRequest{
		Attachment: &clearwayv1.Attachment{Network: benchNetwork, ContainerId: name, Ifname: benchInterface},
		Pod:        &clearwayv1.Pod{Namespace: benchNetwork, Name: name, Uid: name},
		Netns:      benchNetns,
	})
	return err
}

func (g *generalClient) del(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, allocateLimit)
	defer cancel()
	_, err := g.client.Del(ctx, &clearwayv1.DelRequest{
		Attachment: &clearwayv1.Attachment{Network: benchNetwork, ContainerId: name, Ifname: benchInterface},
	})
	return err
}

func connectCallers(ctx context.Context, socket string, n int) (callers []*caller, err error) {
	for range n {
		own, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return callers, fmt.Errorf("agent's socket: %w", err)
		}
		callers = append(callers, &caller{plugin: &pluginClient{own, plain.NewClient(own)}})
		connection, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return callers, fmt.Errorf("agent's socket: %w", err)
		}
		callers[len(callers)-1].general = &generalClient{connection, clearwayv1.NewAddressServiceClient(connection)}
	}
	return callers, nil
}

func closeCallers(callers []*caller) {
	for _, each := range callers {
		_ = each.plugin.connection.Close() // nothing is lost with it, nor below
		if each.general != nil {
			_ = each.general.connection.Close()
		}
	}
}

// allocate adds in parallel, timed; and then deletes all of it, not timed.
func allocate(ctx context.Context, callers []*caller, this phase, label string) (times []float64, rate float64, err error) {
	callers = callers[:this.callers]
	each := this.calls / this.callers
	times = make([]float64, each*this.callers)
	name := func(who, i int) string { return fmt.Sprintf("%s-%d-%d", label, who, i) }
	began := time.Now()
	err = together(callers, func(who int, by *caller) error {
		for i := range each {
			began := time.Now()
			if err := by.by(this).add(ctx, name(who, i)); err != nil {
				return fmt.Errorf("add %s: %w", name(who, i), err)
			}
			times[who*each+i] = milliseconds(time.Since(began))
		}
		return nil
	})
	rate = perSecond(len(times), time.Since(began))
	if err != nil {
		return nil, 0, err
	}
	return times, rate, together(callers, func(who int, by *caller) error {
		for i := range each {
			if err := by.by(this).del(ctx, name(who, i)); err != nil {
				return fmt.Errorf("delete %s: %w", name(who, i), err)
			}
		}
		return nil
	})
}

func together(callers []*caller, do func(who int, by *caller) error) error {
	errs := make([]error, len(callers))
	var group sync.WaitGroup
	for i, each := range callers {
		group.Go(func() { errs[i] = do(i, each) })
	}
	group.Wait()
	return errors.Join(errs...)
}

func allocateResult(phases []phase, figures []phaseFigures) Result {
	result := Result{Method: allocateMethod}
	for i, this := range phases {
		each := figures[i]
		p50, p99, rate, fsync := percentile(each.times, 50), percentile(each.times, 99), median(each.rates), percentile(each.fsync, 50)
		result.Tables = append(result.Tables, Table{
			Title:      this.String(),
			Contenders: []string{"clearway", "one fsync"},
			Rows: []Row{
				row("Add p50", "ms", p50, fsync),
				row("Add p99", "ms", p99, percentile(each.fsync, 99)),
				rateRow("Add", "addresses/s", rate, 1000/fsync),
			},
		})
		switch {
		case this.general:
		case this.callers == 1:
			result.Targets = append(result.Targets, atMost("Address through the socket, 1 caller, p50", "one fsync", p50/fsync, 2))
		case this.callers == 16:
			result.Targets = append(result.Targets, below("Address through the socket, 16 callers, p99", p99, 3), below("the same", p99, 1))
		case this.callers == 64:
			result.Targets = append(result.Targets, atLeast("Addresses through the socket a second, 64 callers", rate, 30_000))
		}
	}
	return result
}

var allocateMethod = []string{
	"AddressService.Add over the agent's unix socket; each caller has a connection of its own, kept open, and asks again as soon as it is answered. Every answer is on the disk before it is given.",
	"The callers are goroutines of one process, with the plugin's gRPC client (proto/plain). One table is by grpc-go's client, for comparison.",
	"\"One fsync\" is 256 bytes appended and fdatasync, one at a time, in the same folder just before each phase; its rate is one thread's.",
	"The addresses are deleted after each phase, outside of the time. Blocks are claimed beforehand and freed addresses do not rest (cooldown 0s), so that a phase measures addresses and not blocks.",
	"The callers, the agent, ipamd and its etcd share the machine's CPUs and disk; the mirror to ipamd runs meanwhile.",
}
