package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"testing"

	"github.com/clearway/clearway/integration/kubeapi"
)

// testEvents: whatever is created, changed and deleted in whatever order, with ipamd failing over in the middle, in the end
// each object has its verdict, ipamd has what is accepted, and what is refused stands against something that is in force.
func testEvents(t *testing.T, c *cluster) {
	shared := []string{"--etcd-endpoints", c.etcd, "--etcd-prefix", "/clearway/events"}
	first := c.ipamd(t, shared...)
	second := c.ipamd(t, shared...)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	cidrs := []string{"10.230.0.0/16", "10.230.0.0/20", "10.230.64.0/20", "10.231.0.0/16", "10.230.0.0/15", "10.232.0.0/24"}
	for step := range 300 {
		name := fmt.Sprint("e", random.IntN(6))
		if random.IntN(4) == 0 {
			if code, text, err := c.Call(t.Context(), http.MethodDelete, path("IPPool", name), nil, ""); err != nil || code != http.StatusOK && code != http.StatusNotFound {
				t.Fatal(code, string(text), err)
			}
		} else {
			c.apply(t, "IPPool", name, fmt.Sprintf("{cidr: %s, priority: %d}", cidrs[random.IntN(len(cidrs))], step))
		}
		if step == 150 {
			first.Kill() // whether it leads or not
		}
	}
	kubeapi.Eventually(t, soon, "everything to have its verdict", func() error { return c.settled(t, second) })
	for i := range 6 {
		_, _, _ = c.Call(t.Context(), http.MethodDelete, path("IPPool", fmt.Sprint("e", i)), nil, "")
	}
}

// poolList is what both doors list.
type poolList struct {
	Items []struct {
		Metadata struct {
			Name       string
			Generation int64
		}
		Spec struct {
			CIDR     string
			Priority int
		}
		Status struct{ Conditions []condition }
	}
}

// settled is nil when the API server's pools and ipamd's are of one mind.
func (c *cluster) settled(t *testing.T, i *ipamd) error {
	code, text, err := c.Call(t.Context(), http.MethodGet, "/apis/clearway.io/v1/ippools", nil, "")
	if err != nil || code != http.StatusOK {
		return fmt.Errorf("%d: %s: %w", code, text, err)
	}
	out, err := i.ctl(t, "", "get", "ippools", "-o", "json")
	if err != nil {
		return err
	}
	var there, here poolList
	if err := errors.Join(json.Unmarshal(text, &there), json.Unmarshal([]byte(out), &here)); err != nil {
		return err
	}
	inForce := map[string]string{}
	for _, one := range here.Items {
		inForce[one.Metadata.Name] = fmt.Sprint(one.Spec.CIDR, " ", one.Spec.Priority)
	}
	seen := map[string]bool{}
	for _, one := range there.Items {
		seen[one.Metadata.Name] = true
		var whole object
		whole.Status.Conditions = one.Status.Conditions
		verdict := whole.condition("Accepted")
		same := inForce[one.Metadata.Name] == fmt.Sprint(one.Spec.CIDR, " ", one.Spec.Priority)
		switch {
		case verdict.ObservedGeneration != one.Metadata.Generation || verdict.Status == "Unknown":
			return fmt.Errorf("%s has no verdict: %+v", one.Metadata.Name, verdict)
		case (verdict.Status == "True") != same:
			return fmt.Errorf("%s is %+v, and in force is %q", one.Metadata.Name, verdict, inForce[one.Metadata.Name])
		case verdict.Status == "False" && !against(one.Metadata.Name, one.Spec.CIDR, here):
			return fmt.Errorf("%s is refused, and nothing is in its way: %+v", one.Metadata.Name, verdict)
		}
	}
	for name := range inForce {
		if !seen[name] {
			return fmt.Errorf("%s is in force, and is not in the API server", name)
		}
	}
	return nil
}

// against tells whether another pool in force overlaps.
func against(name, cidr string, here poolList) bool {
	for _, one := range here.Items {
		if one.Metadata.Name != name && netip.MustParsePrefix(one.Spec.CIDR).Overlaps(netip.MustParsePrefix(cidr)) {
			return true
		}
	}
	return false
}
