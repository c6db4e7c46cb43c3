package kubeapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// client trusts one authority, and reaches it in a network namespace, by its file, or in ours.
func client(authority []byte, network string) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 8, ForceAttemptHTTP2: true,
	}
	if network != "" {
		transport.DialContext = func(ctx context.Context, kind, address string) (net.Conn, error) {
			return dialIn(ctx, network, kind, address)
		}
	}
	return &http.Client{Transport: transport}
}

// dialIn opens a connection from inside a network namespace. A socket stays in the one that it was made in.
func dialIn(ctx context.Context, network, kind, address string) (net.Conn, error) {
	file, err := os.Open(network)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{nil, fmt.Errorf("enter %s: %w", network, err)}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, kind, address) // an address, no name: no other goroutine dials
		done <- result{conn, err}
	}()
	made := <-done
	return made.conn, made.err
}
