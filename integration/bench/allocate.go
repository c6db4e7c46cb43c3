package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
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
type phase struct{ callers, calls int }

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
		{1, env.pick(2000, 500, 5)}, {16, env.pick(16_000, 4000, 32)}, {64, env.pick(32_000, 8000, 64)},
	}
	callers, err := connectCallers(daemons.socket, phases[len(phases)-1].callers)
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
			env.progress("allocate: %d callers, round %d of %d", this.callers, round+1, rounds)
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

// caller is one client with a connection of its own.
type caller struct {
	connection *grpc.ClientConn
	client     clearwayv1.AddressServiceClient
}

func connectCallers(socket string, n int) (callers []*caller, err error) {
	for range n {
		connection, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return callers, fmt.Errorf("agent's socket: %w", err)
		}
		callers = append(callers, &caller{connection, clearwayv1.NewAddressServiceClient(connection)})
	}
	return callers, nil
}

func closeCallers(callers []*caller) {
	for _, each := range callers {
		_ = each.connection.Close() // nothing is lost with it
	}
}

// allocate adds in parallel, timed; and then deletes all of it, not timed.
func allocate(ctx context.Context, callers []*caller, this phase, label string) (times []float64, rate float64, err error) {
	callers = callers[:this.callers]
	each := this.calls / this.callers
	times = make([]float64, each*this.callers)
	attachment := func(who, i int) *clearwayv1.Attachment {
		return &clearwayv1.Attachment{Network: "bench", ContainerId: fmt.Sprintf("%s-%d-%d", label, who, i), Ifname: "eth0"}
	}
	began := time.Now()
	err = together(callers, func(who int, by *caller) error {
		for i := range each {
			began := time.Now()
			if err := by.add(ctx, attachment(who, i)); err != nil {
				return err
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
			if err := by.del(ctx, attachment(who, i)); err != nil {
				return err
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

func (c *caller) add(ctx context.Context, attachment *clearwayv1.Attachment) error {
	ctx, cancel := context.WithTimeout(ctx, allocateLimit)
	defer cancel()
	_, err := c.client.Add(ctx, &clearwayv1.AddRequest{
		Attachment: attachment,
		Pod:        &clearwayv1.Pod{Namespace: "bench", Name: attachment.ContainerId, Uid: attachment.ContainerId},
		Netns:      "/proc/self/ns/net",
	})
	if err != nil {
		return fmt.Errorf("add %s: %w", attachment.ContainerId, err)
	}
	return nil
}

func (c *caller) del(ctx context.Context, attachment *clearwayv1.Attachment) error {
	ctx, cancel := context.WithTimeout(ctx, allocateLimit)
	defer cancel()
	if _, err := c.client.Del(ctx, &clearwayv1.DelRequest{Attachment: attachment}); err != nil {
		return fmt.Errorf("delete %s: %w", attachment.ContainerId, err)
	}
	return nil
}

func allocateResult(phases []phase, figures []phaseFigures) Result {
	result := Result{Method: allocateMethod}
	for i, this := range phases {
		each := figures[i]
		title := fmt.Sprintf("%d callers", this.callers)
		if this.callers == 1 {
			title = "1 caller"
		}
		p99 := percentile(each.times, 99)
		result.Tables = append(result.Tables, Table{
			Title:      title,
			Contenders: []string{"clearway", "one fsync"},
			Rows: []Row{
				row("Add p50", "ms", percentile(each.times, 50), percentile(each.fsync, 50)),
				row("Add p99", "ms", p99, percentile(each.fsync, 99)),
				rateRow("Add", "addresses/s", median(each.rates), 1000/percentile(each.fsync, 50)),
			},
		})
		if this.callers == 16 {
			result.Targets = append(result.Targets, below("Address through the socket, 16 callers, p99", p99, 3))
		}
	}
	return result
}

var allocateMethod = []string{
	"AddressService.Add over the agent's unix socket; each caller has a connection of its own, kept open, and asks again as soon as it is answered. Every answer is on the disk before it is given.",
	"\"One fsync\" is 256 bytes appended and fdatasync, one at a time, in the same folder just before each phase; its rate is one thread's.",
	"The addresses are deleted after each phase, outside of the time. Blocks are claimed beforehand and freed addresses do not rest (cooldown 0s), so that a phase measures addresses and not blocks.",
	"The callers, the agent, ipamd and its etcd share the machine's CPUs and disk; the mirror to ipamd runs meanwhile.",
}
