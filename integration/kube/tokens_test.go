package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/integration/kubeapi"
	"github.com/clearway/clearway/proto/clearway/v1"
)

// testTokens: an agent's token, which the API server issued for its Pod, makes it the node that the Pod is on, and nothing
// else does. The manifests are applied: the accounts are theirs.
func testTokens(t *testing.T, c *cluster) {
	pki := t.TempDir()
	for _, argv := range [][]string{
		{"pki", "init", "--dir", pki}, {"pki", "issue", "ipamd", "--san", "127.0.0.1", "--dir", pki},
	} {
		if out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "clearwayctl"), argv...).CombinedOutput(); err != nil {
			t.Fatalf("clearwayctl %v: %v: %s", argv, err, out)
		}
	}
	authority, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	i := startSecureIpamd(t, credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}),
		"--kubeconfig", c.Kubeconfig(kubeapi.Ipamd), "--agent-service-account", "clearway-system/clearway-agent",
		"--tls-cert", filepath.Join(pki, "ipamd.crt"), "--tls-key", filepath.Join(pki, "ipamd.key"), "--tls-ca", filepath.Join(pki, "ca.crt"))

	c.pod(t, "agent-1", "clearway-agent", "n1")
	c.pod(t, "other-1", "clearway-ipamd", "n1")
	for _, one := range []struct {
		name, token, node string
		want              codes.Code
		says              string
	}{
		{"its own node", c.token(t, "clearway-agent", "agent-1", "clearway-ipamd"), "n1", codes.OK, ""},
		{"another node", c.token(t, "clearway-agent", "agent-1", "clearway-ipamd"), "n2", codes.PermissionDenied, "is a node's: calls of node \"n2\" take its own"},
		{"a token for the API server", c.token(t, "clearway-agent", "agent-1", "https://local"), "n1", codes.PermissionDenied,
			"the API server does not know it for audience clearway-ipamd"},
		{"another account's", c.token(t, "clearway-ipamd", "other-1", "clearway-ipamd"), "n1", codes.PermissionDenied,
			"it is of system:serviceaccount:clearway-system:clearway-ipamd, and not of the agents' service account"},
		{"a made-up one", "one.two.three", "n1", codes.PermissionDenied, "does not know it"},
		{"none", "", "n1", codes.Unauthenticated, "neither a certificate nor a token"},
	} {
		t.Run(one.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if one.token != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+one.token)
			}
			_, err := clearwayv1.NewNodeServiceClient(i.conn).Register(ctx, &clearwayv1.RegisterRequest{
				Node: one.node, MachineId: "m", BootId: "b", JournalId: "j", ProcessId: "p",
			})
			if status.Code(err) != one.want || err != nil && !has(err.Error(), one.says) {
				t.Errorf("%v, not %v with %q", err, one.want, one.says)
			}
			list, err := clearwayv1.NewResourceServiceClient(i.conn).List(ctx, &clearwayv1.ListRequest{Kind: "IPPool"})
			if err == nil {
				_, err = list.Recv()
			}
			if err == nil || errors.Is(err, io.EOF) {
				t.Errorf("it may read resources: %v", err)
			}
		})
	}
}

// startSecureIpamd is startIpamd with TLS.
func startSecureIpamd(t *testing.T, creds credentials.TransportCredentials, more ...string) *ipamd {
	t.Helper()
	i := newIpamd(t, more...)
	i.launch(t)
	conn, err := grpc.NewClient(i.listen, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	i.conn = conn
	return i
}
