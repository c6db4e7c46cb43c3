package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/ipam/kube"
	"github.com/clearway/clearway/ipam/server"
	"github.com/clearway/clearway/ipam/store"
)

// How long starting and stopping may take.
const (
	openTime = 2 * time.Minute // an embedded etcd reads its log
	stopTime = 5 * time.Second
)

// run opens the listening sockets first, so that an address in use is known before anything is touched.
func run(ctx context.Context, given *flags, logger *slog.Logger) error {
	listener, err := net.Listen("tcp", given.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer listener.Close() // gRPC closes it too; this is for the way there
	given.tls.AcceptTokens = given.agentAccount != ""
	creds, err := given.tls.ServerCredentials(logger)
	if err != nil {
		return err
	}
	var cluster *kube.Cluster
	if given.kubeconfig != "" || given.inCluster {
		if cluster, err = kube.New(kube.Options{Kubeconfig: given.kubeconfig, Logger: logger}); err != nil {
			return err
		}
	}
	registry := daemon.NewRegistry()
	if err := daemon.RegisterTLS(registry, creds); err != nil {
		return err
	}
	var serving atomic.Pointer[server.Server]
	metrics, err := daemon.ListenHTTP(daemon.HTTPOptions{
		Listen: given.metricsListen, Gatherer: registry, Logger: logger,
		Ready: func() error {
			if s := serving.Load(); s != nil {
				return s.Ready()
			}
			return errors.New("the store is being opened")
		},
		Notice: func() string {
			if s := serving.Load(); s != nil {
				return s.Recovering()
			}
			return ""
		},
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return metrics.Run(ctx) })
	// When thousands of nodes come at once, the slowest of their claims wait a sixth longer where it is collected all the time.
	group.Go(func() error { return daemon.KeepMemory(ctx, 128<<20) })
	group.Go(func() error {
		records, err := openStore(ctx, given, listener.Addr(), logger)
		if err != nil {
			if ctx.Err() != nil {
				return nil // it was told to stop while the store was being opened
			}
			return err
		}
		defer func() {
			if err := records.Close(); err != nil {
				logger.Warn("closing the store", "error", err)
			}
		}()
		options := server.Options{
			Store: records, Address: given.advertised(listener.Addr()), Validate: config.Validate,
			Limits: given.limits, Logger: logger, Metrics: registry, ReturnWait: given.returnWait(),
		}
		var decider *server.Server
		if cluster != nil {
			options.Source = cluster
			if given.agentAccount != "" {
				options.Tokens = cluster.Tokens(given.agentAccount)
			}
			options.WhileLeading = func(ctx context.Context) { cluster.Mirror(ctx, decider) }
		}
		decider, err = server.New(options)
		if err != nil {
			return err
		}
		serving.Store(decider)
		logger.Info("serving", "listen", listener.Addr().String(), "tls", !given.tls.Insecure)
		doors := grpc.NewServer(slices.Concat(daemon.ServerOptions(creds), decider.ServerOptions())...)
		decider.Register(doors)
		return serve(ctx, decider, doors, daemon.LimitPerHost(listener, given.perHost, logger))
	})
	return group.Wait()
}

func openStore(ctx context.Context, given *flags, listening net.Addr, logger *slog.Logger) (*store.Store, error) {
	secure, err := given.etcdTLS()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	return store.Open(ctx, store.Options{
		DataDir: given.dataDir, Endpoints: given.etcdEndpoints, TLS: secure, Prefix: given.etcdPrefix,
		Instance: instance(listening), Logger: logger, ListenPeer: given.etcdListenPeer, ListenClient: given.etcdListenClient,
		MemberCert: given.etcdCert, MemberKey: given.etcdKey, MemberCA: given.etcdCA,
	})
}

// serve runs until ctx ends: then the office is given back, streams end, and calls under way get a short while.
func serve(ctx context.Context, decider *server.Server, doors *grpc.Server, listener net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer stop(doors)
		return decider.Run(ctx)
	})
	group.Go(func() error {
		if err := doors.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	return group.Wait()
}

func stop(doors *grpc.Server) {
	hurry := time.AfterFunc(stopTime, doors.Stop)
	defer hurry.Stop()
	doors.GracefulStop()
}
