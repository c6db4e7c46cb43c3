package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/clearway/clearway/integration/kubeapi"
)

// testConfiguration: the API server has the configuration, ipamd takes what is right of it, and says what became of it.
func testConfiguration(t *testing.T, c *cluster) {
	i := c.ipamd(t)
	t.Run("a resource is taken and told of", func(t *testing.T) {
		c.apply(t, "IPPool", "pods", "{cidr: 10.244.0.0/16}")
		got := c.accepted(t, "IPPool", "pods")
		if got.Status.Phase != "Active" || got.Status.Available == nil || *got.Status.Available < 65000 || got.Status.Assigned == nil {
			t.Errorf("status: %+v", got.Status)
		}
		out, err := i.ctl(t, "", "get", "ippool", "pods", "-o", "json")
		if err != nil || !strings.Contains(out, got.Metadata.UID) || !strings.Contains(out, `"source"`) {
			t.Errorf("ipamd has no copy of UID %s: %s, %v", got.Metadata.UID, out, err)
		}
	})
	t.Run("it is not told again", func(t *testing.T) {
		before := c.accepted(t, "IPPool", "pods")
		c.apply(t, "IPReservation", "routers", "{cidrs: [192.0.2.0/30]}") // some rounds later
		c.accepted(t, "IPReservation", "routers")
		if after := c.accepted(t, "IPPool", "pods"); after.Metadata.ResourceVersion != before.Metadata.ResourceVersion {
			t.Errorf("a status that has not changed was written: %s, %s", before.Metadata.ResourceVersion, after.Metadata.ResourceVersion)
		}
	})
	t.Run("what is refused says why, and the last good one stays", func(t *testing.T) {
		c.apply(t, "IPPool", "other", "{cidr: 10.245.0.0/16}")
		c.accepted(t, "IPPool", "other")
		c.apply(t, "IPPool", "other", "{cidr: 10.244.0.0/24}")
		c.refused(t, "IPPool", "other", "overlaps IPPool/pods, 10.244.0.0/16; no two pools may overlap; the one that was accepted before is in force")
		out, err := i.ctl(t, "", "get", "ippool", "other", "-o", "json")
		if err != nil || !strings.Contains(out, "10.245.0.0/16") {
			t.Errorf("what is in force: %s, %v", out, err)
		}
		kubeapi.Eventually(t, soon, "an event", func() error {
			code, text, err := c.Call(t.Context(), http.MethodGet, "/api/v1/namespaces/default/events?fieldSelector="+
				url.QueryEscape("involvedObject.kind=IPPool,involvedObject.name=other,type=Warning,reason=Refused"), nil, "")
			if err == nil && (code != http.StatusOK || !strings.Contains(string(text), "overlaps IPPool/pods")) {
				err = fmt.Errorf("%d: %s", code, text)
			}
			return err
		})
		c.apply(t, "IPPool", "other", "{cidr: 10.246.0.0/16}")
		c.accepted(t, "IPPool", "other")
	})
	t.Run("one makes way for another", func(t *testing.T) {
		c.apply(t, "IPPool", "late", "{cidr: 10.246.0.0/24}")
		c.refused(t, "IPPool", "late", "overlaps IPPool/other")
		c.delete(t, path("IPPool", "other"))
		c.accepted(t, "IPPool", "late")
		if out, err := i.ctl(t, "", "get", "ippool", "other"); err == nil {
			t.Errorf("a deleted one is there still: %s", out)
		}
	})
	t.Run("what something names stays until it does not", func(t *testing.T) {
		c.apply(t, "BGPFilter", "f", "{rules: [{action: Accept}]}")
		c.apply(t, "BGPPeer", "tor", "{peerAddress: 192.0.2.1, peerASN: 65101, importFilters: [f]}")
		if got := c.accepted(t, "BGPPeer", "tor"); got.Status.Wanted == nil || got.Status.Established == nil {
			t.Errorf("status of a peer: %+v", got.Status)
		}
		c.accepted(t, "BGPFilter", "f")
		c.delete(t, path("BGPFilter", "f"))
		c.delete(t, path("BGPPeer", "tor"))
		kubeapi.Eventually(t, soon, "both to be gone", func() error {
			for _, one := range []string{"bgpfilter/f", "bgppeer/tor"} {
				kind, name, _ := strings.Cut(one, "/")
				if out, err := i.ctl(t, "", "get", kind, name); err == nil {
					return errors.New(out)
				}
			}
			return nil
		})
	})
	t.Run("kubectl's columns", func(t *testing.T) { testColumns(t, c) })
	t.Run("clearwayctl applies through the API server", func(t *testing.T) { testThrough(t, c, i) })
}

