package server

import (
	"context"
	"crypto/x509"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"

	identities "github.com/clearway/clearway/ipam/identity"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// demand is what a method asks of who calls it with mutual TLS. Without TLS anyone may do anything.
type demand int

const (
	calling  demand = iota + 1 // any certificate of the authorities
	reading                    // a viewer's or an operator's
	changing                   // an operator's
	acting                     // that of the node which each message names
)

// demands are those of every method that is served. One that is not here is refused to everybody.
var demands = map[string]demand{
	healthv1.Health_Check_FullMethodName: calling,
	healthv1.Health_List_FullMethodName:  calling,
	healthv1.Health_Watch_FullMethodName: calling,

	reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName:      reading,
	reflectionv1alpha.ServerReflection_ServerReflectionInfo_FullMethodName: reading,

	clearwayv1.ResourceService_List_FullMethodName:     reading,
	clearwayv1.ResourceService_Apply_FullMethodName:    changing,
	clearwayv1.ResourceService_Delete_FullMethodName:   changing,
	clearwayv1.IPAMService_ShowAddress_FullMethodName:  reading,
	clearwayv1.IPAMService_History_FullMethodName:      reading,
	clearwayv1.IPAMService_ShowStore_FullMethodName:    reading,
	clearwayv1.IPAMService_Recover_FullMethodName:      changing,
	clearwayv1.IPAMService_CheckBooks_FullMethodName:   changing,
	clearwayv1.IPAMService_VerifyRoutes_FullMethodName: reading,
	clearwayv1.IPAMService_Export_FullMethodName:       reading,
	clearwayv1.IPAMService_Import_FullMethodName:       changing,
	clearwayv1.IPAMService_Adopt_FullMethodName:        changing,

	clearwayv1.NodeService_Register_FullMethodName:          acting,
	clearwayv1.NodeService_ClaimBlock_FullMethodName:        acting,
	clearwayv1.NodeService_ClaimFloating_FullMethodName:     acting,
	clearwayv1.NodeService_SetAllowance_FullMethodName:      acting,
	clearwayv1.NodeService_MissingPods_FullMethodName:       acting,
	clearwayv1.NodeService_ReleaseBlock_FullMethodName:      acting,
	clearwayv1.NodeService_AnswerCallBack_FullMethodName:    acting,
	clearwayv1.NodeService_MirrorAssignments_FullMethodName: acting,
	clearwayv1.NodeService_ReportStatus_FullMethodName:      acting,
	clearwayv1.NodeService_WatchNode_FullMethodName:         acting,
	clearwayv1.NodeService_WatchOwnership_FullMethodName:    acting,
	clearwayv1.NodeService_AnswerQuery_FullMethodName:       acting,
}

// caller is who makes a call.
type caller struct {
	who    identities.Identity
	secure bool   // who is proven, by a certificate or a token; else everybody is anybody
	host   string // the address it calls from, without port; empty when there is none
}

// callerOf finds who makes a call: by the certificate of the connection, or, where it has none, by the call's token. An
// error means that a token could not be judged, or is none.
func (s *Server) callerOf(ctx context.Context) (caller, error) {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return caller{}, nil
	}
	made := caller{}
	if from.Addr != nil {
		made.host = from.Addr.String()
		if host, _, err := net.SplitHostPort(made.host); err == nil {
			made.host = host
		}
	}
	info, ok := from.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return made, nil
	}
	made.secure = true
	certificate := verified(info)
	if certificate != nil || s.tokens == nil {
		made.who = identities.Of(certificate)
		return made, nil
	}
	var err error
	made.who, err = s.tokens.judge(ctx)
	return made, err
}

// verified is the certificate that the handshake has checked, or nil.
func verified(info credentials.TLSInfo) *x509.Certificate {
	if chains := info.State.VerifiedChains; len(chains) > 0 && len(chains[0]) > 0 {
		return chains[0][0]
	}
	return nil
}

