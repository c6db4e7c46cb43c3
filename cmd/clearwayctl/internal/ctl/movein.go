package ctl

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/ipam/kube"
	"github.com/clearway/clearway/ipam/migrate"
	"github.com/clearway/clearway/proto/clearway/v1"
)

// moveIn is a move from another network of Kubernetes.
type moveIn struct {
	*app
	system     migrate.System
	kubeconfig string
	files      []string
	network    string
	apply      bool
}

func (a *app) moveInCommand() *cobra.Command {
	m := &moveIn{app: a}
	var systems []string
	for _, one := range migrate.Systems() {
		systems = append(systems, string(one))
	}
	cmd := &cobra.Command{
		Use:       "migrate " + strings.Join(systems, "|"),
		Short:     "Move in from Calico, flannel or Cilium: their resources, live blocks and addresses become Clearway's",
		ValidArgs: systems,
		Long: `Read what another network has in Kubernetes, and show what of it becomes which resources of Clearway, which blocks and addresses
nodes keep, and what has no counterpart. Nothing is changed without --apply.

With --apply the resources are applied (those that exist already stay as they are), and each node is taken in: its blocks are its
own from then on, and its agent, when it starts, gives no new address of them before it has accounted for every old one. Running
Pods keep their addresses. It may be repeated while it goes on, until the agents start; blocks that the other network gives in the
meantime are taken in by the next time. Nothing of the other network is changed.

It reads the API server as kubectl would (--kubeconfig), or files that "kubectl get -o yaml" wrote (-f). Findings are STOPS:
nothing is applied before it is put right; DIFFERS: somebody should know before; LEFT: it is not taken over, and nothing breaks.

Exit codes of a plan: 0, or 4 when something stops it.`,
		Example: `  clearwayctl migrate calico --plan
  clearwayctl migrate calico --plan -o yaml > plan.yaml
  clearwayctl migrate calico --apply
  kubectl get nodes,pods,configmaps -A -o yaml | clearwayctl migrate flannel -f -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(systems, args[0]) {
				return daemon.Usage("which network to move in from must be one of %s, not %q", strings.Join(systems, ", "), strings.Join(args, " "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			m.system = migrate.System(args[0])
			return m.run(cmd)
		},
	}
	flags := cmd.Flags()
	flags.Bool("plan", false, "show what would be done, and change nothing (the default)")
	flags.BoolVar(&m.apply, "apply", false, "do it")
	flags.StringVar(&m.kubeconfig, "kubeconfig", "", "`FILE` that says which API server; default: what kubectl uses")
	flags.StringArrayVarP(&m.files, "filename", "f", nil, "read the objects of `FILE` in place of the API server; - is standard input; may be repeated")
	flags.StringVar(&m.network, "network", "clearway", "`NAME` of the network's configuration (conflist) that Clearway is installed with")
	cmd.MarkFlagsMutuallyExclusive("plan", "apply")
	cmd.MarkFlagsMutuallyExclusive("kubeconfig", "filename")
	_ = cmd.MarkFlagFilename("kubeconfig")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	return cmd
}

func (m *moveIn) run(cmd *cobra.Command) error {
	m.timeout = max(m.timeout, checkTime) // thousands of Pods are read
	objects, err := m.read(cmd)
	if err != nil {
		return err
	}
	made, err := migrate.Make(m.system, objects, migrate.Options{Network: m.network})
	if err != nil {
		return err
	}
	if !m.apply {
		if err := m.show(cmd, made); err != nil {
			return err
		}
		if made.Stopped() {
			return daemon.Exit(daemon.ExitNo, nil)
		}
		return nil
	}
	if made.Stopped() {
		if err := m.show(cmd, made); err != nil {
			return err
		}
		return errors.New("nothing was changed: put right first what STOPS it")
	}
	return m.call(cmd, func(ctx context.Context, calls *client.Client) error { return m.do(ctx, cmd, calls, made) })
}

// read gets the objects of the files, or of the API server.
func (m *moveIn) read(cmd *cobra.Command) (all []map[string]any, err error) {
	if len(m.files) == 0 {
		ctx, cancel := context.WithTimeout(cmd.Context(), m.timeout)
		defer cancel()
		var wanted []kube.Wanted
		for _, one := range migrate.Sources(m.system) {
			wanted = append(wanted, kube.Wanted(one))
		}
		return kube.Read(ctx, m.kubeconfig, wanted)
	}
	for _, name := range m.files {
		in := cmd.InOrStdin()
		if name != "-" {
			file, err := os.Open(name)
			if err != nil {
				return nil, err
			}
			defer file.Close()
			in = file
		}
		read, err := readObjects(in)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, read...)
	}
	return all, nil
}

// readObjects reads objects of any kind as kubectl writes them, in YAML or JSON, and those in lists.
func readObjects(from io.Reader) (all []map[string]any, err error) {
	for decoder := yaml.NewDecoder(from); ; {
		var one map[string]any
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		items, isList := one["items"].([]any)
		if !isList {
			if one != nil {
				all = append(all, one)
			}
			continue
		}
		for _, item := range items {
			object, ok := item.(map[string]any)
			if !ok {
				return nil, fmt.Errorf("an item of a list is no object: %.60v", item)
			}
			all = append(all, object)
		}
	}
}

// show prints a plan.
func (m *moveIn) show(cmd *cobra.Command, made *migrate.Plan) error {
	if _, structured := m.structured(); structured {
		return m.showWhole(cmd, made)
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	var resources, nodes, findings [][]string
	for _, one := range made.Resources {
		resources = append(resources, []string{string(one.ProtoReflect().Descriptor().Name()), one.GetMetadata().GetName()})
	}
	for _, one := range made.Nodes {
		nodes = append(nodes, []string{one.GetNode(), strconv.Itoa(len(one.GetBlocks())), strconv.Itoa(len(one.GetAssignments()))})
	}
	for _, one := range made.Findings {
		findings = append(findings, []string{string(one.Weight), one.Object, one.Text})
	}
	var failed error
	for i, table := range []struct {
		title   string
		columns []string
		rows    [][]string
	}{
		{"Resources to apply (-o yaml shows them whole):", []string{"KIND", "NAME"}, resources},
		{"Nodes to take in:", []string{"NODE", "BLOCKS", "ADDRESSES"}, nodes},
		{"Findings:", []string{"WEIGHT", "OBJECT", "TEXT"}, findings},
	} {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintln(out, table.title)
		failed = errors.Join(failed, view.Rows(out, m.style(), table.columns, table.rows))
	}
	return errors.Join(failed, out.Flush())
}

// showWhole prints a plan for a program.
func (m *moveIn) showWhole(cmd *cobra.Command, made *migrate.Plan) error {
	whole := struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Resources  []json.RawMessage `json:"resources"`
		Nodes      []json.RawMessage `json:"nodes"`
		Findings   []migrate.Finding `json:"findings"`
	}{clearwayv1.APIVersion, "MigrationPlan", []json.RawMessage{}, []json.RawMessage{}, made.Findings}
	for _, one := range made.Resources {
		text, err := protojson.Marshal(one)
		if err != nil {
			return err
		}
		whole.Resources = append(whole.Resources, text)
	}
	for _, one := range made.Nodes {
		text, err := protojson.Marshal(one)
		if err != nil {
			return err
		}
		whole.Nodes = append(whole.Nodes, text)
	}
	return m.printValue(cmd, whole)
}

// do applies a plan: what is missing of the resources, then, when every node can be taken in, each of them.
func (m *moveIn) do(ctx context.Context, cmd *cobra.Command, calls *client.Client, made *migrate.Plan) error {
	out := cmd.OutOrStdout()
	if err := m.applyMissing(ctx, out, calls, made.Resources); err != nil {
		return err
	}
	for _, node := range made.Nodes {
		dry := proto.CloneOf(node)
		dry.DryRun = true
		if _, err := calls.Adopt(ctx, dry); err != nil {
			return fmt.Errorf("no node was taken in: node %s: %w", node.GetNode(), err)
		}
	}
	blocks, addresses := 0, 0
	for i, node := range made.Nodes {
		if _, err := calls.Adopt(ctx, node); err != nil {
			return fmt.Errorf("%d of %d nodes were taken in; repeat the command: node %s: %w", i, len(made.Nodes), node.GetNode(), err)
		}
		blocks, addresses = blocks+len(node.GetBlocks()), addresses+len(node.GetAssignments())
	}
	fmt.Fprintf(out, "%s taken in, with %s and %s\n", plural(len(made.Nodes), "node"), plural(blocks, "block"), plural(addresses, "address"))
	for _, one := range made.Findings {
		if one.Weight == migrate.Differs {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s %s: %s\n", one.Weight, one.Object, one.Text)
		}
	}
	return nil
}

// applyMissing applies the resources that are not there yet. Those that are stay as somebody wants them.
func (m *moveIn) applyMissing(ctx context.Context, out io.Writer, calls *client.Client, resources []clearwayv1.Object) error {
	there := map[string]bool{}
	for _, kind := range clearwayv1.Kinds() {
		if !clearwayv1.Writable(kind) {
			continue
		}
		objects, _, err := calls.List(ctx, &clearwayv1.ListRequest{Kind: kind})
		if err != nil {
			return err
		}
		for _, one := range objects {
			if _, isNode := one.(*clearwayv1.Node); !isNode { // each machine is one, and what is said of it is laid over
				there[clearwayv1.KeyOf(one)] = true
			}
		}
	}
	var missing []*clearwayv1.Resource
	for _, one := range resources {
		if there[clearwayv1.KeyOf(one)] {
			fmt.Fprintf(out, "%s is there already, and stays as it is\n", view.Lower(one))
			continue
		}
		missing = append(missing, clearwayv1.Wrap(one))
	}
	for part := range slices.Chunk(missing, clearwayv1.MaxApply) {
		results, err := calls.Apply(ctx, &clearwayv1.ApplyRequest{Resources: part, RequestKey: uuid.NewString()})
		if err != nil {
			return fmt.Errorf("the resources were not applied: %w", err)
		}
		for i, result := range results {
			fmt.Fprintf(out, "%s %s\n", view.Lower(part[i].Object()), action(result.GetAction()))
		}
	}
	return nil
}
