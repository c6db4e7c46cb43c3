package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/clearway/clearway/bgp/bgptest"
	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestScenarios runs the scripts of testdata: stories that an engineer can read, with the kernel's routes and the
// speaker's orders after each step. Time in them is a bubble's: nothing waits.
//
// A script's lines are commands; the archive's files are what `kernel`, `speaker`, `routes` and `events` compare with.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runScript(t, file) })
		})
	}
}

type script struct {
	t       *testing.T
	archive *txtar.Archive
	speaker *bgptest.Speaker
	fib     *bgptest.FIB
	bfd     *bgptest.Liveness
	agent   *Agent
	tick    int64
	at      string
	silent  []string

	rate    atomic.Int64 // packets a second, forwarded and on every link
	packets atomic.Int64
	counted atomic.Pointer[time.Time]
}

// traffic lets packets flow at the script's rate.
func (s *script) traffic() (Traffic, error) {
	now := time.Now()
	if last := s.counted.Swap(&now); last != nil {
		s.packets.Add(int64(float64(s.rate.Load()) * now.Sub(*last).Seconds()))
	}
	seen := uint64(s.packets.Load())
	return Traffic{Forwarded: seen, Interfaces: map[int]uint64{7: seen}}, nil
}

func runScript(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, archive: txtar.Parse(data), speaker: bgptest.NewSpeaker(), fib: bgptest.NewFIB(), bfd: bgptest.NewLiveness()}
	ctx, cancel := context.WithCancel(t.Context())
	defer synctest.Wait()
	defer cancel()
	for i, line := range strings.Split(string(s.archive.Comment), "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		s.at = fmt.Sprintf("%s:%d: %s", file, i+1, line)
		s.do(ctx, words[0], words[1:])
		synctest.Wait()
	}
}

