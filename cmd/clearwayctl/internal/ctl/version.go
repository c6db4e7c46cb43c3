package ctl

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/internal/daemon"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show this program's version",
		Example: "  clearwayctl version -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, structured := a.structured(); structured {
				return a.printValue(cmd, daemon.Version())
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "clearwayctl %s\n", daemon.Version())
			return err
		},
	}
}
