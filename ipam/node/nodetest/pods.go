package nodetest

import (
	"context"
	"slices"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// PodsGone says which Pods Kubernetes has no more, by UID.
func (d *IPAMD) PodsGone(uids ...string) { d.change(func() { d.gonePods = uids }) }

// MissingPods implements NodeService.
func (d *IPAMD) MissingPods(_ context.Context, in *clearwayv1.MissingPodsRequest) (*clearwayv1.MissingPodsResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.enter("MissingPods", in.GetNode(), in.GetSessionId()); err != nil {
		return nil, err
	}
	answer := &clearwayv1.MissingPodsResponse{}
	for _, one := range in.GetPods() {
		if slices.Contains(d.gonePods, one.GetUid()) {
			answer.Uids = append(answer.Uids, one.GetUid())
		}
	}
	return answer, nil
}