func (s *script) do(ctx context.Context, command string, args []string) {
	switch command {
	case "before": // routes an earlier process left in the kernel
		s.fib = bgptest.NewFIB(strings.Join(args, " "))
	case "start": // [same-boot] [routes-kept]
		s.start(ctx, args)
	case "snapshot":
		s.agent.SetSnapshot(s.snapshot(args))
	case "blocks": // PREFIX... [subnets PREFIX...]
		own, subnets, _ := strings.Cut(strings.Join(args, " "), "subnets")
		s.agent.SetBlocks(prefixes(strings.Fields(own)), prefixes(strings.Fields(subnets)))
	case "online", "offline":
		s.agent.SetOnline(command == "online")
	case "own": // own NODE PREFIX..., own NODE@ADDRESS/BITS [as ASN] [reflects]; each is one tick of the log
		s.own(args)
	case "serve": // serve NAME ADDRESS...: every node tells them of a Service; without one, none any more
		s.serve(args)
	case "splits": // splits NODE BLOCK; its owner is asked for one half
		s.log(&clearwayv1.BlockOwner{Node: args[0], Cidr: args[1], State: clearwayv1.BlockState_BLOCK_STATE_OWNED, Splits: true})
	case "split": // split NODE BLOCK KEPT WITHDRAWING, in one tick
		s.log(&clearwayv1.BlockOwner{Cidr: args[1]},
			&clearwayv1.BlockOwner{Node: args[0], Cidr: args[2], State: clearwayv1.BlockState_BLOCK_STATE_OWNED},
			&clearwayv1.BlockOwner{Node: args[0], Cidr: args[3], State: clearwayv1.BlockState_BLOCK_STATE_WITHDRAWING})
	case "tell": // tell PEER PREFIX via NEXTHOP path ASN... [from ORIGINATOR CLUSTER...]
		s.speaker.Tell(s.path(args))
	case "withdraw":
		s.speaker.Withdraw(netip.MustParseAddr(args[0]), netip.MustParsePrefix(args[1]))
	case "up", "up-without-gr":
		s.speaker.Up(netip.MustParseAddr(args[0]), command == "up")
	case "down":
		s.speaker.Down(netip.MustParseAddr(args[0]), "the connection broke")
	case "bfd": // bfd PEER up | down | down-dependent | told-down | anew | silent
		s.live(netip.MustParseAddr(args[0]), args[1])
	case "watches":
		s.compare(s.bfd.String(), args[0])
	case "flow": // flow PACKETS: so many a second from now on
		s.rate.Store(int64(must(strconv.Atoi(args[0]))))
	case "drain": // phase, why
		phase, why, _ := s.agent.Drain()
		s.compare(phase+": "+why+"\n", args[0])
	case "eor":
		s.speaker.EndOfRIB(netip.MustParseAddr(args[0]))
	case "wait":
		time.Sleep(must(time.ParseDuration(args[0])))
	case "kernel":
		time.Sleep(10 * time.Millisecond) // the pause between looks at the speaker
		s.compare(s.fib.String(), args[0])
	case "speaker":
		s.compare(s.speaker.String(), args[0])
	case "settled":
		s.compareText(strconv.FormatBool(s.fib.IsSettled()), args[0])
	case "restart":
		_, _, outcome, why, _ := s.agent.Status()
		s.compare(outcome+": "+why+"\n", args[0])
	case "routes":
		time.Sleep(10 * time.Millisecond)
		s.compare(s.routes(args[1:]...), args[0])
	case "looked": // as routes, with who is told and what the kernel itself has
		time.Sleep(10 * time.Millisecond)
		s.compare(s.looked(), args[0])
	case "verify": // what differs between log, peers and kernel
		time.Sleep(10 * time.Millisecond)
		s.compare(s.verify(), args[0])
	case "silent": // silent ADDRESS...: they answer no probe
		s.silent = args
	case "lose": // the kernel loses a route behind the writer's back
		s.fib.Lose(netip.MustParsePrefix(args[0]))
	case "stray": // stray PREFIX GATEWAY: a route under our name that the writer did not write
		s.fib.Stray(netip.MustParsePrefix(args[0]), route.Seen{Hops: []route.SeenHop{{Gateway: netip.MustParseAddr(args[1]), Interface: "eth0"}}})
	case "hide": // hide PREFIX BY...: somebody else's route goes before ours
		s.fib.Hide(netip.MustParsePrefix(args[0]), strings.Join(args[1:], " "))
	case "events":
		_, _, _, _, events := s.agent.Status()
		var text strings.Builder
		for _, e := range events {
			fmt.Fprintf(&text, "%s %s %s: %s\n", e.GetType(), e.GetReason(), e.GetRegarding(), e.GetMessage())
		}
		s.compare(text.String(), args[0])
	default:
		s.t.Fatalf("%s: unknown command", s.at)
	}
}

func (s *script) start(ctx context.Context, args []string) {
	s.agent = New(Options{Node: "n1", Speaker: s.speaker, FIB: s.fib, Liveness: s.bfd, Traffic: s.traffic, LocalAddresses: func() ([]config.LocalAddress, error) {
		return []config.LocalAddress{{Interface: 7, Address: netip.MustParseAddr("192.0.2.11")}}, nil
	}, Start: Start{
		SameBoot: slices.Contains(args, "same-boot"), RoutesKept: slices.Contains(args, "routes-kept"),
	}, Probe: s.probe})
	go s.agent.Run(ctx)
}

