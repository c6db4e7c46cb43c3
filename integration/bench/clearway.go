package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// clearway is ipamd over its embedded etcd and one agent, in one namespace.
type clearway struct {
	ipamd, agent *process
	socket       string
}

const (
	ipamdAddress   = "127.0.0.1:7470"
	ipamdReadyURL  = "http://127.0.0.1:7471/readyz"
	agentReadyURL  = "http://127.0.0.1:7472/readyz"
	readinessLimit = 30 * time.Second
)

// startClearway runs ipamd, applies the resources, runs the agent, and waits until it is ready. What has been started
// is in the answer also when it fails.
func startClearway(ctx context.Context, env *environment, in *namespace, dir string, node netip.Addr, resources string) (started clearway, err error) {
	ipamd, err := env.binary("clearway-ipamd")
	if err != nil {
		return started, err
	}
	agent, err := env.binary("clearway-agent")
	if err != nil {
		return started, err
	}
	started.socket = filepath.Join(dir, "agent.sock")
	started.ipamd, err = start(in, dir, ipamd, "--data-dir", filepath.Join(dir, "ipamd"), "--listen", ipamdAddress, "--insecure")
	if err != nil {
		return started, err
	}
	if err := awaitReady(ctx, in, started.ipamd, ipamdReadyURL); err != nil {
		return started, err
	}
	if err := apply(ctx, env, in, resources); err != nil {
		return started, err
	}
	started.agent, err = start(in, dir, agent, "--node", "bench", "--server", ipamdAddress, "--insecure",
		"--data-dir", filepath.Join(dir, "agent"), "--socket", started.socket, "--node-ip", node.String())
	if err != nil {
		return started, err
	}
	return started, awaitReady(ctx, in, started.agent, agentReadyURL)
}

func (c clearway) stop() {
	for _, each := range []*process{c.agent, c.ipamd} {
		if each != nil {
			each.stop()
		}
	}
}

func apply(ctx context.Context, env *environment, in *namespace, resources string) error {
	path, err := env.binary("clearwayctl")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readinessLimit)
	defer cancel()
	var said bytes.Buffer
	command := exec.CommandContext(ctx, path, "--server", ipamdAddress, "--insecure", "apply", "-f", "-")
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(resources), &said, &said
	if err := in.do(command.Run); err != nil {
		return fmt.Errorf("clearwayctl apply: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// awaitReady asks /readyz until it says yes.
func awaitReady(ctx context.Context, in *namespace, of *process, url string) error {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = in.do(func() error {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		},
	}}
	return eventually(ctx, readinessLimit, of.name+" ready", of, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		if answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s says %s", url, answer.Status)
		}
		return errors.Join(err, answer.Body.Close())
	})
}
