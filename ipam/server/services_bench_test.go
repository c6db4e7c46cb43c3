package server_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/clearway/clearway/ipam/service"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// BenchmarkSeeServices takes the time from a change of one endpoint among 10,000 Services, with ten endpoints each, to its
// record in the store.
func BenchmarkSeeServices(b *testing.B) {
	d := start(b, newFake())
	d.apply(ipPool("vips", "100.64.0.0/16", func(s *clearwayv1.IPPoolSpec) { s.Kind = "LoadBalancer" }), clearwayv1.Wrap(&clearwayv1.BGPConfiguration{
		Metadata: &clearwayv1.ObjectMeta{Name: "default"},
		Spec:     &clearwayv1.BGPConfigurationSpec{Services: &clearwayv1.ServiceRoutes{LoadBalancerIps: []string{"100.64.0.0/16"}}},
	}))
	all := map[string]*service.Service{}
	for n := range 10_000 {
		s := balanced(fmt.Sprint("s", n), map[string]service.Readiness{})
		s.Created, s.ExternalLocal = time.Unix(int64(n), 0), n%10 == 0
		for node := range 10 {
			s.Endpoints[fmt.Sprint("n", (n+node)%5000)] = service.Ready
		}
		all[s.Key()] = s
	}
	began := time.Now()
	d.see(all)
	b.ReportMetric(float64(time.Since(began).Milliseconds()), "first-ms")
	for i := 0; b.Loop(); i++ {
		s := *all["web/s0"]
		s.Endpoints = map[string]service.Readiness{fmt.Sprint("n", i%10): service.Ready}
		all["web/s0"] = &s
		d.see(all)
	}
}
