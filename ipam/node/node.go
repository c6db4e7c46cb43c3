package node

import (
	"context"
	"io"
	"log/slog"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Conn is a connection to one ipamd.
type Conn interface {
	grpc.ClientConnInterface
	io.Closer
}

// Options are all that a Node needs to know. Node, DataDir, BootID, Servers, Dial and Logger must be set.
type Options struct {
	// Node is the node's name, a DNS subdomain; NodeUID its UID in Kubernetes, else empty.
	Node, NodeUID string
	// MachineID and BootID are the machine's and the kernel's. A new BootID means that no Pod of before lives.
	MachineID, BootID string
	// Version is the agent's, for the operator.
	Version string
	// DataDir holds the journal and the persisted snapshots, SpoolDir the DELs that the plugin left while no agent
	// answered. SpoolDir may be empty: there are none.
	DataDir, SpoolDir string
	// Addresses are the node's own, with prefix length, as reported to ipamd.
	Addresses []netip.Prefix
	// Labels are those the node reports. Once a snapshot came, the labels in it hold.
	Labels map[string]string
	// Servers are ipamd's addresses, tried in this order. Dial connects to one of them, or to the leader that one of
	// them named; it may connect lazily.
	Servers []string
	Dial    func(ctx context.Context, server string) (Conn, error)
	Logger  *slog.Logger
	// Metrics is where clearway_ipam_* are registered; nil: nowhere.
	Metrics prometheus.Registerer

	// OnState is told the newest state: first when it is known what to go by, then after each change. Never called
	// twice at once; states that were overtaken are left out. What it gets is not to be changed.
	OnState func(State)
	// OnOwnership is told every piece of the ownership log in order: from disk at start (where there is one), then as
	// ipamd sends them, and only whole groups, up to a piece with complete. Never called twice at once.
	OnOwnership func(*clearwayv1.WatchOwnershipResponse)
	// Query answers an operator's question for the kinds this package does not know. It is called concurrently.
	Query func(context.Context, *clearwayv1.ListRequest) ([]*clearwayv1.Resource, error)
	// Status is asked for each report to ipamd; node, session and block use are filled in here. Events it returns are
	// reported once. StatusChanged, where not nil, asks for a report soon.
	Status        func() *clearwayv1.ReportStatusRequest
	StatusChanged <-chan struct{}
}

// State is what the node's other half goes by.
type State struct {
	// Snapshot is the newest configuration; nil means that none is known yet.
	Snapshot *clearwayv1.NodeSnapshot
	// Blocks are the node's own, to be advertised and blackholed now, in ascending order. A block that is being given
	// back is no longer among them; sealed ones are.
	Blocks []netip.Prefix
	// Online: ipamd answers.
	Online bool
	// FromDisk: Snapshot is of before this start, ipamd has not sent a newer one.
	FromDisk bool
}

// Node is the agent's half of address management.
type Node struct {
	options Options
}

// Open reads the journal and the persisted snapshots, and makes them where there are none. The node answers no ADD
// before Run. An error names the file that could not be used.
func Open(options Options) (*Node, error) {
	return &Node{options: options}, nil
}

// Run serves until ctx ends, and then returns nil. Any other return is an error after which the process has to be
// started anew: the journal can no longer be written.
func (n *Node) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Close ends the journal. After it nothing is answered.
func (n *Node) Close() error { return nil }

// AddressServer is what the CNI plugin calls.
func (n *Node) AddressServer() clearwayv1.AddressServiceServer {
	return clearwayv1.UnimplementedAddressServiceServer{}
}

// List answers for the kinds Block and Assignment, the node's own ones, in the order of addresses.
func (n *Node) List(context.Context, *clearwayv1.ListRequest) ([]*clearwayv1.Resource, error) {
	return nil, nil
}

// Ready tells whether the node has a snapshot and may answer an ADD.
func (n *Node) Ready() bool { return false }
