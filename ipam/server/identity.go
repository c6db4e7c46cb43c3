package server

import (
	"context"
	"crypto/x509"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// operatorsOrganization is the organization of certificates that may change resources and speak for any node.
const operatorsOrganization = "clearway:operators"

// mayChange tells whether the caller may apply and delete resources. With mutual TLS its certificate must be an
// operator's: a node's, which lies on every machine, reads them only. Without TLS anyone may.
func (s *Server) mayChange(ctx context.Context) error {
	certificate, secure := callerCertificate(ctx)
	if !secure || (certificate != nil && slices.Contains(certificate.Subject.Organization, operatorsOrganization)) {
		return nil
	}
	s.metrics.refused.Inc()
	s.log.Warn("a change by one whose certificate is not an operator's", "certificate", subjectOf(certificate))
	return status.Errorf(codes.PermissionDenied, "the certificate (%s) is not an operator's: its organization (O) must be %q",
		subjectOf(certificate), operatorsOrganization)
}

// speaksFor tells whether the caller may act for a node. With mutual TLS its certificate must have the node's name as
// common name (with or without "node:" before it) or as a DNS name, or be an operator's. Without TLS anyone may.
func (s *Server) speaksFor(ctx context.Context, node string) error {
	certificate, secure := callerCertificate(ctx)
	if !secure {
		return nil
	}
	if certificate != nil && names(certificate, node) {
		return nil
	}
	s.metrics.refused.Inc()
	name := subjectOf(certificate)
	s.log.Warn("a call for a node that its certificate does not name", "node", node, "certificate", name)
	return status.Errorf(codes.PermissionDenied, "the certificate (%s) is not node %q's: its common name or one of its "+
		"DNS names must be %q", name, node, node)
}

func names(certificate *x509.Certificate, node string) bool {
	subject := certificate.Subject
	return subject.CommonName == node || subject.CommonName == "node:"+node ||
		slices.Contains(certificate.DNSNames, node) || slices.Contains(subject.Organization, operatorsOrganization)
}

func subjectOf(certificate *x509.Certificate) string {
	if certificate == nil {
		return "none"
	}
	return certificate.Subject.String()
}

// callerCertificate is the caller's verified certificate; secure is false without TLS.
func callerCertificate(ctx context.Context) (certificate *x509.Certificate, secure bool) {
	caller, ok := peer.FromContext(ctx)
	if !ok || caller.AuthInfo == nil {
		return nil, false
	}
	info, ok := caller.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, false
	}
	if chains := info.State.VerifiedChains; len(chains) > 0 && len(chains[0]) > 0 {
		return chains[0][0], true
	}
	return nil, true
}
