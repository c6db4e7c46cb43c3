package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/internal/cniinstall"
	"github.com/clearway/clearway/cmd/internal/daemon"
)

// cniCommand is what an init container runs, and who uninstalls.
func cniCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cni",
		Short: "Install the CNI plugins and the network's configuration on this host, or remove them",
	}
	cmd.AddCommand(cniInstallCommand(), cniRemoveCommand())
	return cmd
}

// cniFlags are those of both commands.
type cniFlags struct {
	cniinstall.Installer
	log daemon.Log
}

func (f *cniFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.BinDir, "cni-bin-dir", "/opt/cni/bin", "`DIR` of the runtime's network plugins")
	flags.StringVar(&f.ConfDir, "cni-conf-dir", "/etc/cni/net.d", "`DIR` of the runtime's network configuration")
	f.log.AddFlags(flags)
	daemon.Bind(cmd)
}

// begin makes the installer ready.
func (f *cniFlags) begin() (err error) {
	f.Logger, err = f.log.New(os.Stderr)
	return err
}

func cniInstallCommand() *cobra.Command {
	given := &cniFlags{}
	conflist := ""
	cmd := &cobra.Command{
		Use:   "install --conflist FILE",
		Short: "Put the plugins that a network's configuration names in place, and then the configuration",
		Long: `Put the plugins that a network's configuration names into the runtime's folder, and then the configuration. Each file
appears whole or not at all, and the configuration last. Repeating it changes nothing.

A plugin of the same name that somebody else installed is used as it is, if it knows the configuration's CNI version.`,
		Example: `  clearway-agent cni install --conflist /etc/clearway/10-clearway.conflist --source /usr/lib/clearway/cni`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := given.begin(); err != nil {
				return err
			}
			if given.Name == "" {
				given.Name = filepath.Base(conflist)
			}
			if given.Name != filepath.Base(given.Name) || filepath.Ext(given.Name) != ".conflist" {
				return daemon.Usage("--name %q is not a file's name that ends in .conflist", given.Name)
			}
			text, err := os.ReadFile(conflist)
			if err != nil {
				return fmt.Errorf("--conflist: %w", err)
			}
			return given.Install(cmd.Context(), text)
		},
	}
	cmd.Flags().StringVar(&conflist, "conflist", "", "`FILE` of the network's configuration")
	cmd.Flags().StringVar(&given.Source, "source", "/usr/lib/clearway/cni", "`DIR` of the plugins to install")
	cmd.Flags().StringVar(&given.Name, "name", "", "`NAME` of the configuration on the host (default that of --conflist)")
	cmd.Flags().BoolVar(&given.Replace, "replace", false, "replace plugins of the same name that somebody else installed")
	_ = cmd.MarkFlagRequired("conflist")
	given.add(cmd)
	return cmd
}

func cniRemoveCommand() *cobra.Command {
	given := &cniFlags{}
	plugins, stay := false, false
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "Take the network's configuration out, so that no new Pod gets this network",
		Long: `Take the network's configuration out, so that no new Pod gets this network. The plugins stay, unless --plugins says
otherwise: while a Pod runs that has this network, its end needs them. What others have changed since it was installed stays.`,
		Example: `  clearway-agent cni remove
  clearway-agent cni remove --plugins`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := given.begin(); err != nil {
				return err
			}
			if err := given.Remove(plugins); err != nil {
				return err
			}
			if stay {
				<-cmd.Context().Done()
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&plugins, "plugins", false, "remove the plugins too: no Pod of this network runs any more")
	cmd.Flags().BoolVar(&stay, "stay", false, "wait for SIGTERM afterwards, as the Pod of a DaemonSet has to")
	given.add(cmd)
	return cmd
}
