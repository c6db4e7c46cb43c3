package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// resources answers an operator at this node's socket for what this node knows of itself. Changing anything is
// ipamd's, and Unimplemented here.
type resources struct {
	clearwayv1.UnimplementedResourceServiceServer
	rooms *rooms
}

// pieceOf is how many resources go into one message: well below the largest message for the largest of them.
const pieceOf = 500

// List streams the node's own Blocks, Assignments, BGPSessions and Routes.
func (r *resources) List(request *clearwayv1.ListRequest, stream clearwayv1.ResourceService_ListServer) error {
	list, err := r.list(stream.Context(), request)
	if err != nil {
		return err
	}
	for len(list) > 0 {
		size := min(pieceOf, len(list))
		if err := stream.Send(&clearwayv1.ListResponse{Resources: list[:size]}); err != nil {
			return err
		}
		list = list[size:]
	}
	return nil
}

func (r *resources) list(ctx context.Context, request *clearwayv1.ListRequest) ([]*clearwayv1.Resource, error) {
	object, err := clearwayv1.New(request.GetKind())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	request.Kind = object.GetKind()
	switch request.Kind {
	case "Block", "Assignment":
		return r.rooms.node.List(ctx, request)
	case "BGPSession", "Route":
		return r.rooms.bgp.List(ctx, request)
	}
	return nil, status.Error(codes.Unimplemented, fmt.Sprintf(
		"an agent knows its own Blocks, Assignments, BGPSessions and Routes; ask ipamd for kind %s", request.Kind))
}
