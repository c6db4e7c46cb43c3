package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
)

// exportKind is the kind of a file that export writes.
const exportKind = "Export"

// exportFile is what export writes and import reads.
type exportFile struct {
	APIVersion  string            `json:"apiVersion"`
	Kind        string            `json:"kind"`
	Version     int32             `json:"version"`
	Incarnation string            `json:"incarnation"`
	Revision    int64             `json:"revision"`
	CreatedTime time.Time         `json:"createdTime"`
	Items       []json.RawMessage `json:"items"`
}

func (a *app) ipamExportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export",
		Short: "Write pools and all other resources, blocks, assignments and nodes to standard output",
		Long: `Write all that ipamd keeps to standard output, as it is at one revision: what was applied, blocks, assignments and nodes,
with the store's incarnation and revision. In JSON, or with -o yaml in YAML. It is for a store that is lost altogether: see
"ipam import". etcd's own backup is the better one while there is a store.`,
		Example: `  clearwayctl ipam export > clearway-$(date +%F).json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				file := &exportFile{}
				if err := calls.Export(ctx, file.add); err != nil {
					return err
				}
				if a.output == "table" || a.output == "wide" {
					a.output = "json"
				}
				return a.printValue(cmd, file)
			})
		},
	}
}

// add takes a part of an export. A header begins anew: the call was repeated.
func (f *exportFile) add(header *clearwayv1.ExportHeader, resources []*clearwayv1.Resource) error {
	if header != nil {
		*f = exportFile{
			APIVersion: clearwayv1.APIVersion, Kind: exportKind, Version: header.GetVersion(), Incarnation: header.GetIncarnation(),
			Revision: header.GetRevision(), CreatedTime: header.GetCreatedTime().AsTime(), Items: []json.RawMessage{},
		}
	}
	for _, resource := range resources {
		text, err := protojson.Marshal(resource.Object())
		if err != nil {
			return err
		}
		f.Items = append(f.Items, text)
	}
	return nil
}

func (a *app) ipamImportCommand() *cobra.Command {
	var name string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Bring an export into a store that was made anew",
		Long: `Bring an export into a store that was made anew. The store then recovers: no block is given until every node of the export
has reported its own blocks, and the reports go before the export. It is refused when the store has moved on: when it has
nodes or blocks already, or is the one that the export is of.`,
		Example: `  clearwayctl ipam import -f clearway-2026-11-25.json --dry-run`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" {
				return daemon.Usage("which file to import is not said: -f FILE")
			}
			header, all, err := readExport(name)
			if err != nil {
				return err
			}
			a.timeout = max(a.timeout, checkTime)
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				answer, err := calls.Import(ctx, header, all, dryRun)
				if err != nil {
					return err
				}
				verb := "imported"
				if dryRun {
					verb = "could be imported"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s, %s, %s and %s %s\n", plural(int(answer.GetResources()), "resource"),
					plural(int(answer.GetNodes()), "node"), plural(int(answer.GetBlocks()), "block"),
					plural(int(answer.GetAssignments()), "assignment"), verb)
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&name, "filename", "f", "", "`FILE` that export wrote")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check, and change nothing")
	_ = cmd.MarkFlagFilename("filename", "json", "yaml", "yml")
	return cmd
}

// readExport reads a file that export wrote, in either form.
func readExport(name string) (*clearwayv1.ExportHeader, []*clearwayv1.Resource, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, err
	}
	var file exportFile
	if err := json.Unmarshal(text, &file); err != nil {
		var value any
		if yaml.Unmarshal(text, &value) != nil {
			return nil, nil, fmt.Errorf("%s is neither JSON nor YAML: %w", name, err)
		}
		if text, err = json.Marshal(value); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := json.Unmarshal(text, &file); err != nil {
			return nil, nil, fmt.Errorf("%s is no export: %w", name, err)
		}
	}
	if file.Kind != exportKind || file.APIVersion != clearwayv1.APIVersion {
		return nil, nil, fmt.Errorf("%s is no export: its apiVersion and kind must be %s and %s, not %q and %q",
			name, clearwayv1.APIVersion, exportKind, file.APIVersion, file.Kind)
	}
	header := &clearwayv1.ExportHeader{
		Version: file.Version, Incarnation: file.Incarnation, Revision: file.Revision, CreatedTime: timestamppb.New(file.CreatedTime),
	}
	all := make([]*clearwayv1.Resource, 0, len(file.Items))
	for i, item := range file.Items {
		resource, err := readItem(item)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: items[%d]: %w", name, i, err)
		}
		all = append(all, resource)
	}
	return header, all, nil
}

func readItem(text []byte) (*clearwayv1.Resource, error) {
	var head struct{ Kind string }
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, err
	}
	if head.Kind == "" {
		return nil, errors.New("it has no kind")
	}
	object, err := clearwayv1.New(head.Kind)
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(text, object); err != nil {
		return nil, err
	}
	return clearwayv1.Wrap(object), nil
}
