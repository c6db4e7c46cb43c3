package cni

import (
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/clearway/clearway/proto/plain"
)

// environment is what the plugin reads of CNI_ARGS. The names are what runtimes write.
type environment struct {
	types.CommonArgs
	IP                         types.UnmarshallableString // one address, or several with commas between
	K8S_POD_NAMESPACE          types.UnmarshallableString //nolint:staticcheck // types.LoadArgs finds fields by name
	K8S_POD_NAME               types.UnmarshallableString //nolint:staticcheck // types.LoadArgs finds fields by name
	K8S_POD_UID                types.UnmarshallableString //nolint:staticcheck // types.LoadArgs finds fields by name
	K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString //nolint:staticcheck // types.LoadArgs finds fields by name
}

// parseArgs reads CNI_ARGS. An argument that is not known is an error, code 4, unless IgnoreUnknown is set.
func parseArgs(text string) (*environment, error) {
	env := &environment{}
	if err := types.LoadArgs(text, env); err != nil {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: "+err.Error(), `such as "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0"`)
	}
	return env, nil
}

// pod is nil where the runtime says nothing of Kubernetes.
func (e *environment) pod() *plain.Pod {
	pod := plain.Pod{Namespace: string(e.K8S_POD_NAMESPACE), Name: string(e.K8S_POD_NAME), UID: string(e.K8S_POD_UID)}
	if pod == (plain.Pod{}) {
		return nil
	}
	return &pod
}

func attachment(c *config, args *skel.CmdArgs) plain.Attachment {
	return plain.Attachment{Network: c.Name, ContainerID: args.ContainerID, Ifname: args.IfName}
}
