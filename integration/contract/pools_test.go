package contract

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// pod is a container on an agent's node, with the plugin's result of its ADD.
type pod struct {
	container string
	got       answer
}

// addPod is an ADD of a container of a Pod in a namespace; more are further keys of the section "ipam".
func (a *agent) addPod(t testing.TB, container, namespace, more string) answer {
	t.Helper()
	return a.cni(t, "ADD", container, namespace, netconf("1.0.0", a.socket, more))
}

func (a *agent) cni(t testing.TB, verb, container, namespace, stdin string) answer {
	t.Helper()
	return command{stdin: stdin, env: []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + container, "CNI_NETNS=" + fmt.Sprintf("/proc/%d/ns/net", os.Getppid()), "CNI_IFNAME=eth0",
		"CNI_PATH=/nowhere", "CNI_ARGS=K8S_POD_NAMESPACE=" + namespace + ";K8S_POD_NAME=" + container,
	}}.run(t, cniProgram)
}

// keeps fails the test unless the container's ADD is answered as before.
func (a *agent) keeps(t testing.TB, p pod) {
	t.Helper()
	if again := a.addPod(t, p.container, "default", "").shows(t); again.out != p.got.out {
		t.Errorf("%s had %s and is told %s", p.container, p.got.out, again.out)
	}
}

func poolOf(name, spec string) string { return manifest("IPPool", name, spec) }

// TestPoolLife takes a pool through growing, draining in part, shrinking, moving and its end, while two nodes' Pods hold
// addresses of it all the time, and agents and ipamd are killed in between.
func TestPoolLife(t *testing.T) {
	t.Parallel()
	i := readyIpamd(t)
	apply(t, i.address, manifest("IPAMConfiguration", "default", "{cooldown: 0s, lowWater: 0}")+"---\n"+
		poolOf("pods", "{cidr: 10.244.1.0/28, blockSize: 29}")).shows(t)
	n1 := startAgent(t, "n1", i.address, "--insecure")
	ready(t, n1.process, n1.metrics)
	n2 := startAgent(t, "n2", i.address, "--insecure", "--route-protocol", "74")
	ready(t, n2.process, n2.metrics)
	old1 := pod{"old1", n1.addPod(t, "old1", "default", "").shows(t, "10.244.1.", "/28", `"10.244.1.1"`)}
	old2 := pod{"old2", n2.addPod(t, "old2", "default", "").shows(t, "10.244.1.", "/28")}

	// Growing: new Pods get the new prefix length, and the gateway that is.
	apply(t, i.address, poolOf("pods", "{cidr: 10.244.0.0/16, blockSize: 29}")).shows(t, "ippool/pods configured")
	eventually(t, "the agents to know", func() error {
		n1.cni(t, "DEL", "probe", "default", netconf("1.0.0", n1.socket, "")).shows(t)
		return n1.addPod(t, "probe", "default", "").lacks(`/16"`, `"10.244.1.1"`)
	})
	apply(t, i.address, poolOf("pods", "{cidr: 10.244.0.0/16, blockSize: 29}")).shows(t, "unchanged")
	var more []pod
	for n := range 12 {
		name := fmt.Sprint("more", n)
		more = append(more, pod{name, n1.addPod(t, name, "default", "").shows(t)})
	}
	n1.keeps(t, old1)
	n2.keeps(t, old2)

	// Shrinking is refused in numbers, and done when what goes is empty.
	apply(t, i.address, poolOf("pods", "{cidr: 10.244.1.0/28, blockSize: 29}")).
		says(t, 1, "spec.cidr", "leaves out", "drain what is to go first (spec.drainCIDRs: [10.244.0.0/24, 10.244.1.16/28")
	apply(t, i.address, poolOf("pods", "{cidr: 10.244.0.0/16, blockSize: 29, drainCIDRs: [10.244.0.0/24, 10.244.1.16/28, 10.244.1.32/27, "+
		"10.244.1.64/26, 10.244.1.128/25, 10.244.2.0/23, 10.244.4.0/22, 10.244.8.0/21, 10.244.16.0/20, 10.244.32.0/19, 10.244.64.0/18, 10.244.128.0/17]}")).shows(t)
	i.kill() // in the middle of it, and an agent too
	n1.kill()
	i = i.again(t)
	n1.process = n1.restart(t)
	ready(t, n1.process, n1.metrics)
	for _, one := range more {
		n1.cni(t, "DEL", one.container, "default", netconf("1.0.0", n1.socket, "")).shows(t)
	}
	n1.cni(t, "DEL", "probe", "default", netconf("1.0.0", n1.socket, "")).shows(t)
	eventually(t, "the pool to shrink", func() error {
		return apply(t, i.address, poolOf("pods", "{cidr: 10.244.1.0/28, blockSize: 29}")).lacks("ippool/pods configured")
	})
	n1.keeps(t, old1)
	n2.keeps(t, old2)

	// Moving: who names the old pool gets an address of the new one; who holds one keeps it until it ends.
	apply(t, i.address, poolOf("next", "{cidr: 10.250.0.0/24, priority: -1}")).shows(t)
	ctl(t, i.address, "ipam", "migrate", "--from", "pods", "--to", "next").
		shows(t, "ippool/pods: 2 addresses in 2 blocks remain", "old1", "old2", "keep it until they are restarted")
	eventually(t, "the agents to know", func() error {
		n1.cni(t, "DEL", "probe", "default", netconf("1.0.0", n1.socket, "")).shows(t)
		return n1.addPod(t, "probe", "default", `, "pools": ["pods"]`).lacks("10.250.0.")
	})
	ctl(t, i.address, "ipam", "migrate", "--from", "pods", "--to", "next", "--wait", "--timeout", "1s").says(t, 4, "not done yet")
	n1.keeps(t, old1)
	n1.cni(t, "DEL", "old1", "default", netconf("1.0.0", n1.socket, "")).shows(t)
	n1.addPod(t, "old1", "default", "").shows(t, "10.250.0.")
	ctl(t, i.address, "get", "ippool", "pods").shows(t, "Draining")

	// Deleting: gone with the last block.
	ctl(t, i.address, "delete", "ippool", "pods").shows(t, "ippool/pods draining", "gone when its last block came back")
	n2.keeps(t, old2)
	apply(t, i.address, poolOf("over", "{cidr: 10.244.0.0/16}")).says(t, 1, "overlaps IPPool/pods", "being deleted")
	n2.kill()
	n2.cni(t, "DEL", "old2", "default", netconf("1.0.0", n2.socket, "")).shows(t) // to the spool
	n2.process = n2.restart(t)
	ctl(t, i.address, "delete", "ippool", "pods", "--wait", "--timeout", "50s", "--ignore-not-found").says(t, 0)
	ctl(t, i.address, "get", "ippool", "pods").says(t, 3)
	eventually(t, "a pool over its range", func() error {
		return apply(t, i.address, poolOf("over", "{cidr: 10.244.0.0/16}")).lacks("ippool/over created")
	})
	ctl(t, i.address, "ipam", "assignments", "-o", "json").shows(t, "10.250.0.")
}

