package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	bgpagent "github.com/clearway/clearway/bgp/agent"
	"github.com/clearway/clearway/bgp/bfd"
	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/discover"
	"github.com/clearway/clearway/bgp/fib"
	"github.com/clearway/clearway/bgp/probe"
	"github.com/clearway/clearway/bgp/speaker"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/cmd/internal/unary"
	"github.com/clearway/clearway/ipam/netns"
	"github.com/clearway/clearway/ipam/node"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// rooms are the parts of the agent, each with one duty and one goroutine of its own.
type rooms struct {
	fib     *fib.Writer
	netns   *netns.Finder
	speaker *speaker.Speaker
	routers *discover.Finder
	bfd     *bfd.Client
	bgp     *bgpagent.Agent
	node    *node.Node
	guard   *daemon.SocketGuard
}

func run(ctx context.Context, s *settings, logger *slog.Logger) error {
	logger = logger.With("node", s.node)
	registry := daemon.NewRegistry()
	who, err := readIdentity(s)
	if err != nil {
		return err
	}
	creds, err := s.tls.ClientCredentials(logger)
	if err != nil {
		return err
	}
	if err := daemon.RegisterTLS(registry, creds); err != nil {
		return err
	}
	// The socket comes first: of two agents on one machine the second one ends here, before it touches anything.
	socket, err := daemon.ListenUnix(s.socket, s.socketMode())
	if err != nil {
		return err
	}
	defer socket.Close()
	var opened atomic.Pointer[rooms]
	web, err := daemon.ListenHTTP(daemon.HTTPOptions{
		Listen: s.metricsListen, Gatherer: registry, Logger: logger,
		Ready: func() error {
			if parts := opened.Load(); parts != nil {
				return parts.ready()
			}
			return errors.New("the agent is starting: it looks for the node's addresses, and reads its journal")
		},
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return web.Run(ctx) })
	group.Go(func() error {
		parts, err := open(ctx, s, who, creds, registry, logger)
		if err != nil {
			if ctx.Err() != nil {
				return nil // it was told to stop before it had started
			}
			return err
		}
		defer parts.close(logger)
		if err := who.mark(s.dataDir); err != nil {
			return err
		}
		guard, err := daemon.NewSocketGuard(s.uids, logger, registry)
		if err != nil {
			return err
		}
		parts.guard = guard
		opened.Store(parts)
		return parts.serve(ctx, socket)
	})
	return group.Wait()
}

