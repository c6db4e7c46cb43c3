package plain

import "time"

// Attachment is a container's interface on a network.
type Attachment struct{ Network, ContainerID, Ifname string }

// Pod is whose attachment it is.
type Pod struct{ Namespace, Name, UID string }

// AddRequest asks for addresses.
type AddRequest struct {
	Attachment Attachment
	// Pod is nil where the runtime says nothing of Kubernetes.
	Pod   *Pod
	Netns string
	// Pools are the names of those to take addresses from, of the network configuration; empty: whichever are for the Pod.
	Pools []string
	// Addresses are those that are asked for.
	Addresses []string
	// Annotations are the Pod's, where the runtime hands them over; labels and those of the namespace likewise.
	Annotations          map[string]string
	PodLabels            map[string]string
	NamespaceLabels      map[string]string
	NamespaceAnnotations map[string]string
	// Started is when the plugin began, by the machine's clock since its boot; 0: not known.
	Started time.Duration
}

// AddResponse is what an attachment got.
type AddResponse struct {
	Addresses []AddressConfig
	Routes    []RouteConfig
}

// AddressConfig is an address with its pool's prefix length, such as "10.244.3.7/16".
type AddressConfig struct{ Address, Gateway string }

// RouteConfig is a route that the attachment shall have.
type RouteConfig struct{ Destination, Gateway string }

// DelRequest gives back what an attachment holds.
type DelRequest struct {
	Attachment Attachment
	Pod        *Pod
}

// CheckRequest asks whether an attachment holds exactly these addresses.
type CheckRequest struct {
	Attachment Attachment
	Addresses  []string
}

// StatusRequest asks whether an Add would fail.
type StatusRequest struct {
	Network string
	Pools   []string
}

// GCRequest gives back what every other attachment of the network holds.
type GCRequest struct {
	Network          string
	ValidAttachments []Attachment
}

// CNIError is the detail of a failed call: a CNI error as the specification has it.
type CNIError struct {
	Code         uint32
	Msg, Details string
}
