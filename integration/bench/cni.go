package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

const (
	parallelPlugins = 32
	pluginLimit     = 30 * time.Second
)

// plugin is one contender: a CNI IPAM plugin and its network configuration.
type plugin struct {
	name, path string
	config     []byte
	// The Pod's network namespace. The plugins' main programs refuse their own.
	pod *namespace
	// Times of whole processes in milliseconds, by what was asked.
	version, add, del, parallelAdd, parallelDel []float64
	// Answers per second with many at once, a value a round.
	addRate, delRate []float64
}

// runCNI measures the plugins as a runtime runs them: from the start of a process to its end.
func runCNI(ctx context.Context, env *environment) (Result, error) {
	dir, err := env.folder("cni")
	if err != nil {
		return Result{}, err
	}
	pod, err := newNamespace()
	if err != nil {
		return Result{}, err
	}
	defer pod.close()
	plugins, daemons, err := startPlugins(ctx, env, dir, pod)
	defer daemons.close()
	if err != nil {
		return Result{}, err
	}
	if err := comparePlugins(ctx, env, plugins); err != nil {
		return Result{}, err
	}
	return cniResult(plugins), nil
}

// addressing is one Clearway in one namespace, for the parts that want addresses of it.
type addressing struct {
	within *namespace
	clearway
}

func (a addressing) close() {
	a.stop()
	if a.within != nil {
		a.within.close()
	}
}

const addressingResources = `
apiVersion: clearway.io/v1
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.0.0.0/8, blockSize: 20}
---
apiVersion: clearway.io/v1
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 64512, nodeMesh: None}
`

// startAddressing runs Clearway with a pool that nothing here empties, and more resources.
func startAddressing(ctx context.Context, env *environment, dir, more string) (started addressing, err error) {
	if started.within, err = newNamespace(); err != nil {
		return started, err
	}
	node := netip.MustParsePrefix("192.0.2.11/24")
	err = connect(
		end{started.within, "uplink", node},
		end{started.within, "far", netip.MustParsePrefix("192.0.2.1/24")},
	)
	if err != nil {
		return started, err
	}
	started.clearway, err = startClearway(ctx, env, started.within, dir, node.Addr(), addressingResources+more)
	return started, err
}

func startPlugins(ctx context.Context, env *environment, dir string, pod *namespace) ([]*plugin, addressing, error) {
	var daemons addressing
	ours, err := env.binary("clearway-ipam")
	if err != nil {
		return nil, daemons, err
	}
	rival, err := env.binary(filepath.Join("cni", "host-local"))
	if err != nil {
		return nil, daemons, err
	}
	env.progress("cni: starting ipamd and agent")
	if daemons, err = startAddressing(ctx, env, dir, ""); err != nil {
		return nil, daemons, err
	}
	return []*plugin{
		{name: "clearway", path: ours, pod: pod, config: networkConfig(map[string]any{
			"type": "clearway-ipam", "socket": daemons.socket,
		})},
		{name: "host-local", path: rival, pod: pod, config: networkConfig(map[string]any{
			"type": "host-local", "dataDir": filepath.Join(dir, "host-local"),
			"ranges": [][]map[string]string{{{"subnet": "10.0.0.0/8"}}},
		})},
	}, daemons, nil
}

func networkConfig(ipam map[string]any) []byte {
	config, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "bench", "type": "ptp", "ipam": ipam,
	})
	if err != nil {
		panic(err) // strings alone
	}
	return config
}

// comparePlugins alternates between the plugins, first one call at a time, then many at once.
func comparePlugins(ctx context.Context, env *environment, plugins []*plugin) error {
	rounds := env.rounds(300, 60, 3)
	for round := range rounds + 2 {
		if round%100 == 2 {
			env.progress("cni: ADD and DEL one at a time, from round %d of %d", round-1, rounds)
		}
		for _, each := range plugins {
			// The first two rounds bring the binaries into memory.
			if err := each.one(ctx, fmt.Sprintf("one-%d", round), round >= 2); err != nil {
				return err
			}
		}
	}
	calls, repeats := env.pick(512, 128, 4), env.pick(3, 1, 1)
	for round := range repeats {
		env.progress("cni: %d in parallel, round %d of %d", parallelPlugins, round+1, repeats)
		for _, each := range plugins {
			if err := each.many(ctx, round, calls); err != nil {
				return err
			}
		}
	}
	return nil
}

// one adds and deletes one attachment.
func (p *plugin) one(ctx context.Context, container string, keep bool) error {
	version, err := p.call(ctx, "VERSION", container)
	if err != nil {
		return err
	}
	add, err := p.call(ctx, "ADD", container)
	if err != nil {
		return err
	}
	del, err := p.call(ctx, "DEL", container)
	if err != nil {
		return err
	}
	if keep {
		p.version, p.add, p.del = append(p.version, version), append(p.add, add), append(p.del, del)
	}
	return nil
}

