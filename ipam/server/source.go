package server

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Source is who has the configuration where ipamd is not its authority: the API server of Kubernetes. What ipamd has is a
// copy, and whoever applies something through ipamd applies it there. Its errors are statuses (google.golang.org/grpc/status).
type Source interface {
	// Write makes the resource there what it is here, its spec, labels and annotations, and returns it as it is there
	// then, with metadata.source. A metadata.source that is given must be what holds there still, else ABORTED. With dry
	// nothing is written, and all else is the same.
	Write(ctx context.Context, object clearwayv1.Object, dry bool) (clearwayv1.Object, error)
	// Delete deletes the resource there; one that is not there is deleted.
	Delete(ctx context.Context, kind, name string) error
}

var everything = labels.Everything()

// sourceTime bounds one call of the source.
const sourceTime = 10 * time.Second

// applyThrough applies resources in the source, and then takes them as it would when it sees them there. All are judged
// first, here and there. The source has no transactions: when it fails in the middle, what was written stays, and the error
// tells.
func (s *Server) applyThrough(ctx context.Context, resources []*clearwayv1.Resource, key string) (*clearwayv1.ApplyResponse, error) {
	if _, err := s.apply(ctx, resources, "", true); err != nil {
		return nil, err
	}
	sources := s.sourcesOf(resources)
	for i, resource := range resources {
		if _, err := s.writeThrough(ctx, resource, sources[i], true); err != nil {
			return nil, err
		}
	}
	written := make([]*clearwayv1.Resource, 0, len(resources))
	for i, resource := range resources {
		made, err := s.writeThrough(ctx, resource, sources[i], false)
		if err != nil {
			if i == 0 {
				return nil, err
			}
			return nil, status.Errorf(status.Code(err), "%s; the %d before it are applied in Kubernetes: apply the rest again",
				status.Convert(err).Message(), i)
		}
		written = append(written, made)
	}
	answer, err := s.apply(ctx, written, key, false)
	if err != nil {
		return nil, status.Errorf(status.Code(err), "it is applied in Kubernetes, and not yet taken from there: %s", status.Convert(err).Message())
	}
	return answer, nil
}

// sourcesOf are what the resources were copied from, of those whose resourceVersion is stated: what ipamd has must then be
// what the source has.
func (s *Server) sourcesOf(resources []*clearwayv1.Resource) []*clearwayv1.Source {
	sources := make([]*clearwayv1.Source, len(resources))
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.state == nil {
		return sources
	}
	for i, resource := range resources {
		object := resource.Object()
		if before := s.state.config[kindOf(object)][object.GetMetadata().GetName()].object; before != nil && object.GetMetadata().GetResourceVersion() != "" {
			sources[i] = before.GetMetadata().GetSource()
		}
	}
	return sources
}

func (s *Server) writeThrough(
	ctx context.Context, resource *clearwayv1.Resource, held *clearwayv1.Source, dry bool,
) (*clearwayv1.Resource, error) {
	ctx, cancel := context.WithTimeout(ctx, sourceTime)
	defer cancel()
	given := proto.Clone(resource.Object()).(clearwayv1.Object)
	given.GetMetadata().Source = held
	made, err := s.options.Source.Write(ctx, given, dry)
	if err != nil {
		return nil, status.Errorf(status.Code(err), "%s: %s", clearwayv1.KeyOf(given), status.Convert(err).Message())
	}
	made.GetMetadata().ResourceVersion = given.GetMetadata().GetResourceVersion()
	return clearwayv1.Wrap(made), nil
}

// deleteThrough deletes a resource in the source, once it may be deleted here.
func (s *Server) deleteThrough(ctx context.Context, kind string, request *clearwayv1.DeleteRequest) error {
	name, known := request.GetName(), false
	err := s.claims.do(ctx, true, func(p *plan) error {
		if _, known = p.config[kind][name]; !known {
			return nil
		}
		if err := p.checkVersion(kind, name, request.GetResourceVersion()); err != nil {
			return err
		}
		return p.stillUsed(kind, name)
	})
	if err != nil || !known {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sourceTime)
	defer cancel()
	return s.options.Source.Delete(ctx, kind, name)
}

// Copy takes one resource as the source has it; metadata.source tells which. A refusal is a sentence: the resource is not
// as it has to be, and what was taken before stays in force. An error is of the moment: it may be tried again.
func (s *Server) Copy(ctx context.Context, object clearwayv1.Object) (refusal string, err error) {
	resource := clearwayv1.Wrap(object)
	if faults := s.faultsOf(resource); len(faults) > 0 {
		return sentences(faults), nil
	}
	return refusalOf(func() error {
		_, err := s.apply(ctx, []*clearwayv1.Resource{resource}, "", false)
		return err
	}())
}

// Drop takes note that the source no longer has a resource of this UID. What is no copy of that one stays.
func (s *Server) Drop(ctx context.Context, kind, name, uid string) (refusal string, err error) {
	answer := &clearwayv1.DeleteResponse{}
	return refusalOf(s.claims.do(ctx, true, func(p *plan) error {
		held := p.config[kind][name].object
		switch {
		case held == nil || held.GetMetadata().GetSource().GetUid() != uid || held.GetMetadata().GetDeletionTimestamp() != nil:
			return nil
		case kind == kindNode: // what an operator says of a node, and not the node
			p.write(record.Op{Key: record.ConfigKey(kind, name)})
			return nil
		}
		return p.deleteConfig(kind, &clearwayv1.DeleteRequest{Kind: kind, Name: name}, answer)
	}))
}

// Copies are all resources of the configuration, with their status, in the order of kind and name.
func (s *Server) Copies() ([]clearwayv1.Object, error) {
	var all []clearwayv1.Object
	err := s.view(func(st *state) {
		for _, kind := range clearwayv1.Kinds() {
			if !clearwayv1.Writable(kind) {
				continue
			}
			if kind == kindNode {
				for _, name := range sortedNames(st.config[kindNode]) {
					all = append(all, s.nodeResource(st, name))
				}
				continue
			}
			for _, resource := range s.listConfig(st, filter{ListRequest: &clearwayv1.ListRequest{}, kind: kind, selector: everything}) {
				all = append(all, resource.Object())
			}
		}
	})
	return all, err
}

// refusalOf tells what is wrong with a resource from what went wrong at the time.
func refusalOf(err error) (string, error) {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.FailedPrecondition:
		answer := status.Convert(err)
		var faults []*clearwayv1.FieldViolation
		for _, detail := range answer.Details() {
			if fault, ok := detail.(*clearwayv1.FieldViolation); ok {
				faults = append(faults, fault)
			}
		}
		if len(faults) > 0 {
			return sentences(faults), nil
		}
		return answer.Message(), nil
	}
	return "", err
}

// maxToldFaults is how many faults a refusal tells: nobody reads more.
const maxToldFaults = 5

func sentences(faults []*clearwayv1.FieldViolation) string {
	text := ""
	for i, fault := range faults {
		if i == maxToldFaults {
			return fmt.Sprintf("%s; and %d more", text, len(faults)-i)
		}
		if i > 0 {
			text += "; "
		}
		text += fault.GetField() + " " + fault.Sentence()
	}
	return text
}

// sameSource tells whether two copies are of one object at one generation. Its resourceVersion also changes with its
// status, which is our own doing.
func sameSource(a, b *clearwayv1.Source) bool {
	return a.GetUid() == b.GetUid() && a.GetGeneration() == b.GetGeneration()
}
