// Command lab builds the networks of containerlab topology files on this machine, without containers.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/integration/lab"
)

func main() {
	lab.ServeChild()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := command().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
		os.Exit(exit.ExitCode()) // exec: the command's own, which has spoken for itself
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	os.Exit(1)
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "Networks of containerlab topology files, from namespaces on this machine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	var once bool
	demo := &cobra.Command{
		Use: "demo", Short: "Raise two racks, make Pods, ping across, show it; stays up until Ctrl-C", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return demo(cmd.Context(), once) },
	}
	demo.Flags().BoolVar(&once, "once", false, "end when all was shown")
	var name string
	run := &cobra.Command{
		Use: "exec NODE [--] COMMAND...", Short: "Run a command in a node of a lab that is up", Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			command := args[1:]
			if command[0] == "--" && len(command) > 1 { // behind the first argument it is none of pflag's business
				command = command[1:]
			}
			return attach(name, args[0], command)
		},
	}
	run.Flags().StringVar(&name, "lab", "", "the lab, when several are up")
	run.Flags().SetInterspersed(false) // the command's flags are its own
	root.AddCommand(demo, run,
		&cobra.Command{
			Use: "up FILE", Short: "Raise a topology; stays up until Ctrl-C, or lab down", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return up(cmd.Context(), args[0]) },
		},
		&cobra.Command{
			Use: "down [LAB]", Short: "End a lab that is up", Args: cobra.MaximumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return down(cmd.Context(), strings.Join(args, "")) },
		},
		&cobra.Command{
			Use: "list", Short: "List the labs that are up, and their nodes", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return list() },
		},
	)
	return root
}

func up(ctx context.Context, file string) error {
	topology, err := lab.ReadTopology(file)
	if err != nil {
		return err
	}
	say := newScreen()
	l, err := raise(ctx, say, topology)
	if err != nil {
		return err
	}
	defer l.Down()
	say.step("%s is up; %s", l.Name, say.bold("Ctrl-C ends it"))
	<-ctx.Done()
	return nil
}

// raise builds what the topology needs of ours, then the lab.
func raise(ctx context.Context, say *screen, topology *lab.Topology) (*lab.Lab, error) {
	options := lab.Options{
		Topology: topology, Progress: func(format string, args ...any) { say.detail(format, args...) },
	}
	for _, node := range topology.Nodes {
		if !strings.HasPrefix(filepath.Base(node.Image), "clearway") {
			continue
		}
		say.step("Building Clearway")
		bin, err := lab.Build(ctx)
		if err != nil {
			return nil, err
		}
		options.BinDir = bin
		break
	}
	say.step("Raising %s", topology.Name)
	return lab.Up(ctx, options)
}

// choose finds the nodes of one lab by its name or id; without either there must be one lab only.
func choose(name string) ([]lab.RunningNode, error) {
	var nodes []lab.RunningNode
	ids := map[string]bool{}
	for _, node := range lab.Find() {
		if name == "" || name == node.Lab || name == node.ID {
			nodes = append(nodes, node)
			ids[node.ID] = true
		}
	}
	switch {
	case len(ids) == 0:
		return nil, errors.New(strings.Join(strings.Fields("no lab "+name+" is up"), " "))
	case len(ids) > 1:
		return nil, errors.New("several labs are up; choose one by its id (lab list)")
	}
	return nodes, nil
}

func attach(name, node string, argv []string) error {
	nodes, err := choose(name)
	if err != nil {
		return err
	}
	var names []string
	for _, candidate := range nodes {
		if candidate.Node == node {
			return lab.Attach(candidate, argv)
		}
		names = append(names, candidate.Node)
	}
	return fmt.Errorf("lab %s has no node %q; it has %s", nodes[0].Lab, node, strings.Join(names, ", "))
}

func down(ctx context.Context, name string) error {
	nodes, err := choose(name)
	if err != nil {
		return err
	}
	if err := syscall.Kill(nodes[0].Owner, syscall.SIGTERM); err != nil {
		return fmt.Errorf("end process %d, which holds the lab: %w", nodes[0].Owner, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return lab.Poll(ctx, "the lab to go", func() error {
		for _, node := range lab.Find() {
			if node.ID == nodes[0].ID {
				return fmt.Errorf("node %s is there", node.Node)
			}
		}
		return nil
	})
}

func list() error {
	for _, node := range lab.Find() {
		fmt.Printf("%-20s %s  %-12s pid %d\n", node.Lab, node.ID, node.Node, node.PID)
	}
	return nil
}
