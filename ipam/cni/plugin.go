package cni

import (
	"context"
	"fmt"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/clearway/clearway/ipam/spool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
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
	request := &clearwayv1.AddRequest{
		Attachment: attachment(c, args), Pod: env.pod(), Netns: args.Netns,
		Pools: c.IPAM.Pools, Addresses: addresses, Annotations: c.RuntimeConfig.Annotations,
	}
	var answer *clearwayv1.AddResponse
	err = call(c.IPAM.Socket, addPatience, func(ctx context.Context, agent clearwayv1.AddressServiceClient) (err error) {
		answer, err = agent.Add(ctx, request)
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
	request := &clearwayv1.DelRequest{Attachment: attachment(c, args)}
	// The attachment is what counts; the Pod is for whoever asks who held the address.
	if env, err := parseArgs(args.Args); err == nil {
		request.Pod = env.pod()
	}
	err = call(c.IPAM.Socket, delPatience, func(ctx context.Context, agent clearwayv1.AddressServiceClient) error {
		_, err := agent.Del(ctx, request)
		return err
	})
	if !unreachable(err) {
		return failure(err, types.ErrTryAgainLater)
	}
	if full := spool.Write(spool.Dir(c.IPAM.Socket), request); full != nil {
		return types.NewError(types.ErrTryAgainLater, "agent gives no answer, and the release cannot be kept for it", full.Error())
	}
	fmt.Fprintf(os.Stderr, "clearway-ipam: agent gives no answer; the release of %s %s waits in the spool\n", args.ContainerID, args.IfName)
	return nil
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
	request := &clearwayv1.CheckRequest{Attachment: attachment(c, args), Addresses: addresses}
	err = call(c.IPAM.Socket, checkPatience, func(ctx context.Context, agent clearwayv1.AddressServiceClient) error {
		_, err := agent.Check(ctx, request)
		return err
	})
	return failure(err, types.ErrTryAgainLater)
}

func statusOf(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	request := &clearwayv1.StatusRequest{Network: c.Name, Pools: c.IPAM.Pools}
	err = call(c.IPAM.Socket, statusPatience, func(ctx context.Context, agent clearwayv1.AddressServiceClient) error {
		_, err := agent.Status(ctx, request)
		return err
	})
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
	request := &clearwayv1.GCRequest{Network: c.Name, ValidAttachments: valid}
	err = call(c.IPAM.Socket, gcPatience, func(ctx context.Context, agent clearwayv1.AddressServiceClient) error {
		_, err := agent.GC(ctx, request)
		return err
	})
	return failure(err, types.ErrTryAgainLater)
}
