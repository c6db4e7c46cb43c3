package cni

import (
	"fmt"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/clearway/clearway/ipam/spool"
	"github.com/clearway/clearway/proto/plain"
)

// Versions are those of the CNI specification that the plugin speaks.
var Versions = version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0")

// Main runs the plugin as the CNI specification has it: the verb comes in the environment, the configuration on
// standard input, and the result or error goes to standard output. It exits the process with 1 after an error.
func Main(about string) {
	// Every verb is given: skel takes a missing one for success.
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: statusOf}, Versions, about)
}

func add(args *skel.CmdArgs) error {
	started := sinceBoot()
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	env, err := parseArgs(args.Args)
	if err != nil {
		return err
	}
	addresses, err := c.addresses(string(env.IP))
	if err != nil {
		return err
	}
	request := &plain.AddRequest{
		Attachment: attachment(c, args), Pod: env.pod(), Netns: args.Netns,
		Pools: c.IPAM.Pools, Addresses: addresses, Annotations: c.RuntimeConfig.Annotations, PodLabels: c.podLabels(),
		NamespaceLabels: c.Args.Clearway.NamespaceLabels, NamespaceAnnotations: c.Args.Clearway.NamespaceAnnotations,
		Started: started,
	}
	var answer *plain.AddResponse
	err = call(c.IPAM.Socket, addPatience, func(agent *plain.Client, deadline time.Time) (err error) {
		answer, err = agent.Add(request, deadline)
		return err
	})
	if err != nil {
		return failure(err, types.ErrTryAgainLater)
	}
	result, err := toResult(answer)
	if err != nil {
		return err
	}
	return types.PrintResult(result, c.CNIVersion)
}

// del succeeds when the agent released what the attachment held, or when the request to do so is on disk.
func del(args *skel.CmdArgs) error {
	c, err := parseConfigForRelease(args.StdinData)
	if err != nil {
		return err
	}
	request := &plain.DelRequest{Attachment: attachment(c, args)}
	// The attachment is what counts; the Pod is for whoever asks who held the address.
	if env, err := parseArgs(args.Args); err == nil {
		request.Pod = env.pod()
	}
	err = call(c.IPAM.Socket, delPatience, func(agent *plain.Client, deadline time.Time) error {
		return agent.Del(request, deadline)
	})
	if !unreachable(err) {
		return failure(err, types.ErrTryAgainLater)
	}
	if full := spool.Write(spool.Dir(c.IPAM.Socket), spooled(request)); full != nil {
		return types.NewError(types.ErrTryAgainLater, "agent gives no answer, and the release cannot be kept for it", full.Error())
	}
	fmt.Fprintf(os.Stderr, "clearway-ipam: agent gives no answer; the release of %s %s waits in the spool\n", args.ContainerID, args.IfName)
	return nil
}

// spooled is a request as the spool keeps it.
func spooled(request *plain.DelRequest) spool.Request {
	a := request.Attachment
	kept := spool.Request{Attachment: spool.Attachment{Network: a.Network, ContainerID: a.ContainerID, Ifname: a.Ifname}}
	if pod := request.Pod; pod != nil {
		kept.Pod = &spool.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
	}
	return kept
}

func check(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	addresses, err := c.heldAddresses()
	if err != nil {
		return err
	}
	request := &plain.CheckRequest{Attachment: attachment(c, args), Addresses: addresses}
	err = call(c.IPAM.Socket, checkPatience, func(agent *plain.Client, deadline time.Time) error {
		return agent.Check(request, deadline)
	})
	return failure(err, types.ErrTryAgainLater)
}

func statusOf(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	request := &plain.StatusRequest{Network: c.Name, Pools: c.IPAM.Pools}
	err = call(c.IPAM.Socket, statusPatience, func(agent *plain.Client, deadline time.Time) error {
		return agent.Status(request, deadline)
	})
	if !unreachable(err) {
		answered(c.IPAM.Socket)
	} else if forgive(c.IPAM.Socket, time.Now()) {
		fmt.Fprintln(os.Stderr, "clearway-ipam: agent gives no answer; that is told when it has lasted", silenceGrace)
		return nil
	}
	return failure(err, types.ErrPluginNotAvailable)
}

func gc(args *skel.CmdArgs) error {
	c, err := parseConfigForRelease(args.StdinData)
	if err != nil {
		return err
	}
	valid, err := c.validAttachments()
	if err != nil {
		return err
	}
	request := &plain.GCRequest{Network: c.Name, ValidAttachments: valid}
	err = call(c.IPAM.Socket, gcPatience, func(agent *plain.Client, deadline time.Time) error {
		return agent.GC(request, deadline)
	})
	return failure(err, types.ErrTryAgainLater)
}
