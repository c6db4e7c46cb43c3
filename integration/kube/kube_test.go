package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/clearway/clearway/integration/kubeapi"
)

// TestKubernetes shares one API server among its parts: it takes ten seconds and a quarter of a gigabyte.
func TestKubernetes(t *testing.T) {
	etcd := kubeapi.StartEtcd(t)
	c := &cluster{Server: kubeapi.Start(t, etcd), etcd: etcd}
	c.InstallDefinitions()
	c.InstallRoles()
	t.Run("Definitions", func(t *testing.T) { testDefinitions(t, c.Server, startIpamd(t)) })
	t.Run("Configuration", func(t *testing.T) { testConfiguration(t, c) })
	t.Run("Nodes", func(t *testing.T) { testNodes(t, c) })
	t.Run("Services", func(t *testing.T) { testServices(t, c) })
	t.Run("Events", func(t *testing.T) { testEvents(t, c) })
	t.Run("Manifests", func(t *testing.T) { testManifests(t, c) })
	t.Run("Pods", func(t *testing.T) { testPods(t, c) })
	t.Run("Migrate", func(t *testing.T) { testMigrate(t, c) })
	t.Run("Tokens", func(t *testing.T) { testTokens(t, c) })
	t.Run("Faults", func(t *testing.T) { testFaults(t, c) })
}

// cluster is the API server, with what the tests do to it.
type cluster struct {
	*kubeapi.Server
	etcd string
}

// ipamd starts a clearway-ipamd that has its configuration there, as the service account that it has in a cluster.
func (c *cluster) ipamd(t testing.TB, more ...string) *ipamd {
	t.Helper()
	return startIpamd(t, append([]string{"--kubeconfig", c.Kubeconfig(kubeapi.Ipamd)}, more...)...)
}

// path is where a resource of clearway.io is.
func path(kind, name string) string {
	return "/apis/clearway.io/v1/" + strings.ToLower(kind) + "s/" + name
}

// apply writes a resource of clearway.io as kubectl does.
func (c *cluster) apply(t testing.TB, kind, name, spec string) {
	t.Helper()
	text := fmt.Sprintf("{apiVersion: clearway.io/v1, kind: %s, metadata: {name: %s}, spec: %s}", kind, name, spec)
	if err := c.ServerSideApply(t.Context(), path(kind, name), []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) delete(t testing.TB, at string) {
	t.Helper()
	code, text, err := c.Call(t.Context(), http.MethodDelete, at, nil, "")
	if err != nil || code != http.StatusOK {
		t.Fatalf("delete %s: %d %s %v", at, code, text, err)
	}
}

// object is what tests look at of an object.
type object struct {
	Metadata struct {
		Name, UID, ResourceVersion string
		Generation                 int64
	}
	Spec struct {
		CIDR     string
		Disabled bool
	}
	Status struct {
		Phase               string
		Available, Assigned *int64
		Wanted, Established *int64
		Conditions          []condition
	}
}

type condition struct {
	Type, Status, Reason, Message string
	ObservedGeneration            int64
}

func (o object) condition(kind string) condition {
	for _, one := range o.Status.Conditions {
		if one.Type == kind {
			return one
		}
	}
	return condition{}
}

var errNone = errors.New("there is none")

func (c *cluster) get(ctx context.Context, at string) (object, error) {
	var got object
	code, text, err := c.Call(ctx, http.MethodGet, at, nil, "")
	switch {
	case err != nil:
		return got, err
	case code == http.StatusNotFound:
		return got, errNone
	case code != http.StatusOK:
		return got, fmt.Errorf("%s: %d: %s", at, code, text)
	}
	return got, json.Unmarshal(text, &got)
}

// until waits until an object is as it should be.
func (c *cluster) until(t testing.TB, what, at string, is func(object) bool) object {
	t.Helper()
	var got object
	kubeapi.Eventually(t, soon, what, func() (err error) {
		if got, err = c.get(t.Context(), at); err == nil && !is(got) {
			err = fmt.Errorf("%s is %+v", at, got)
		}
		return err
	})
	return got
}

// accepted waits until a resource is in force as it stands.
func (c *cluster) accepted(t testing.TB, kind, name string) object {
	t.Helper()
	return c.until(t, kind+"/"+name+" to be accepted", path(kind, name), func(o object) bool {
		one := o.condition("Accepted")
		return one.Status == "True" && one.ObservedGeneration == o.Metadata.Generation
	})
}

// refused waits until a resource is refused for a reason that has these words.
func (c *cluster) refused(t testing.TB, kind, name, words string) {
	t.Helper()
	c.until(t, kind+"/"+name+" to be refused", path(kind, name), func(o object) bool {
		one := o.condition("Accepted")
		return one.Status == "False" && strings.Contains(one.Message, words)
	})
}
