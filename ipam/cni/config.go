package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/proto/plain"
)

// DefaultSocket is where the agent listens unless the network configuration says otherwise.
const DefaultSocket = "/run/clearway/agent.sock"

// Bounds of the input, the last two as the agent has them. A socket's path is the kernel's sun_path less its final zero (unix(7)).
const (
	maxSocketPath = 107
	maxPools      = 16
	maxAddresses  = 16
)

// config is what the plugin reads of the network configuration on its standard input.
type config struct {
	CNIVersion string          `json:"cniVersion"`
	Name       string          `json:"name"`
	RawIPAM    json.RawMessage `json:"ipam"`
	// RuntimeConfig has the capabilities that the configuration asks for.
	RuntimeConfig struct {
		IPs         []string          `json:"ips"`
		Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
			// Labels are the Pod's, as CNI's conventions have them.
			Labels []label `json:"labels"`
		} `json:"cni"`
		// Clearway is what a runtime or a meta plugin may tell of the Pod's namespace.
		Clearway struct {
			NamespaceLabels      map[string]string `json:"namespaceLabels"`
			NamespaceAnnotations map[string]string `json:"namespaceAnnotations"`
		} `json:"clearway.io"`
	} `json:"args"`
	PrevResult map[string]any `json:"prevResult"`
	// Valid is empty when the runtime gave no list. OldValid is its name before CNI 1.1.0 was final.
	Valid    json.RawMessage `json:"cni.dev/valid-attachments"`
	OldValid json.RawMessage `json:"cni.dev/attachments"`

	IPAM ipamConfig `json:"-"`
}

// ipamConfig is the section "ipam".
type ipamConfig struct {
	Type   string   `json:"type"`
	Socket string   `json:"socket"`
	Pools  []string `json:"pools"`
}

// parseConfig reads and checks a network configuration. Errors have CNI's code 6 (it cannot be decoded) or 7 (it is
// wrong), and name the field.
func parseConfig(input []byte) (*config, error) {
	c, err := decodeConfig(input)
	if err != nil {
		return nil, err
	}
	strict := json.NewDecoder(bytes.NewReader(c.RawIPAM))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&ipamConfig{}); err != nil {
		return nil, wrong("ipam", strings.TrimPrefix(err.Error(), "json: "), "the fields are type, socket and pools")
	}
	return c, c.checkPools()
}

// parseConfigForRelease is parseConfig for verbs that only give back: what does not matter to them is not looked at, so
// that a mistake in a configuration that was changed meanwhile holds up no Pod's end.
func parseConfigForRelease(input []byte) (*config, error) { return decodeConfig(input) }

func decodeConfig(input []byte) (*config, error) {
	c := &config{}
	if err := json.Unmarshal(input, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration cannot be decoded", err.Error())
	}
	if len(c.RawIPAM) == 0 || string(c.RawIPAM) == "null" {
		return nil, wrong("ipam", "section is missing", `such as "ipam": {"type": "clearway-ipam"}`)
	}
	if err := json.Unmarshal(c.RawIPAM, &c.IPAM); err != nil {
		return nil, wrong("ipam", strings.TrimPrefix(err.Error(), "json: "), "type and socket are strings, pools is a list of strings")
	}
	return c, c.checkSocket()
}

func (c *config) checkSocket() error {
	if c.IPAM.Socket == "" {
		c.IPAM.Socket = DefaultSocket
	}
	switch socket := c.IPAM.Socket; {
	case !filepath.IsAbs(socket) || strings.ContainsRune(socket, 0):
		return wrong("ipam.socket", fmt.Sprintf("%q is not an absolute path", socket), "the default is "+DefaultSocket)
	case len(socket) > maxSocketPath:
		return wrong("ipam.socket", fmt.Sprintf("%q has %d bytes", socket, len(socket)), fmt.Sprintf("a socket's path has at most %d", maxSocketPath))
	}
	return nil
}

func (c *config) checkPools() error {
	if len(c.IPAM.Pools) > maxPools {
		return wrong("ipam.pools", fmt.Sprintf("has %d names", len(c.IPAM.Pools)), fmt.Sprintf("at most %d", maxPools))
	}
	for i, name := range c.IPAM.Pools {
		if name == "" {
			return wrong(fmt.Sprintf("ipam.pools[%d]", i), "is empty", "the name of an IPPool")
		}
	}
	return nil
}

type label struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// podLabels are the Pod's labels, or nil when nobody told them.
func (c *config) podLabels() map[string]string {
	if len(c.Args.CNI.Labels) == 0 {
		return nil
	}
	labels := make(map[string]string, len(c.Args.CNI.Labels))
	for _, one := range c.Args.CNI.Labels {
		labels[one.Key] = one.Value
	}
	return labels
}

// addresses are those asked for, from all the places where a runtime may say so, each once, without prefix length.
func (c *config) addresses(fromArgs string) ([]string, error) {
	type source struct {
		field string
		texts []string
	}
	var found []string
	for _, from := range []source{
		{"runtimeConfig.ips", c.RuntimeConfig.IPs},
		{"args.cni.ips", c.Args.CNI.IPs},
		{"CNI_ARGS IP", splitList(fromArgs)},
	} {
		for i, text := range from.texts {
			addr, err := parseAddress(text)
			if err != nil {
				return nil, wrong(fmt.Sprintf("%s[%d]", from.field, i), err.Error(), "")
			}
			if !slices.Contains(found, addr) {
				found = append(found, addr)
			}
		}
	}
	if len(found) > maxAddresses {
		return nil, wrong("runtimeConfig.ips", fmt.Sprintf("%d addresses are asked for", len(found)), fmt.Sprintf("at most %d", maxAddresses))
	}
	return found, nil
}

func splitList(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// parseAddress takes an address with or without prefix length: the pool's own is what counts.
func parseAddress(text string) (string, error) {
	if !strings.Contains(text, "/") {
		addr, err := cidr.ParseAddress(text)
		return addr.String(), err
	}
	prefix, err := cidr.ParseAddressPrefix(text)
	return prefix.Addr().String(), err
}

// validAttachments is GC's list. It may be empty (libcni writes null for that), but it must be there: absence is not
// "none is valid".
func (c *config) validAttachments() ([]plain.Attachment, error) {
	const field = "cni.dev/valid-attachments"
	raw := c.Valid
	if len(raw) == 0 {
		raw = c.OldValid
	}
	if len(raw) == 0 {
		return nil, wrong(field, "is missing", "a list of {containerID, ifname}, which may be empty")
	}
	var list []types.GCAttachment
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, wrong(field, strings.TrimPrefix(err.Error(), "json: "), "a list of {containerID, ifname}")
	}
	valid := make([]plain.Attachment, 0, len(list))
	for i, attachment := range list {
		if attachment.ContainerID == "" || attachment.IfName == "" {
			return nil, wrong(fmt.Sprintf("%s[%d]", field, i), "lacks containerID or ifname", "both are needed")
		}
		valid = append(valid, plain.Attachment{Network: c.Name, ContainerID: attachment.ContainerID, Ifname: attachment.IfName})
	}
	return valid, nil
}

// wrong is CNI's error 7, invalid network configuration.
func wrong(field, fault, right string) error {
	return types.NewError(types.ErrInvalidNetworkConfig, field+": "+fault, right)
}