// TestPoolsByNamespace: a Pod gets an address of its namespace's pool, one that may not use a pool is told so, and what
// a reservation with an end keeps is given when that is over.
func TestPoolsByNamespace(t *testing.T) {
	t.Parallel()
	i := readyIpamd(t)
	apply(t, i.address, poolOf("pods", "{cidr: 10.244.0.0/16}")+"---\n"+
		poolOf("edge", "{cidr: 10.9.0.0/24, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: edge}}}")).shows(t)
	a := startAgent(t, "n1", i.address, "--insecure")
	ready(t, a.process, a.metrics)
	a.addPod(t, "c1", "edge", "").shows(t, "10.9.0.")
	a.addPod(t, "c2", "default", "").shows(t, "10.244.0.")
	annotated := func(key, value string) string {
		return strings.TrimSuffix(netconf("1.0.0", a.socket, ""), "}") +
			fmt.Sprintf(`, "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"clearway.io/%s": %q}}}`, key, value)
	}
	refuses(t, a.cni(t, "ADD", "c3", "default", annotated("pools", "edge")), 101, "pool not allowed",
		`annotation clearway.io/pools of the Pod`, `pool "edge" (kubernetes.io/metadata.name=edge)`, `namespace "default"`)
	refuses(t, a.cni(t, "ADD", "c3", "default", annotated("pools", "nowhere")), 7, `"nowhere"`)
	a.cni(t, "ADD", "c3", "edge", annotated("pools", "pods")).shows(t, "10.244.0.")
	a.cni(t, "ADD", "c4", "default", annotated("addresses", "10.244.0.40")).shows(t, "10.244.0.40/16")

	until := time.Now().Add(3 * time.Second).UTC().Format(time.RFC3339)
	warned := apply(t, i.address, manifest("IPReservation", "desk", "{cidrs: [10.244.0.40-10.244.0.41], reason: desk, until: "+fmt.Sprintf("%q", until)+"}"))
	if warned.shows(t); !strings.Contains(warned.errOut, "1 addresses in it are held") {
		eventually(t, "the mirror to have it", func() error {
			return ctl(t, i.address, "get", "ipreservation", "desk", "-o", "json").lacks(`"assigned": 1`)
		})
	}
	eventually(t, "the reservation to be over, on the node as well", func() error {
		return errors.Join(ctl(t, i.address, "get", "ipreservation", "desk").lacks("Expired"),
			a.cni(t, "ADD", "c5", "default", annotated("addresses", "10.244.0.41")).lacks("10.244.0.41/16"))
	})
}
