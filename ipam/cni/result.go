package cni

import (
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/clearway/clearway/proto/plain"
)

// toResult is the agent's answer as an IPAM plugin gives it: addresses and routes, no interfaces.
func toResult(answer *plain.AddResponse) (*current.Result, error) {
	result := &current.Result{}
	for _, one := range answer.Addresses {
		address, err := types.ParseCIDR(one.Address)
		if err != nil {
			return nil, misunderstood("address", one.Address)
		}
		gateway, err := parseGateway(one.Gateway)
		if err != nil {
			return nil, err
		}
		result.IPs = append(result.IPs, &current.IPConfig{Address: *address, Gateway: gateway})
	}
	if len(result.IPs) == 0 {
		return nil, misunderstood("list of addresses", "")
	}
	for _, one := range answer.Routes {
		_, destination, err := net.ParseCIDR(one.Destination)
		if err != nil {
			return nil, misunderstood("route", one.Destination)
		}
		gateway, err := parseGateway(one.Gateway)
		if err != nil {
			return nil, err
		}
		result.Routes = append(result.Routes, &types.Route{Dst: *destination, GW: gateway})
	}
	return result, nil
}

func parseGateway(text string) (net.IP, error) {
	if text == "" {
		return nil, nil
	}
	gateway := net.ParseIP(text)
	if gateway == nil {
		return nil, misunderstood("gateway", text)
	}
	return gateway, nil
}

// misunderstood is an agent that answers what this plugin cannot read: their versions do not fit.
func misunderstood(what, text string) error {
	return types.NewError(types.ErrInternal, fmt.Sprintf("agent's answer has a wrong %s: %q", what, text), "")
}

// heldAddresses are the addresses of prevResult, with their prefix length.
func (c *config) heldAddresses() ([]string, error) {
	if c.PrevResult == nil {
		return nil, wrong("prevResult", "is missing", "CHECK compares with the result of ADD")
	}
	plugin := &types.PluginConf{CNIVersion: c.CNIVersion, RawPrevResult: c.PrevResult}
	if err := version.ParsePrevResult(plugin); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult cannot be decoded", err.Error())
	}
	previous, err := current.NewResultFromResult(plugin.PrevResult)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult cannot be converted", err.Error())
	}
	addresses := make([]string, 0, len(previous.IPs))
	for _, one := range previous.IPs {
		addresses = append(addresses, one.Address.String())
	}
	return addresses, nil
}