func (p *plugin) many(ctx context.Context, round, calls int) error {
	add, rate, err := p.parallel(ctx, "ADD", round, calls)
	if err != nil {
		return err
	}
	p.parallelAdd, p.addRate = append(p.parallelAdd, add...), append(p.addRate, rate)
	del, rate, err := p.parallel(ctx, "DEL", round, calls)
	if err != nil {
		return err
	}
	p.parallelDel, p.delRate = append(p.parallelDel, del...), append(p.delRate, rate)
	return nil
}

// parallel runs so many calls, parallelPlugins of them at once, each for a container of its own.
func (p *plugin) parallel(ctx context.Context, command string, round, calls int) (times []float64, rate float64, err error) {
	times = make([]float64, calls)
	errs := make([]error, calls)
	next := make(chan int)
	var workers sync.WaitGroup
	began := time.Now()
	for range parallelPlugins {
		workers.Go(func() {
			for i := range next {
				times[i], errs[i] = p.call(ctx, command, fmt.Sprintf("many-%d-%d", round, i))
			}
		})
	}
	for i := range calls {
		next <- i
	}
	close(next)
	workers.Wait()
	return times, perSecond(calls, time.Since(began)), errors.Join(errs...)
}

// call runs the plugin once, as libcni would, and gives the milliseconds that the process took.
func (p *plugin) call(ctx context.Context, verb, container string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, pluginLimit)
	defer cancel()
	command := exec.CommandContext(ctx, p.path)
	command.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + container, "CNI_IFNAME=eth0",
		"CNI_NETNS=" + p.pod.path(), "CNI_PATH=" + filepath.Dir(p.path),
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=" + container + ";K8S_POD_UID=" + container,
	}
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(p.config), &stdout, &stderr
	began := time.Now()
	err := command.Run()
	took := milliseconds(time.Since(began))
	if err != nil {
		return 0, fmt.Errorf("%s %s of %s: %w: %s%s", p.name, verb, container, err, stdout.String(), stderr.String())
	}
	return took, nil
}

func cniResult(plugins []*plugin) Result {
	var names []string
	for _, each := range plugins {
		names = append(names, each.name)
	}
	table := func(title string) Table { return Table{Title: title, Contenders: names} }
	each := func(of func(*plugin) float64) []float64 {
		var values []float64
		for _, one := range plugins {
			values = append(values, of(one))
		}
		return values
	}
	single := table("One at a time")
	at := func(into *Table, what string, p float64, of func(*plugin) []float64) {
		label := fmt.Sprintf("%s p%.0f", what, p)
		into.Rows = append(into.Rows, row(label, "ms", each(func(one *plugin) float64 { return percentile(of(one), p) })...))
	}
	for _, p := range []float64{50, 99} {
		at(&single, "ADD", p, func(one *plugin) []float64 { return one.add })
		at(&single, "DEL", p, func(one *plugin) []float64 { return one.del })
	}
	at(&single, "VERSION (the process alone)", 50, func(one *plugin) []float64 { return one.version })
	many := table(fmt.Sprintf("%d at once", parallelPlugins))
	for _, p := range []float64{50, 99} {
		at(&many, "ADD", p, func(one *plugin) []float64 { return one.parallelAdd })
		at(&many, "DEL", p, func(one *plugin) []float64 { return one.parallelDel })
	}
	many.Rows = append(many.Rows,
		rateRow("ADD", "calls/s", each(func(one *plugin) float64 { return median(one.addRate) })...),
		rateRow("DEL", "calls/s", each(func(one *plugin) float64 { return median(one.delRate) })...),
	)
	return Result{Method: cniMethod, Tables: []Table{single, many}, Targets: cniTargets(single, many)}
}

// cniTargets are a time as long as host-local's, and twice its rate when many are at once.
func cniTargets(single, many Table) []Target {
	var targets []Target
	for _, verb := range []string{"ADD", "DEL"} {
		targets = append(targets, atMost("CNI "+verb+" p50", "host-local", single.ratioOf(verb+" p50"), 1),
			timesAtLeast(fmt.Sprintf("CNI %s calls/s, %d at once", verb, parallelPlugins), "host-local", many.ratioOf(verb), 2))
	}
	return targets
}

// ratioOf is the ratio to the rival in the row of a metric.
func (t Table) ratioOf(metric string) float64 {
	for _, each := range t.Rows {
		if each.Metric == metric {
			return each.ratio(1)
		}
	}
	return missing
}

var cniMethod = []string{
	"Both plugins are run the same way, with the same environment and the same configuration but for its \"ipam\" part; the time is that of the whole process, from before its start to after its end.",
	"Calls alternate between the two. Each ADD's address is given back by the DEL after it.",
	"Clearway's data and host-local's are on the same disk. Clearway's answer is on the disk (fdatasync) before it is given; host-local writes a file and does not wait for the disk.",
	"clearway-ipam talks to a running clearway-agent; ipamd, with its embedded etcd, runs beside it, and the agent mirrors its assignments to it meanwhile.",
	"VERSION does nothing but start and end: what any such process costs.",
}