// testColumns asks for a table as "kubectl get" does.
func testColumns(t *testing.T, c *cluster) {
	code, text, err := c.CallAccepting(t.Context(), "/apis/clearway.io/v1/ippools/pods", "application/json;as=Table;v=v1;g=meta.k8s.io")
	var table struct {
		ColumnDefinitions []struct{ Name string }
		Rows              []struct{ Cells []any }
	}
	if err == nil {
		err = json.Unmarshal(text, &table)
	}
	if err != nil || code != http.StatusOK || len(table.Rows) != 1 {
		t.Fatalf("%d: %s, %v", code, text, err)
	}
	cells := map[string]string{}
	for i, column := range table.ColumnDefinitions {
		cells[column.Name] = fmt.Sprint(table.Rows[0].Cells[i])
	}
	for name, want := range map[string]string{"Name": "pods", "CIDR": "10.244.0.0/16", "Kind": "Block", "Used": "0", "Phase": "Active", "Accepted": "True"} {
		if cells[name] != want {
			t.Errorf("column %s is %q, want %q (%v)", name, cells[name], want, cells)
		}
	}
	if cells["Free"] == "0" || cells["Free"] == "" {
		t.Errorf("column Free is %q", cells["Free"])
	}
}

// testThrough: clearwayctl and kubectl are two doors to one room.
func testThrough(t *testing.T, c *cluster, i *ipamd) {
	pool := func(cidr, more string) string {
		return "apiVersion: clearway.io/v1\nkind: IPPool\nmetadata: {name: through, labels: {a: b}" + more + "}\nspec: {cidr: " + cidr + "}\n"
	}
	if _, err := i.ctl(t, pool("10.200.0.0/16", ""), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	if got := c.accepted(t, "IPPool", "through"); got.Spec.CIDR != "10.200.0.0/16" {
		t.Errorf("the API server has %+v", got)
	}
	// The API server's own rules are heard as well: a CIDR is refused before anything is written.
	if _, err := i.ctl(t, pool("10.244.0.0/24", ""), "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "overlaps IPPool/pods") {
		t.Errorf("an overlap: %v", err)
	}
	if got, err := c.get(t.Context(), path("IPPool", "through")); err != nil || got.Spec.CIDR != "10.200.0.0/16" {
		t.Errorf("what was refused is in the API server: %+v, %v", got, err)
	}
	// Who changes what he has read changes nothing that has changed meanwhile.
	out, err := i.ctl(t, "", "get", "ippool", "through", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var read struct {
		Metadata struct{ ResourceVersion string }
	}
	if err := json.Unmarshal([]byte(out), &read); err != nil {
		t.Fatal(err)
	}
	stated := fmt.Sprintf(", resourceVersion: %q", read.Metadata.ResourceVersion)
	c.apply(t, "IPPool", "through", "{cidr: 10.200.0.0/16, disabled: true}")
	if _, err := i.ctl(t, pool("10.200.0.0/16", stated), "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "meanwhile") {
		t.Errorf("a change over another's: %v", err)
	}
	c.accepted(t, "IPPool", "through")
	if _, err := i.ctl(t, pool("10.200.0.0/16", ""), "apply", "-f", "-"); err != nil {
		t.Error(err)
	}
	if got := c.accepted(t, "IPPool", "through"); got.Spec.Disabled {
		t.Error("an apply without resourceVersion does not replace the spec")
	}
	if _, err := i.ctl(t, "", "delete", "ippool", "through"); err != nil {
		t.Error(err)
	}
	if got, err := c.get(t.Context(), path("IPPool", "through")); !errors.Is(err, errNone) {
		t.Errorf("what was deleted is in the API server: %+v, %v", got, err)
	}
}
