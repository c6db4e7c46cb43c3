package ipamtest_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

const quotaLimit = 7

func (f *floating) applyQuota(limit int32) {
	f.admin(func(ctx context.Context, client clearwayv1.ResourceServiceClient) error {
		_, err := client.Apply(ctx, &clearwayv1.ApplyRequest{Resources: []*clearwayv1.Resource{clearwayv1.Wrap(&clearwayv1.IPQuota{
			Metadata: &clearwayv1.ObjectMeta{Name: "db"}, Spec: &clearwayv1.IPQuotaSpec{
				NamespaceSelector: &clearwayv1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "db"}},
				Addresses:         proto.Int32(limit),
			},
		})}})
		return err
	})
}

// given is the twin's count: all that agents have in their journals, and those of machines that are cut off, one by one.
func (f *floating) given() (count int) {
	for _, agent := range f.agents {
		all, err := agent.List(context.Background(), &clearwayv1.ListRequest{Kind: "Assignment"})
		if err != nil {
			f.t.Fatal(err)
		}
		for _, one := range all {
			if one.GetAssignment().GetSpec().GetPod().GetNamespace() == "db" {
				count++
			}
		}
	}
	return count
}

func (f *floating) quotaText() (text string) {
	f.admin(func(ctx context.Context, client clearwayv1.ResourceServiceClient) error {
		stream, err := client.List(ctx, &clearwayv1.ListRequest{Kind: "IPQuota"})
		if err != nil {
			return err
		}
		answer, err := stream.Recv()
		text = fmt.Sprint(answer.GetResources())
		return err
	})
	for name, agent := range f.agents {
		all, _ := agent.List(context.Background(), &clearwayv1.ListRequest{Kind: "Assignment"})
		text += fmt.Sprintf("; %s has %d", name, len(all))
	}
	return text
}

// TestQuotaIsNeverExceeded lets Pods of a namespace come and go on three nodes whose quota is too small for all, while agents
// and ipamd are killed, and machines lose their power. There are never more addresses than the quota; and when all is quiet,
// each node's Pods get what is left, wherever the allowances were.
func TestQuotaIsNeverExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			runs++
			nodes := []string{"n1", "n2", "n3"}
			f := newFloating(rt, filepath.Join(t.TempDir(), fmt.Sprint(runs)), nodes...)
			defer f.close()
			defer f.adds.Wait()
			f.applyQuota(quotaLimit)
			time.Sleep(time.Second)
			pods := 0
			for range rapid.IntRange(3, 30).Draw(rt, "steps") {
				name := rapid.SampledFrom(nodes).Draw(rt, "node")
				on := f.agents[name] != nil
				switch action := rapid.SampledFrom([]string{"add", "add", "add", "add", "del", "kill", "ipamd", "power", "wait"}).Draw(rt, "action"); {
				case action == "wait":
					time.Sleep(time.Duration(rapid.IntRange(0, 15000).Draw(rt, "milliseconds")) * time.Millisecond)
				case action == "ipamd":
					f.restartServer(time.Duration(rapid.IntRange(0, 20).Draw(rt, "down")) * time.Second)
				case action == "del":
					for container, node := range f.running() {
						f.del(container, node)
						break
					}
				case action == "power" && on:
					f.adds.Wait()
					time.Sleep(30 * time.Second) // ipamd leads
					f.powerOff(name)
				case action == "power":
					f.powerOn(name)
				case !on:
				case action == "kill":
					f.kill(name)
				case action == "add":
					for range rapid.IntRange(1, 4).Draw(rt, "pods") {
						pods++
						owner := fmt.Sprint("p", pods)
						patience := time.Duration(rapid.IntRange(1, 20).Draw(rt, "patience")) * time.Second
						f.adds.Go(func() { _, _ = f.add(name, owner, "pods4", patience) })
					}
				}
				f.cleanUp()
				if n := f.given(); n > quotaLimit {
					rt.Fatalf("%d addresses are given, the quota is %d", n, quotaLimit)
				}
				f.check(rt)
			}
			f.adds.Wait()
			for name := range f.off {
				f.powerOn(name)
			}
			f.cleanUp()
			for container, node := range f.running() {
				f.del(container, node)
			}
			time.Sleep(5 * time.Minute)
			for i := range quotaLimit {
				pods++
				if _, err := f.add(nodes[i%len(nodes)], fmt.Sprint("p", pods), "pods4", 30*time.Second); err != nil {
					rt.Fatalf("%d of %d addresses are given, and %s gets none: %v; %v", i, quotaLimit, nodes[i%len(nodes)], err, f.quotaText())
				}
			}
			for _, name := range nodes {
				_, err := f.add(name, "one-too-many", "pods4", 30*time.Second)
				if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("allows %d addresses", quotaLimit)) {
					rt.Fatalf("one too many on %s: %v; %d are given: %v", name, err, f.given(), f.quotaText())
				}
			}
			f.check(rt)
		})
	})
}

// TestQuotaIsDelegated: ADDs go on while ipamd is away as long as the node's allowance lasts, a Pod of another namespace is
// not counted, and both families count.
func TestQuotaIsDelegated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFloating(t, t.TempDir(), "n1", "n2")
		defer f.close()
		f.applyQuota(20)
		time.Sleep(time.Second)
		if _, err := f.add("n1", "a", "pods4,pods6", 10*time.Second); err != nil {
			t.Fatal(err)
		}
		f.stop()
		time.Sleep(time.Minute)
		given := 2
		for ; given < 20; given++ {
			if _, err := f.add("n1", fmt.Sprint("more", given), "pods4", 5*time.Second); err != nil {
				if !strings.Contains(err.Error(), `IPQuota "db" allows 20 addresses`) || !strings.Contains(err.Error(), "does not answer") {
					t.Error(err)
				}
				break
			}
		}
		if given < 4 || given == 20 {
			t.Errorf("without ipamd %d addresses were given of an allowance", given)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		other := f.request("x", "x", "pods4")
		other.Pod.Namespace = "web"
		if _, err := f.agents["n1"].api.Add(ctx, other); err != nil {
			t.Errorf("a Pod of another namespace: %v", err)
		}
		f.startServer()
		time.Sleep(time.Minute)
		for ; given < 20; given++ {
			if _, err := f.add("n2", fmt.Sprint("more", given), "pods4", 10*time.Second); err != nil {
				t.Fatalf("after %d: %v", given, err)
			}
		}
		_, err := f.add("n1", "late", "pods4,pods6", 10*time.Second)
		if err == nil || !strings.Contains(err.Error(), "20 are delegated to nodes, of which other nodes had not given 0") {
			t.Errorf("the quota is used up: %v", err)
		}
		f.applyQuota(22)
		time.Sleep(time.Second)
		if _, err := f.add("n1", "late", "pods4,pods6", 10*time.Second); err != nil {
			t.Errorf("after the quota was raised: %v", err)
		}
		f.check(t)
	})
}