// snapshot makes one: args are key=value: peers (name:address:asn), scope, mesh, aggregates, filter.
func (s *script) snapshot(args []string) *clearwayv1.NodeSnapshot {
	snapshot := &clearwayv1.NodeSnapshot{
		Node: &clearwayv1.Node{Status: &clearwayv1.NodeStatus{Addresses: []string{"192.0.2.11/24", "2001:db8::11/64"}}},
		Pools: []*clearwayv1.IPPool{
			{Metadata: &clearwayv1.ObjectMeta{Name: "pods"}, Spec: &clearwayv1.IPPoolSpec{Cidr: "10.244.0.0/16"}},
			{Metadata: &clearwayv1.ObjectMeta{Name: "pods6"}, Spec: &clearwayv1.IPPoolSpec{Cidr: "2001:db8:244::/48"}},
		},
		BgpConfiguration: &clearwayv1.BGPConfiguration{Spec: &clearwayv1.BGPConfigurationSpec{}},
	}
	values := map[string]string{}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		values[key] = value
	}
	snapshot.BgpConfiguration.Spec.NodeMesh = values["mesh"]
	if of, drained := values["drain"]; drained { // drain=all or of a BGPPeer; withdraw=now, keep=yes
		snapshot.Node.Spec = &clearwayv1.NodeSpec{Drain: &clearwayv1.Drain{Prepend: 2, Withdraw: values["withdraw"] != "", Keep: values["keep"] != ""}}
		if of != "all" {
			snapshot.Node.Spec.Drain.Peers = []string{of}
		}
	}
	if values["mesh"] == "Reflectors" {
		snapshot.BgpConfiguration.Spec.Reflectors = &clearwayv1.Reflectors{
			Selector: &clearwayv1.LabelSelector{MatchLabels: map[string]string{"reflects": "yes"}},
		}
	}
	if values["originate"] != "" {
		snapshot.BgpConfiguration.Spec.OriginatedAggregates = []*clearwayv1.Aggregate{{Cidr: values["originate"], WithoutSpecifics: true}}
	}
	if values["services"] != "" { // a pool of theirs, and leave to tell; local=NAME:ADDRESS has an endpoint here
		snapshot.BgpConfiguration.Spec.Services = &clearwayv1.ServiceRoutes{LoadBalancerIps: []string{values["services"]}}
		snapshot.Pools = append(snapshot.Pools, &clearwayv1.IPPool{
			Metadata: &clearwayv1.ObjectMeta{Name: "vips"}, Spec: &clearwayv1.IPPoolSpec{Cidr: values["services"], Kind: "LoadBalancer"},
		})
		if name, address, ok := strings.Cut(values["local"], ":"); ok {
			snapshot.Services = []*clearwayv1.ServiceEntry{{Name: name, Addresses: []*clearwayv1.ServiceAddress{{Address: address, Pool: "vips"}}}}
		}
	}
	if values["aggregates"] != "" {
		snapshot.BgpConfiguration.Spec.Aggregates = strings.Split(values["aggregates"], ",")
	}
	for _, peer := range strings.FieldsFunc(values["peers"], func(r rune) bool { return r == ',' }) {
		parts := strings.Split(peer, ":")
		spec := &clearwayv1.BGPPeerSpec{PeerAddress: parts[1], PeerAsn: uint32(must(strconv.Atoi(parts[2]))), ImportScope: values["scope"]}
		if values["bfd"] != "" {
			spec.Bfd = &clearwayv1.BFD{MinTx: values["bfd"], MinRx: values["bfd"]}
		}
		if values["reject"] != "" {
			spec.ImportFilters, spec.ExportFilters = []string{"no"}, []string{"no"}
		}
		snapshot.Peers = append(snapshot.Peers, &clearwayv1.BGPPeer{Metadata: &clearwayv1.ObjectMeta{Name: parts[0]}, Spec: spec})
	}
	if values["reject"] != "" {
		snapshot.Filters = []*clearwayv1.BGPFilter{{Metadata: &clearwayv1.ObjectMeta{Name: "no"}, Spec: &clearwayv1.BGPFilterSpec{
			Rules: []*clearwayv1.BGPFilterRule{{Prefixes: []*clearwayv1.PrefixMatch{{Cidr: values["reject"]}}, Action: "Reject"}},
		}}}
	}
	return snapshot
}

