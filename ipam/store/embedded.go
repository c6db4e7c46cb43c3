package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/google/uuid"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// embedded is an etcd member inside this process. Our own calls are made in memory. It listens nowhere by default, so
// that any number of them run on one machine: its peer URL is a name only, until it is told to listen, so that members
// can be added to it.
type embedded struct {
	etcd     *embed.Etcd
	client   *clientv3.Client
	lock     *os.File
	instance string
}

func startEmbedded(ctx context.Context, options Options) (_ *embedded, err error) {
	if err := os.MkdirAll(options.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := os.Chmod(options.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	e := &embedded{}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if e.lock, err = lockFolder(options.DataDir); err != nil {
		return nil, err
	}
	if e.instance, err = instanceOf(options.DataDir); err != nil {
		return nil, err
	}
	config, err := embeddedConfig(options)
	if err != nil {
		return nil, err
	}
	if e.etcd, err = embed.StartEtcd(config); err != nil {
		return nil, fmt.Errorf("start embedded etcd in %s: %w", options.DataDir, err)
	}
	select {
	case <-e.etcd.Server.ReadyNotify():
	case err := <-e.etcd.Err():
		return nil, fmt.Errorf("start embedded etcd in %s: %w", options.DataDir, err)
	case <-e.etcd.Server.StopNotify():
		return nil, fmt.Errorf("start embedded etcd in %s: it stopped", options.DataDir)
	case <-ctx.Done():
		return nil, fmt.Errorf("start embedded etcd in %s: %w", options.DataDir, ctx.Err())
	}
	e.client = v3client.New(e.etcd.Server)
	if options.ListenPeer != "" {
		if err := e.advertise(ctx, options.ListenPeer); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// advertise makes the URL that the member listens at for peers the one that the cluster knows it by: it was made with
// another.
func (e *embedded) advertise(ctx context.Context, peer string) error {
	id := uint64(e.etcd.Server.MemberID())
	for _, member := range e.etcd.Server.Cluster().Members() {
		if uint64(member.ID) == id && slices.Equal(member.PeerURLs, []string{peer}) {
			return nil
		}
	}
	if _, err := e.client.MemberUpdate(ctx, id, []string{peer}); err != nil {
		return fmt.Errorf("tell the cluster that this member is at %s: %w", peer, err)
	}
	return nil
}

func embeddedConfig(options Options) (*embed.Config, error) {
	name := url.URL{Scheme: "http", Host: "localhost:2380"}
	config := embed.NewConfig()
	config.Name = "clearway"
	config.Dir = filepath.Join(options.DataDir, "etcd")
	config.ListenPeerUrls, config.ListenClientUrls = nil, nil
	config.AdvertisePeerUrls, config.AdvertiseClientUrls = []url.URL{name}, []url.URL{name}
	// One member elects itself: it need not wait for others.
	config.TickMs, config.ElectionMs = 50, 500
	if options.ListenPeer != "" {
		if err := listen(config, options); err != nil {
			return nil, err
		}
	}
	config.InitialCluster = config.Name + "=" + config.AdvertisePeerUrls[0].String()
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(newBridge(options.Logger)))
	config.EnableGRPCGateway = false
	config.QuotaBackendBytes = options.QuotaBytes
	config.MaxRequestBytes = 4 << 20 // a transaction of MaxOps resources
	// History is read only by watchers that lag: minutes suffice, and the size stays small.
	config.AutoCompactionMode = embed.CompactorModePeriodic
	config.AutoCompactionRetention = "5m"
	config.WarningApplyDuration = 500 * time.Millisecond
	return config, nil
}

// listen opens the member to others.
func listen(config *embed.Config, options Options) error {
	peer, err := url.Parse(options.ListenPeer)
	if err != nil {
		return fmt.Errorf("peer URL: %w", err)
	}
	client, err := url.Parse(options.ListenClient)
	if err != nil {
		return fmt.Errorf("client URL: %w", err)
	}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	if options.MemberCert != "" {
		secure := transport.TLSInfo{
			CertFile: options.MemberCert, KeyFile: options.MemberKey, TrustedCAFile: options.MemberCA, ClientCertAuth: true,
		}
		config.PeerTLSInfo, config.ClientTLSInfo = secure, secure
	}
	// Others are further away than memory: they get etcd's own times.
	defaults := embed.NewConfig()
	config.TickMs, config.ElectionMs = defaults.TickMs, defaults.ElectionMs
	return nil
}

// lockFolder makes sure that one process uses the folder; etcd itself would wait for the other without a word.
func lockFolder(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("data folder %s is in use by another process", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return file, nil
}

// instanceOf reads the folder's name for itself, and gives it one at first.
func instanceOf(dir string) (string, error) {
	path := filepath.Join(dir, "instance")
	text, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(text)) != "" {
		return strings.TrimSpace(string(text)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	instance := uuid.NewString()
	if err := renameio.WriteFile(path, []byte(instance+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	return instance, nil
}

func (e *embedded) close() {
	if e.client != nil {
		_ = e.client.Close()
	}
	if e.etcd != nil {
		e.etcd.Close()
	}
	if e.lock != nil {
		_ = e.lock.Close()
	}
}
