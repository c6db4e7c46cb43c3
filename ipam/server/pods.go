package server

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// maxPodsAsked is how many Pods one call may ask for.
const maxPodsAsked = 1000

// Missing tells which of some Pods Kubernetes has no more, by UID; known is false where that cannot be said yet.
type Missing = func(ctx context.Context, pods []*clearwayv1.Pod) (uids []string, known bool, err error)

// UsePods says who knows of Kubernetes' Pods from now on; nil: nobody.
func (s *Server) UsePods(missing Missing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods = missing
}

func (s *Server) missingPods(ctx context.Context, request *clearwayv1.MissingPodsRequest) (*clearwayv1.MissingPodsResponse, error) {
	if n := len(request.GetPods()); n > maxPodsAsked {
		return nil, invalid("pods", fmt.Sprint(n), fmt.Sprintf("must be at most %d a call; ask in pieces", maxPodsAsked))
	}
	for _, one := range request.GetPods() {
		for field, text := range map[string]string{
			"pods.uid": one.GetUid(), "pods.name": one.GetName(), "pods.namespace": one.GetNamespace(),
		} {
			if text == "" || len(text) > maxText {
				return nil, invalid(field, fmt.Sprintf("%.40s", text), fmt.Sprintf("must have 1 to %d characters", maxText))
			}
		}
	}
	s.mu.RLock()
	missing := s.pods
	s.mu.RUnlock()
	if missing == nil {
		return nil, status.Error(codes.FailedPrecondition, "no Kubernetes is known here, so nothing is known of its Pods")
	}
	uids, known, err := missing(ctx, request.GetPods())
	switch {
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "Pods: %v", err)
	case !known:
		return nil, status.Error(codes.FailedPrecondition, "Kubernetes' Pods have not all been listed yet")
	}
	return &clearwayv1.MissingPodsResponse{Uids: uids}, nil
}
