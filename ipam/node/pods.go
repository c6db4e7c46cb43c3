package node

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// podsPerCall is how many Pods are asked for at once: ipamd takes no more.
const podsPerCall = 1000

// missingPods asks ipamd which of these attachments' Pods Kubernetes has no more, by UID. Without an answer none is known to
// be gone: the next look asks again.
func (r *reconciler) missingPods(ctx context.Context, attachments []*assignment, of []int) map[string]bool {
	var pods []*clearwayv1.Pod
	for _, i := range of {
		if p := attachments[i].pod; p.UID != "" && p.Name != "" && p.Namespace != "" {
			pods = append(pods, &clearwayv1.Pod{Namespace: p.Namespace, Name: p.Name, Uid: p.UID})
		}
	}
	s := r.session()
	if len(pods) == 0 || s == nil {
		return nil
	}
	gone := map[string]bool{}
	for piece := range slices.Chunk(pods, podsPerCall) {
		uids, err := r.askForPods(ctx, s, piece)
		if err != nil {
			if code := status.Code(err); code != codes.FailedPrecondition && code != codes.Unimplemented { // no Kubernetes there, or an older ipamd
				r.log.Debug("ipamd does not tell which Pods are gone", "error", err)
			}
			return gone
		}
		for _, uid := range uids {
			gone[uid] = true
		}
	}
	return gone
}

func (r *reconciler) askForPods(ctx context.Context, s *session, pods []*clearwayv1.Pod) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	answer, err := s.client.MissingPods(ctx, &clearwayv1.MissingPodsRequest{Node: r.options.Node, SessionId: s.id, Pods: pods})
	return answer.GetUids(), err
}