func open(ctx context.Context, s *settings, who identity, creds credentials.TransportCredentials,
	registry prometheus.Registerer, logger *slog.Logger,
) (*rooms, error) {
	addresses, err := nodeAddresses(ctx, s.addresses, s.rule, s.servers)
	if err != nil {
		return nil, fmt.Errorf("node addresses: %w", err)
	}
	logger.Info("starting", "version", daemon.Version().Version, "addresses", addresses, "same_boot", who.sameBoot)
	writer, err := fib.Open(fib.Options{
		Protocol: s.routeProtocol, Metric: s.routeMetric, Table: s.routeTable,
		Logger: logger.With("room", "fib"), Registerer: registry,
	})
	if err != nil {
		return nil, fmt.Errorf("open the kernel's routes: %w", err)
	}
	r := &rooms{fib: writer}
	// Peers are told that forwarding was kept only when it truly was: the kernel of this boot still has our sentinel.
	kept := writer.Sentinel() && who.sameBoot
	r.speaker = speaker.New(speaker.Options{Restarting: kept, Logger: logger.With("room", "bgp")})
	r.bfd = bfd.NewClient(s.bfdSocket, logger.With("room", "bfd"))
	r.routers = discover.New(logger.With("room", "discover"))
	r.bgp = bgpagent.New(bgpagent.Options{
		Routers: r.routers, Gateways: writer.Gateways,
		Node: s.node, Speaker: r.speaker, FIB: writer, Liveness: r.bfd, Logger: logger.With("room", "bgp"), Registerer: registry,
		Start:          bgpagent.Start{SameBoot: who.sameBoot, RoutesKept: writer.Sentinel()},
		LocalAddresses: linkAddresses, Probe: reach,
		Traffic: func() (bgpagent.Traffic, error) {
			forwarded, interfaces, names, err := fib.Traffic()
			return bgpagent.Traffic{Forwarded: forwarded, Interfaces: interfaces, Names: names}, err
		},
	})
	if r.netns, err = netns.New(); err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	r.node, err = node.Open(node.Options{
		Node: s.node, MachineID: who.machineID, BootID: who.bootID, Version: daemon.Version().Version,
		DataDir: s.dataDir, SpoolDir: s.spoolDir(), Addresses: addresses, Labels: s.labelMap, Servers: s.servers,
		Dial: func(_ context.Context, server string) (node.Conn, error) {
			return daemon.Dial(server, creds, s.tls.CallOptions()...)
		},
		Logger: logger.With("room", "ipam"), Metrics: registry,
		OnState: r.onState, OnOwnership: r.bgp.ApplyOwnership, Query: r.bgp.List, Verify: r.bgp.Verify, Status: r.status,
		StatusChanged: r.bgp.StatusChanged(), Namespaces: r.netns, Heard: r.bgp.Heard,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the node's addresses: %w", err), writer.Close())
	}
	return r, nil
}

// onState tells the BGP half what the address half knows.
func (r *rooms) onState(state node.State) {
	if state.Snapshot != nil {
		r.bgp.SetSnapshot(state.Snapshot)
	}
	r.bgp.SetBlocks(state.Blocks, state.Subnets)
	r.bgp.SetOnline(state.Online)
}

// status tells the address half, which has the session with ipamd, what the BGP half knows.
func (r *rooms) status() *clearwayv1.ReportStatusRequest {
	sessions, routes, restart, why, events := r.bgp.Status()
	drain, drainReason, drainGeneration := r.bgp.Drain()
	return &clearwayv1.ReportStatusRequest{
		Drain: drain, DrainReason: drainReason, DrainGeneration: drainGeneration,
		Ready: r.ready() == nil, Sessions: sessions, KernelRoutes: routes,
		LastRestart: restart, LastRestartReason: why, Events: events,
	}
}

// ready tells whether Pods can get addresses. A peer that is down is status, not unreadiness.
func (r *rooms) ready() error {
	if !r.node.Ready() {
		return errors.New("no configuration is known yet: ipamd has not answered, and nothing is on disk")
	}
	return nil
}

// serve runs every room until the context ends or one of them fails.
func (r *rooms) serve(ctx context.Context, socket net.Listener) error {
	server := r.server()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.fib.Run(ctx) })
	group.Go(func() error { return r.speaker.Run(ctx) })
	group.Go(func() error { return r.routers.Run(ctx) })
	group.Go(func() error { return r.bfd.Run(ctx) })
	group.Go(func() error { return r.bgp.Run(ctx) })
	group.Go(func() error { return r.node.Run(ctx) })
	group.Go(func() error {
		if err := server.Serve(&callers{Listener: socket, seen: r.netns.Caller}); !errors.Is(err, grpc.ErrServerStopped) { // told to stop before it began
			return err
		}
		return nil
	})
	// A burst of UPDATEs makes some 12 KiB of garbage each: to collect it all the time took half of the time to the kernel's
	// routes.
	group.Go(func() error { return daemon.KeepMemory(ctx, 64<<20) })
	group.Go(func() error {
		<-ctx.Done()
		// At once: a plugin whose call is cut off tries the next agent, which gives the same answer.
		server.Stop()
		return nil
	})
	return group.Wait()
}

// server answers on the socket. Unary calls, the plugin's among them, have a server of their own; grpc-go's has the rest.
func (r *rooms) server() *unary.Server {
	server := unary.New(r.guard.UnaryOptions(), r.guard.ServerOptions()...)
	clearwayv1.RegisterAddressServiceServer(server, r.node.AddressServer())
	clearwayv1.RegisterResourceServiceServer(server, &resources{rooms: r})
	status := health.NewServer()
	status.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(server, status)
	reflection.Register(server)
	return server
}

// close lets go of files and sockets. Routes stay in the kernel.
func (r *rooms) close(logger *slog.Logger) {
	if err := errors.Join(r.node.Close(), r.fib.Close()); err != nil {
		logger.Error("close", "error", err)
	}
}

// reach carries what the network answers to the room that asks for it.
func reach(ctx context.Context, own, addresses []netip.Addr) (int, []bgpagent.Unreached) {
	results := probe.Reach(ctx, own, addresses)
	var unreached []bgpagent.Unreached
	for _, result := range results {
		if !result.Reached {
			unreached = append(unreached, bgpagent.Unreached{Address: result.Address, Why: result.Why})
		}
	}
	return len(results), unreached
}

// linkAddresses carries what the kernel has to the room that chooses next hops.
func linkAddresses() ([]config.LocalAddress, error) {
	addresses, err := fib.Addresses()
	if err != nil {
		return nil, err
	}
	local := make([]config.LocalAddress, len(addresses))
	for i, address := range addresses {
		local[i] = config.LocalAddress(address)
	}
	return local, nil
}
