package kube

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// manager is our name beside the fields that we write.
const manager = "clearway-ipamd"

// Write makes an object of the API server what a resource is, its spec, labels and annotations, and returns it as it is
// there then. A metadata.source that is given must be what holds there still, else ABORTED. With dry nothing is written.
// Errors are statuses.
func (c *Cluster) Write(ctx context.Context, object clearwayv1.Object, dry bool) (clearwayv1.Object, error) {
	client := c.dynamic.Resource(resourceOf(string(object.ProtoReflect().Descriptor().Name())))
	name, expected := object.GetMetadata().GetName(), object.GetMetadata().GetSource()
	var dryRun []string
	if dry {
		dryRun = []string{metav1.DryRunAll}
	}
	present, err := client.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		present, err = nil, nil
	}
	switch {
	case err != nil:
		return nil, statusOf(err)
	case expected != nil && (present == nil || string(present.GetUID()) != expected.GetUid() || present.GetGeneration() != expected.GetGeneration()):
		return nil, status.Error(codes.Aborted, "was changed in Kubernetes meanwhile; read it again and repeat the change")
	}
	made, err := toKubernetes(object, present)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if present == nil {
		made, err = client.Create(ctx, made, metav1.CreateOptions{DryRun: dryRun, FieldManager: manager})
	} else {
		made, err = client.Update(ctx, made, metav1.UpdateOptions{DryRun: dryRun, FieldManager: manager})
	}
	if err != nil {
		return nil, statusOf(err)
	}
	written, err := fromKubernetes(made)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return written, nil
}

// Delete deletes an object of the API server; one that is not there is deleted. Errors are statuses.
func (c *Cluster) Delete(ctx context.Context, kind, name string) error {
	err := c.dynamic.Resource(resourceOf(kind)).Delete(ctx, name, metav1.DeleteOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return statusOf(err)
}

// statusOf says what the API server said as gRPC does.
func statusOf(err error) error {
	code := codes.Unavailable
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		code = codes.InvalidArgument
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		code = codes.Aborted
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		code = codes.PermissionDenied
	}
	return status.Errorf(code, "Kubernetes: %v", err)
}
