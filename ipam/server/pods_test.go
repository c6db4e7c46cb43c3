package server_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// TestMissingPods: ipamd tells of Pods only while somebody knows of them, and takes no question that is too long.
func TestMissingPods(t *testing.T) {
	d := start(t, newFake())
	a := d.agent("n1")
	ask := func(pods ...*clearwayv1.Pod) ([]string, error) {
		answer, err := a.MissingPods(testContext(t), &clearwayv1.MissingPodsRequest{Node: "n1", SessionId: a.registered.GetSessionId(), Pods: pods})
		return answer.GetUids(), err
	}
	p := &clearwayv1.Pod{Namespace: "default", Name: "p", Uid: "uid-p"}
	_, err := ask(p)
	wantCode(t, err, codes.FailedPrecondition)

	known, fault := false, error(nil)
	d.server.UsePods(func(_ context.Context, pods []*clearwayv1.Pod) ([]string, bool, error) {
		return []string{pods[0].GetUid()}, known, fault
	})
	_, err = ask(p)
	wantCode(t, err, codes.FailedPrecondition) // not all have been listed
	known = true
	if got, err := ask(p); err != nil || !slices.Equal(got, []string{"uid-p"}) {
		t.Errorf("%v %v", got, err)
	}
	fault = errors.New("the API server is away")
	_, err = ask(p)
	wantCode(t, err, codes.Unavailable)
	_, err = ask(&clearwayv1.Pod{Namespace: "default", Name: "p"})
	wantCode(t, err, codes.InvalidArgument)
	_, err = ask(slices.Repeat([]*clearwayv1.Pod{p}, 1001)...)
	wantCode(t, err, codes.InvalidArgument)
	d.server.UsePods(nil)
	_, err = ask(p)
	wantCode(t, err, codes.FailedPrecondition)
}
