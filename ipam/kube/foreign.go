package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

// Wanted names objects of the API server.
type Wanted struct {
	Group, Version, Resource string
	// Namespace and Name: only this object.
	Namespace, Name string
}

// Read reads objects as they are, of whatever kinds, with the rights of a kubeconfig: of a file, or, where that is empty, what
// kubectl would use. Kinds and objects that are not there are none.
func Read(ctx context.Context, kubeconfig string, wanted []Wanted) ([]map[string]any, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config.QPS, config.Burst, config.UserAgent = callsPerSecond, callsAtOnce, "clearwayctl"
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("Kubernetes client: %w", err)
	}
	var all []map[string]any
	for _, one := range wanted {
		read, err := readAll(ctx, client, one)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.Resource, err)
		}
		all = append(all, read...)
	}
	return all, nil
}

func readAll(ctx context.Context, client dynamic.Interface, one Wanted) (all []map[string]any, err error) {
	resource := client.Resource(schema.GroupVersionResource{Group: one.Group, Version: one.Version, Resource: one.Resource})
	if one.Name != "" {
		object, err := resource.Namespace(one.Namespace).Get(ctx, one.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil, nil
		case err != nil:
			return nil, err
		}
		return []map[string]any{plainObject(object)}, nil
	}
	options := metav1.ListOptions{Limit: pageSize}
	for {
		page, err := resource.List(ctx, options)
		switch {
		case apierrors.IsNotFound(err): // the API server has no such kind
			return nil, nil
		case err != nil:
			return nil, err
		}
		for i := range page.Items {
			all = append(all, plainObject(&page.Items[i]))
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return all, nil
		}
	}
}

// plainObject leaves out what nobody looks at, which is most of it.
func plainObject(object *unstructured.Unstructured) map[string]any {
	object.SetManagedFields(nil)
	return object.Object
}
