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
		Use:   "clearway-agent",
		Short: "Hand addresses to Pods, advertise the node's blocks and program learned routes",
		Long: `clearway-agent runs on each node. It hands addresses to Pods by the CNI plugin clearway-ipam, which calls it over
a unix socket; it advertises the node's blocks by BGP, and programs the routes that it learns into the kernel.

It starts and serves Pods without ipamd, by what it has on disk. SIGTERM is a restart: peers go on forwarding, and
the kernel keeps its routes.`,
		Example: `  clearway-agent --node r1n1 --server 192.0.2.10:7470 --node-ip 192.0.2.11 --insecure
  clearway-agent --node r1n1 --server 192.0.2.10:7470,192.0.2.20:7470 --labels rack=r1 \
      --tls-cert node.pem --tls-key node.key --tls-ca ca.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := given.log.New(os.Stderr)
			if err != nil {
				return err
			}
			settings, err := given.parse()
			if err != nil {
				return err
			}
			return run(cmd.Context(), settings, logger)
		},
	}
	given.addFlags(cmd.Flags())
	daemon.Bind(cmd)
	cmd.AddCommand(bfdCommand(), cniCommand())
	return cmd
}
