package server

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/validation"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// nodeService is the agents' door: it checks what is asked, and hands on. Who may ask was checked before (admit).
type nodeService struct {
	clearwayv1.UnimplementedNodeServiceServer
	s *Server
}

// enter checks a call of an agent, whose identity was checked before: that we lead, and its session.
func (n *nodeService) enter(ctx context.Context, node, id string) (*session, error) {
	if err := n.s.mustLead(); err != nil {
		return nil, err
	}
	return n.s.sessions.find(ctx, node, id)
}

// Limits of what an agent may say.
const (
	maxText      = 253 // the longest DNS name, and longer than any id
	maxLabels    = 256
	maxAddresses = 16
	maxHeld      = 10000
)

func checkRegister(request *clearwayv1.RegisterRequest) error {
	if reasons := validation.IsDNS1123Subdomain(request.GetNode()); len(reasons) > 0 {
		return invalid("node", request.GetNode(), "must be the node's name: "+reasons[0])
	}
	for field, text := range map[string]string{
		"boot_id": request.GetBootId(), "journal_id": request.GetJournalId(), "process_id": request.GetProcessId(),
	} {
		if text == "" {
			return invalid(field, "", "is required")
		}
	}
	for field, text := range map[string]string{
		"node_uid": request.GetNodeUid(), "machine_id": request.GetMachineId(), "boot_id": request.GetBootId(),
		"journal_id": request.GetJournalId(), "process_id": request.GetProcessId(), "agent_version": request.GetAgentVersion(),
	} {
		if len(text) > maxText {
			return invalid(field, text[:32]+"...", fmt.Sprintf("is longer than %d bytes", maxText))
		}
	}
	switch {
	case request.GetJournalNumber() < 0:
		return invalid("journal_number", fmt.Sprint(request.GetJournalNumber()), "must not be negative")
	case len(request.GetAddresses()) > maxAddresses:
		return invalid("addresses", fmt.Sprint(len(request.GetAddresses())), fmt.Sprintf("must be at most %d", maxAddresses))
	case len(request.GetLabels()) > maxLabels:
		return invalid("labels", fmt.Sprint(len(request.GetLabels())), fmt.Sprintf("must be at most %d", maxLabels))
	case len(request.GetAllowances()) > maxHeld:
		return invalid("allowances", fmt.Sprint(len(request.GetAllowances())), fmt.Sprintf("must be at most %d", maxHeld))
	case len(request.GetHeldBlocks()) > maxHeld:
		return invalid("held_blocks", fmt.Sprint(len(request.GetHeldBlocks())), fmt.Sprintf("must be at most %d", maxHeld))
	}
	for _, text := range request.GetAddresses() {
		if _, err := netip.ParsePrefix(text); err != nil {
			return invalid("addresses", text, "must be an address with its prefix length, as 192.0.2.11/24")
		}
	}
	return checkLabels("labels", request.GetLabels())
}

func checkLabels(field string, labels map[string]string) error {
	for key, value := range labels {
		if reasons := validation.IsQualifiedName(key); len(reasons) > 0 {
			return invalid(field, key, "is no label's name: "+reasons[0])
		}
		if reasons := validation.IsValidLabelValue(value); len(reasons) > 0 {
			return invalid(field+"["+key+"]", value, "is no label's value: "+reasons[0])
		}
	}
	return nil
}

// checkRequestKey holds request keys to what fits a key of the store.
func checkRequestKey(key string) error {
	const longest = 128
	unprintable := strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' })
	if key == "" || len(key) > longest || unprintable {
		return invalid("request_key", fmt.Sprintf("%.40q", key),
			fmt.Sprintf("must be 1 to %d printable ASCII characters, new for each request and the same in its retries", longest))
	}
	return nil
}

// Register implements NodeService.
func (n *nodeService) Register(
	ctx context.Context, request *clearwayv1.RegisterRequest,
) (*clearwayv1.RegisterResponse, error) {
	if err := checkRegister(request); err != nil {
		return nil, err
	}
	if err := n.s.mustLead(); err != nil {
		return nil, err
	}
	return n.s.registerNode(ctx, request)
}

// ClaimBlock implements NodeService.
func (n *nodeService) ClaimBlock(
	ctx context.Context, request *clearwayv1.ClaimBlockRequest,
) (*clearwayv1.ClaimBlockResponse, error) {
	if _, err := n.enter(ctx, request.GetNode(), request.GetSessionId()); err != nil {
		return nil, err
	}
	if err := checkRequestKey(request.GetRequestKey()); err != nil {
		return nil, err
	}
	return n.s.claimBlock(ctx, request)
}

// ClaimFloating implements NodeService.
func (n *nodeService) ClaimFloating(
	ctx context.Context, request *clearwayv1.ClaimFloatingRequest,
) (*clearwayv1.ClaimFloatingResponse, error) {
	if _, err := n.enter(ctx, request.GetNode(), request.GetSessionId()); err != nil {
		return nil, err
	}
	return n.s.claimFloating(ctx, request)
}

// SetAllowance implements NodeService.
func (n *nodeService) SetAllowance(
	ctx context.Context, request *clearwayv1.SetAllowanceRequest,
) (*clearwayv1.SetAllowanceResponse, error) {
	if _, err := n.enter(ctx, request.GetNode(), request.GetSessionId()); err != nil {
		return nil, err
	}
	return n.s.setAllowance(ctx, request)
}

// MissingPods implements NodeService.
func (n *nodeService) MissingPods(
	ctx context.Context, request *clearwayv1.MissingPodsRequest,
) (*clearwayv1.MissingPodsResponse, error) {
	if _, err := n.enter(ctx, request.GetNode(), request.GetSessionId()); err != nil {
		return nil, err
	}
	return n.s.missingPods(ctx, request)
}

// ReleaseBlock implements NodeService.
func (n *nodeService) ReleaseBlock(
	ctx context.Context, request *clearwayv1.ReleaseBlockRequest,
) (*clearwayv1.ReleaseBlockResponse, error) {
	if _, err := n.enter(ctx, request.GetNode(), request.GetSessionId()); err != nil {
		return nil, err
	}
	return n.s.releaseBlock(ctx, request)
}

// AnswerCallBack implements NodeService.
func (n *nodeService) AnswerCallBack(
	ctx context.Context, request *clearwayv1.AnswerCallBackRequest,
) (*clearwayv1.AnswerCallBackResponse, error) {
	if _, err := n.enter(ctx, request.GetNode(), request.GetSessionId()); err != nil {
		return nil, err
	}
	return n.s.answerCallBack(ctx, request)
}

// MirrorAssignments implements NodeService.
func (n *nodeService) MirrorAssignments(
	ctx context.Context, request *clearwayv1.MirrorAssignmentsRequest,
) (*clearwayv1.MirrorAssignmentsResponse, error) {
	session, err := n.enter(ctx, request.GetNode(), request.GetSessionId())
	if err != nil {
		return nil, err
	}
	if request.GetJournalId() != session.journal {
		return nil, status.Errorf(codes.Unauthenticated, "journal %q is not the registered one, %q: register again",
			request.GetJournalId(), session.journal)
	}
	return n.s.mirrorAssignments(ctx, session, request)
}

// ReportStatus implements NodeService.
func (n *nodeService) ReportStatus(
	ctx context.Context, request *clearwayv1.ReportStatusRequest,
) (*clearwayv1.ReportStatusResponse, error) {
	session, err := n.enter(ctx, request.GetNode(), request.GetSessionId())
	if err != nil {
		return nil, err
	}
	n.s.takeReport(session, request)
	return &clearwayv1.ReportStatusResponse{}, nil
}
