package kubeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Places are those of the kinds in deploy/kubernetes; the ones that have a namespace have Clearway's.
var Places = map[string]string{
	"Namespace":           "/api/v1/namespaces",
	"ServiceAccount":      "/api/v1/namespaces/clearway-system/serviceaccounts",
	"Service":             "/api/v1/namespaces/clearway-system/services",
	"ConfigMap":           "/api/v1/namespaces/clearway-system/configmaps",
	"Secret":              "/api/v1/namespaces/clearway-system/secrets",
	"Deployment":          "/apis/apps/v1/namespaces/clearway-system/deployments",
	"DaemonSet":           "/apis/apps/v1/namespaces/clearway-system/daemonsets",
	"PodDisruptionBudget": "/apis/policy/v1/namespaces/clearway-system/poddisruptionbudgets",
	"NetworkPolicy":       "/apis/networking.k8s.io/v1/namespaces/clearway-system/networkpolicies",
	"ClusterRole":         "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"ClusterRoleBinding":  "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",

	"CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}

// Documents are those of a YAML text, each as JSON.
func Documents(text string) ([][]byte, error) {
	var all [][]byte
	for decoder := yaml.NewDecoder(strings.NewReader(text)); ; {
		var document map[string]any
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", len(all)+1, err)
		}
		if document == nil {
			continue // of a template that makes nothing
		}
		one, err := json.Marshal(document)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", len(all)+1, err)
		}
		all = append(all, one)
	}
}

// Put applies a document of one of Places' kinds, where every field must be known; query is added to the request's.
func (s *Server) Put(ctx context.Context, document []byte, query string) error {
	var of struct {
		Kind     string
		Metadata struct{ Name string }
	}
	if err := json.Unmarshal(document, &of); err != nil {
		return fmt.Errorf("document: %w", err)
	}
	place, known := Places[of.Kind]
	if !known {
		return fmt.Errorf("kind %q: its place is not known", of.Kind)
	}
	at := place + "/" + of.Metadata.Name + "?fieldManager=test&force=true&fieldValidation=Strict" + query
	code, answer, err := s.Call(ctx, http.MethodPatch, at, document, "application/apply-patch+yaml")
	if err == nil && code != http.StatusOK && code != http.StatusCreated {
		err = fmt.Errorf("%d %s", code, answer)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", of.Kind, of.Metadata.Name, err)
	}
	return nil
}