// key is what a caller's calls are counted under: its certificate, the node it says it is, or the host it calls from.
func (c caller) key(node string) string {
	switch {
	case c.secure:
		return "holder " + c.who.String()
	case node != "":
		return "node " + node
	}
	return "host " + c.host
}

// may is nil when the caller may make a call, and else tells what certificate would be right.
func (c caller) may(method, node string) error {
	if !c.secure {
		return nil
	}
	switch demands[method] {
	case calling:
		return nil
	case reading:
		if !c.who.MayRead() {
			return status.Errorf(codes.PermissionDenied, "%s: reading takes a viewer's or an operator's, whose organization (O) is %q or %q",
				c.who.Is(), identities.Viewer.Organization(), identities.Operator.Organization())
		}
		return nil
	case changing:
		if !c.who.MayChange() {
			return status.Errorf(codes.PermissionDenied, "%s: changing resources takes an operator's, whose organization (O) is %q",
				c.who.Is(), identities.Operator.Organization())
		}
		return nil
	case acting:
		if !c.who.MayActAs(node) {
			right := identities.Subject(identities.Node, node)
			return status.Errorf(codes.PermissionDenied, "%s: calls of node %q take its own, whose organization (O) is %q and whose common name is %q",
				c.who.Is(), node, right.Organization[0], right.CommonName)
		}
		return nil
	}
	return status.Errorf(codes.PermissionDenied, "nobody may call %s", method)
}

// ofNode is a request that names the node which makes it.
type ofNode interface{ GetNode() string }

// nodeOf is the node that makes a call; empty: it is no node's call.
func nodeOf(method string, request any) string {
	if named, ok := request.(ofNode); ok && demands[method] == acting {
		return named.GetNode()
	}
	return ""
}

// admit is nil for a call that may be made, by whom and how often. What it refuses is counted, and logged.
func (s *Server) admit(ctx context.Context, method string, request any) error {
	_, err := s.admitCaller(ctx, method, request)
	return err
}

func (s *Server) admitCaller(ctx context.Context, method string, request any) (caller, error) {
	node := nodeOf(method, request)
	from, err := s.callerOf(ctx)
	if err != nil {
		s.refusals.note(method, "token", from, node, err)
		return from, err
	}
	if err := s.limits.take(from.key(node), method, request); err != nil {
		s.refusals.note(method, "rate", from, node, err)
		return from, err
	}
	return from, s.authorize(from, method, node)
}

func (s *Server) authorize(from caller, method, node string) error {
	err := from.may(method, node)
	if err != nil {
		reason := "role"
		if demands[method] == acting && len(from.who.Nodes()) > 0 {
			reason = "node"
		}
		s.refusals.note(method, reason, from, node, err)
	}
	return err
}

func (s *Server) admitUnary(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
) (any, error) {
	if err := s.admit(ctx, info.FullMethod, request); err != nil {
		return nil, err
	}
	return handle(ctx, request)
}

// admitStream judges a node's stream by its messages, which name the node, and any other at its beginning.
func (s *Server) admitStream(
	service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler,
) error {
	if demands[info.FullMethod] == acting {
		return handle(service, &nodeStream{ServerStream: stream, s: s, method: info.FullMethod})
	}
	if err := s.admit(stream.Context(), info.FullMethod, nil); err != nil {
		return err
	}
	return handle(service, stream)
}

// nodeStream lets only messages of the caller's own node through.
type nodeStream struct {
	grpc.ServerStream
	s        *Server
	method   string
	admitted bool // the first message was; only the handler's goroutine receives
	from     caller
}

// RecvMsg implements grpc.ServerStream.
func (n *nodeStream) RecvMsg(message any) error {
	if err := n.ServerStream.RecvMsg(message); err != nil {
		return err
	}
	if n.admitted {
		return n.s.authorize(n.from, n.method, nodeOf(n.method, message))
	}
	n.admitted = true
	var err error
	n.from, err = n.s.admitCaller(n.Context(), n.method, message)
	return err
}
