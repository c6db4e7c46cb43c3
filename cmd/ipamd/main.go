package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/internal/daemon"
)

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	given := defaults()
	cmd := &cobra.Command{
		Use:   "clearway-ipamd",
		Short: "Carve blocks out of address pools, and tell every node who owns which",
		Long: `clearway-ipamd keeps pools, blocks and the BGP configuration in etcd and serves agents and operators over gRPC.

With --data-dir it runs an embedded etcd, for one machine. With --etcd-endpoints it uses a cluster, and any number of
clearway-ipamd may run beside each other: one of them leads, the others take over when it is gone.

With --tls-cert, --tls-key and --tls-ca every caller must show a certificate of these authorities. One whose
organization is clearway:operators may change resources and speak for any node; one whose common name is a node's name
(with or without "node:" before it), or that has it among its DNS names, may speak for that node; each may read.
Files that change are used from the next connection on.`,
		Example: `  clearway-ipamd --listen 192.0.2.10:7470 --data-dir /var/lib/clearway-ipamd --insecure
  clearway-ipamd --listen 192.0.2.10:7470 --etcd-endpoints https://192.0.2.21:2379,https://192.0.2.22:2379 \
      --etcd-cert etcd.pem --etcd-key etcd.key --etcd-ca etcd-ca.pem \
      --tls-cert ipamd.pem --tls-key ipamd.key --tls-ca ca.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := given.log.New(os.Stderr)
			if err != nil {
				return err
			}
			if err := given.check(); err != nil {
				return err
			}
			return run(cmd.Context(), given, logger)
		},
	}
	given.addFlags(cmd.Flags())
	daemon.Bind(cmd)
	return cmd
}