func (s *script) own(args []string) {
	if len(args) == 0 {
		return
	}
	s.tick++
	piece := &clearwayv1.WatchOwnershipResponse{Incarnation: "i", Revision: s.tick, Reset_: s.tick == 1, Complete: true}
	node, deleted := strings.CutPrefix(args[0], "-")
	if name, address, ok := strings.Cut(node, "@"); ok {
		entry := &clearwayv1.NodeEntry{Name: name, Addresses: []string{address}, Reflector: slices.Contains(args, "reflects")}
		if len(args) == 3 && args[1] == "as" {
			entry.AsNumber = uint32(must(strconv.Atoi(args[2])))
		}
		piece.Entries = append(piece.Entries, &clearwayv1.OwnershipEntry{Entry: &clearwayv1.OwnershipEntry_Node{Node: entry}, Deleted: deleted})
	} else {
		for _, prefix := range args[1:] {
			piece.Entries = append(piece.Entries, &clearwayv1.OwnershipEntry{Deleted: deleted, Entry: &clearwayv1.OwnershipEntry_Block{
				Block: &clearwayv1.BlockOwner{Cidr: prefix, Node: node, State: clearwayv1.BlockState_BLOCK_STATE_OWNED},
			}})
		}
	}
	s.agent.ApplyOwnership(piece)
}

func (s *script) serve(args []string) {
	s.tick++
	entry := &clearwayv1.ServiceEntry{Name: args[0]}
	for _, address := range args[1:] {
		entry.Addresses = append(entry.Addresses, &clearwayv1.ServiceAddress{Address: address, Pool: "vips"})
	}
	s.agent.ApplyOwnership(&clearwayv1.WatchOwnershipResponse{Incarnation: "i", Revision: s.tick, Complete: true, Entries: []*clearwayv1.OwnershipEntry{{
		Deleted: len(args) == 1, Entry: &clearwayv1.OwnershipEntry_Service{Service: entry},
	}}})
}

// log is one tick of the log, of these blocks; one that nobody owns is deleted from it.
func (s *script) log(blocks ...*clearwayv1.BlockOwner) {
	s.tick++
	piece := &clearwayv1.WatchOwnershipResponse{Incarnation: "i", Revision: s.tick, Complete: true}
	for _, block := range blocks {
		piece.Entries = append(piece.Entries, &clearwayv1.OwnershipEntry{
			Deleted: block.GetNode() == "", Entry: &clearwayv1.OwnershipEntry_Block{Block: block},
		})
	}
	s.agent.ApplyOwnership(piece)
}

func (s *script) path(args []string) *route.Path {
	path := &route.Path{
		Peer: netip.MustParseAddr(args[0]), Prefix: netip.MustParsePrefix(args[1]), NextHop: netip.MustParseAddr(args[3]),
		LocalPref: 100,
	}
	asns := args[5:]
	if i := slices.Index(asns, "from"); i >= 0 {
		path.Extra = &route.Extra{OriginatorID: netip.MustParseAddr(asns[i+1])}
		for _, text := range asns[i+2:] {
			path.Extra.ClusterList = append(path.Extra.ClusterList, netip.MustParseAddr(text))
		}
		asns = asns[:i]
	}
	path.PeerID = path.Peer
	for _, text := range asns {
		path.ASPath = append(path.ASPath, uint32(must(strconv.Atoi(text))))
	}
	path.ASPathLen = len(path.ASPath)
	path.EBGP = path.ASPathLen > 0
	if path.EBGP {
		path.PeerASN = path.ASPath[0]
	} else {
		path.PeerASN = 64512
	}
	return path
}

func (s *script) routes(address ...string) string {
	request := &clearwayv1.ListRequest{Kind: "Route"}
	if len(address) > 0 {
		request.Address = address[0]
	}
	list, err := s.agent.List(context.Background(), request)
	if err != nil {
		s.t.Fatalf("%s: %v", s.at, err)
	}
	var text strings.Builder
	for _, resource := range list {
		r := resource.GetRoute()
		fmt.Fprintf(&text, "%s %s %s owner=%s: %s\n", r.GetSpec().GetDirection(), r.GetSpec().GetPrefix(), r.GetStatus().GetState(),
			r.GetStatus().GetOwner(), r.GetStatus().GetReason())
		for _, path := range r.GetStatus().GetPaths() {
			best := " "
			if path.GetBest() {
				best = "*"
			}
			fmt.Fprintf(&text, " %s %s from %s: %s\n", best, path.GetVerdict(), path.GetPeerAddress(), path.GetReason())
		}
	}
	return text.String()
}

