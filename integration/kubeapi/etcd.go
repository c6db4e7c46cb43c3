package kubeapi

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcdEnv makes the test's own program an etcd; its value is the folder and the two URLs, one a line.
const etcdEnv = "CLEARWAY_KUBEAPI_ETCD"

// Main is to be called first in TestMain: where the program was started as the etcd, it is that and never returns.
func Main() {
	text := os.Getenv(etcdEnv)
	if text == "" {
		return
	}
	fmt.Fprintln(os.Stderr, serveEtcd(text))
	os.Exit(1)
}

func serveEtcd(text string) error {
	var dir, client, peer string
	if _, err := fmt.Sscanf(text, "%s\n%s\n%s", &dir, &client, &peer); err != nil {
		return fmt.Errorf("%s: %w", etcdEnv, err)
	}
	config := embed.NewConfig()
	config.Name, config.Dir, config.LogLevel = "kubeapi", dir, "error"
	clientURL, err := url.Parse(client)
	if err != nil {
		return err
	}
	peerURL, err := url.Parse(peer)
	if err != nil {
		return err
	}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*clientURL}, []url.URL{*clientURL}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peerURL}, []url.URL{*peerURL}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.UnsafeNoFsync = true // nobody pulls a plug here
	running, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	return <-running.Err()
}

// StartEtcd runs an etcd until the test ends and returns its client URL. It need not be waited for.
func StartEtcd(t testing.TB) string {
	t.Helper()
	return StartEtcdIn(t, "")
}

// StartEtcdIn is StartEtcd in a network namespace, by its file.
func StartEtcdIn(t testing.TB, network string) string {
	t.Helper()
	client, peer := "http://"+FreeAddress(t), "http://"+FreeAddress(t)
	cmd := command(network, os.Args[0])
	cmd.Env = append(os.Environ(), etcdEnv+"="+filepath.Join(t.TempDir(), "etcd")+"\n"+client+"\n"+peer)
	Launch(t, "etcd", cmd)
	return client
}
