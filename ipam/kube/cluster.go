package kube

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// Options say which API server, and how to reach it.
type Options struct {
	// Kubeconfig is a file as kubectl has it; empty: the Pod's own service account.
	Kubeconfig string
	Logger     *slog.Logger
}

// Cluster is a Kubernetes cluster's API server. It is safe for concurrent use.
type Cluster struct {
	log     *slog.Logger
	dynamic dynamic.Interface // of clearway.io
	core    rest.Interface    // of v1
	reviews rest.Interface    // of authentication.k8s.io/v1
	slices  rest.Interface    // of discovery.k8s.io/v1
	pods    metadata.Getter   // the metadata of v1's Pods
}

// The most that one ipamd asks of the API server, watches aside.
const (
	callsPerSecond = 200 // 10,000 Services have their addresses in 50 s after the first start
	callsAtOnce    = 400
)

// New reads how to reach the API server; it need not be reachable yet.
func New(options Options) (*Cluster, error) {
	config, err := configOf(options.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst, config.UserAgent = callsPerSecond, callsAtOnce, "clearway-ipamd"
	asked := rest.CopyConfig(config)
	resources, err := dynamic.NewForConfig(asked)
	if err != nil {
		return nil, fmt.Errorf("Kubernetes client: %w", err)
	}
	core, err := typedFor(config, "/api", corev1.SchemeGroupVersion, corev1.AddToScheme)
	if err != nil {
		return nil, err
	}
	slices, err := typedFor(config, "/apis", discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme)
	if err != nil {
		return nil, err
	}
	reviews, err := reviewsOf(config)
	if err != nil {
		return nil, fmt.Errorf("Kubernetes client: %w", err)
	}
	partial, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("Kubernetes client: %w", err)
	}
	return &Cluster{
		log: options.Logger, dynamic: resources, core: core, reviews: reviews, slices: slices,
		pods: partial.Resource(corev1.SchemeGroupVersion.WithResource("pods")),
	}, nil
}

// typedFor is a client of one group and version.
func typedFor(config *rest.Config, root string, version schema.GroupVersion, add func(*runtime.Scheme) error) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := add(scheme); err != nil {
		return nil, fmt.Errorf("Kubernetes types: %w", err)
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	typed := rest.CopyConfig(config)
	typed.GroupVersion, typed.APIPath = &version, root
	typed.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	// Pods and nodes by the hundred thousand are read faster as protobuf.
	typed.ContentType, typed.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	client, err := rest.RESTClientFor(typed)
	if err != nil {
		return nil, fmt.Errorf("Kubernetes client: %w", err)
	}
	return client, nil
}

func configOf(file string) (*rest.Config, error) {
	if file != "" {
		config, err := clientcmd.BuildConfigFromFlags("", file)
		if err != nil {
			return nil, fmt.Errorf("kubeconfig %s: %w", file, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("there is no service account here, as in a Pod there is: name a kubeconfig")
	}
	if err != nil {
		return nil, fmt.Errorf("service account: %w", err)
	}
	return config, nil
}

// resourceOf is where a kind's objects are.
func resourceOf(kind string) schema.GroupVersionResource {
	group, version, _ := strings.Cut(clearwayv1.APIVersion, "/")
	return schema.GroupVersionResource{Group: group, Version: version, Resource: strings.ToLower(kind) + "s"}
}

// kinds are those that the API server has, in the order of the schema.
func kinds() []string {
	var all []string
	for _, kind := range clearwayv1.Kinds() {
		if clearwayv1.Writable(kind) {
			all = append(all, kind)
		}
	}
	return all
}