func (s *script) probe(_ context.Context, _, addresses []netip.Addr) (int, []Unreached) {
	var unreached []Unreached
	for _, address := range addresses {
		if slices.Contains(s.silent, address.String()) {
			unreached = append(unreached, Unreached{address, "no answer by TCP\nno answer by ICMP"})
		}
	}
	return len(addresses), unreached
}

func (s *script) verify() string {
	answer, err := s.agent.Verify(context.Background(), &clearwayv1.VerifyQuery{Probes: []*clearwayv1.ProbeTarget{
		{Block: "10.244.1.0/26", Address: "10.244.1.5"}, {Block: "10.244.9.0/26", Address: "10.244.9.5"}, {Block: "x", Address: "nonsense"},
	}})
	if err != nil {
		s.t.Fatalf("%s: %v", s.at, err)
	}
	var lines []string
	for _, one := range answer.GetMismatches() {
		lines = append(lines, fmt.Sprintf("%s %s: %s\n", one.GetReason(), one.GetPrefix(), one.GetDetail()))
	}
	slices.Sort(lines)
	return fmt.Sprintf("%s%d routes, %d blocks, %d of %d reached\n", strings.Join(lines, ""), answer.GetRoutes(), answer.GetBlocks(),
		answer.GetReached(), answer.GetProbed())
}

func (s *script) looked() string {
	list, err := s.agent.List(context.Background(), &clearwayv1.ListRequest{Kind: "Route", Kernel: true})
	if err != nil {
		s.t.Fatalf("%s: %v", s.at, err)
	}
	var text strings.Builder
	for _, resource := range list {
		r := resource.GetRoute()
		kernel := r.GetStatus().GetKernel()
		fmt.Fprintf(&text, "%s %s in the kernel: %v %s %s\n", r.GetSpec().GetDirection(), r.GetSpec().GetPrefix(), kernel.GetPresent(),
			strings.Join(kernel.GetNextHops(), ", "), kernel.GetHiddenBy())
		for _, peer := range r.GetStatus().GetPeers() {
			fmt.Fprintf(&text, "  %s %s: %s %s\n", peer.GetPeerAddress(), peer.GetOrigin(), peer.GetState(), peer.GetReason())
		}
	}
	return text.String()
}

func (s *script) compare(got, file string) {
	for _, f := range s.archive.Files {
		if f.Name == file {
			s.compareText(got, string(f.Data))
			return
		}
	}
	s.t.Fatalf("%s: no file %s; it is\n%s", s.at, file, got)
}

func (s *script) compareText(got, want string) {
	s.t.Helper()
	if strings.TrimRight(got, "\n") != strings.TrimRight(want, "\n") {
		s.t.Errorf("%s\n--- is\n%s--- should be\n%s", s.at, got, want)
	}
}

// live lets BFD with a peer change. A peer that is "dependent" has BFD share its control
// plane's fate.
func (s *script) live(peer netip.Addr, how string) {
	fault := ""
	s.bfd.Change(peer, func(l *route.Liveness) {
		l.Independent = true
		switch how {
		case "up":
			l.State, l.DetectionTime = route.BFDUp, 300*time.Millisecond
		case "down", "down-dependent":
			l.State, l.Diagnostic, l.Independent = route.BFDDown, "control detection time expired", how == "down"
			l.Failures++
		case "told-down": // an administrator's word
			l.State, l.Diagnostic = route.BFDDown, "neighbor signaled session down"
		case "anew": // its process was started anew
			l.State, l.Failures = route.BFDDown, 0
			l.Instance++
		case "silent":
			fault = "clearway-agent bfd went away"
		default:
			s.t.Fatalf("%s: there is no such change", s.at)
		}
	}, fault)
}

func prefixes(texts []string) []netip.Prefix {
	list := []netip.Prefix{}
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
