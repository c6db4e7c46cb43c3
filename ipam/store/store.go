package store

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// Store keeps records in etcd. It is safe for concurrent use.
type Store struct {
	client   *clientv3.Client
	kv       clientv3.KV      // below the prefix
	watcher  clientv3.Watcher // below the prefix
	embedded *embedded        // nil with a cluster of its own
	instance string
	log      *slog.Logger
	ttl      time.Duration
	timeout  time.Duration
	expiry   expiry
}

// Open connects to etcd, or starts the embedded one and waits until it serves. A cluster that cannot be reached is no
// error here: each call tells it.
func Open(ctx context.Context, options Options) (*Store, error) {
	if err := options.complete(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{
		instance: options.Instance, log: options.Logger,
		ttl: options.OfficeTTL, timeout: options.CallTimeout, expiry: expiry{turn: make(chan struct{}, 1)},
	}
	var err error
	if options.DataDir != "" {
		err = s.openEmbedded(ctx, options)
	} else {
		err = s.openCluster(options)
	}
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.kv = namespace.NewKV(s.client.KV, options.Prefix)
	s.watcher = namespace.NewWatcher(s.client.Watcher, options.Prefix)
	return s, nil
}

func (s *Store) openEmbedded(ctx context.Context, options Options) error {
	embedded, err := startEmbedded(ctx, options)
	if err != nil {
		return err
	}
	s.embedded, s.client, s.instance = embedded, embedded.client, embedded.instance
	return nil
}

func (s *Store) openCluster(options Options) error {
	var err error
	s.client, err = clientv3.New(clientv3.Config{
		Endpoints:            options.Endpoints,
		TLS:                  options.TLS,
		DialTimeout:          options.CallTimeout,
		DialKeepAliveTime:    5 * time.Second, // a cut connection is found before the office is lost for others
		DialKeepAliveTimeout: 3 * time.Second,
		MaxCallRecvMsgSize:   64 << 20,
		MaxCallSendMsgSize:   8 << 20,
		Logger:               zap.New(newBridge(options.Logger)),
		DialOptions: []grpc.DialOption{
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Second, Timeout: 3 * time.Second}),
		},
	})
	if err != nil {
		return fmt.Errorf("etcd client of %v: %w", options.Endpoints, err)
	}
	return nil
}

// Close ends the connection, and the embedded etcd where there is one.
func (s *Store) Close() error {
	err := s.client.Close()
	if s.embedded != nil {
		s.embedded.close()
		return nil // the in-process client has no connection to close
	}
	if err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// bound gives a call its deadline.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.timeout)
}
