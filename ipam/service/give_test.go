package service_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clearway/clearway/ipam/pool"
	"github.com/clearway/clearway/ipam/service"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func lbPool(t rapid.TB, name, cidr string, more ...func(*clearwayv1.IPPoolSpec)) pool.Pool {
	t.Helper()
	spec := &clearwayv1.IPPoolSpec{Cidr: cidr, Kind: "LoadBalancer"}
	for _, change := range more {
		change(spec)
	}
	made, faults := pool.Parse(&clearwayv1.IPPool{Metadata: &clearwayv1.ObjectMeta{Name: name}, Spec: spec})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return made
}

// lb is a Service of one family and port 80, made n seconds after noon.
func lb(name string, n int, change ...func(*service.Service)) *service.Service {
	s := &service.Service{
		Namespace: "web", Name: name, UID: "uid-" + name, Created: noon.Add(time.Duration(n) * time.Second), LoadBalancer: true,
		Class: service.Class, Families: []service.Family{service.IPv4}, Ports: []service.Port{{Protocol: "TCP", Number: 80}},
	}
	for _, one := range change {
		one(s)
	}
	return s
}

func asks(text string) func(*service.Service) {
	return func(s *service.Service) { s.Asked = append(s.Asked, netip.MustParseAddr(text)) }
}

func shows(text string) func(*service.Service) {
	return func(s *service.Service) { s.Ingress = append(s.Ingress, netip.MustParseAddr(text)) }
}

func shared(key string, port int32) func(*service.Service) {
	return func(s *service.Service) {
		s.SharingKey, s.Ports = key, []service.Port{{Protocol: "TCP", Number: port}}
	}
}

func dual(s *service.Service) { s.Families = []service.Family{service.IPv6, service.IPv4} }

// told is what Give decided, in one line a Service.
func told(in service.Input) string {
	given, refused := service.Give(in)
	var lines []string
	for name := range in.Services {
		var addresses []string
		for _, addr := range given[name].Addresses {
			addresses = append(addresses, addr.String()+"@"+addr.Pool)
		}
		line := strings.TrimPrefix(name, "web/") + ": " + strings.Join(addresses, " ")
		if why := refused[name]; why != "" {
			line += " (" + why + ")"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func input(pools []pool.Pool, services ...*service.Service) service.Input {
	in := service.Input{Pools: pools, Services: map[string]*service.Service{}, Held: map[string]service.Held{}, Now: noon}
	for _, s := range services {
		in.Services[s.Key()] = s
	}
	return in
}

func TestGive(t *testing.T) {
	four := lbPool(t, "four", "203.0.113.0/30")
	six := lbPool(t, "six", "2001:db8:1::/126")
	blue := lbPool(t, "blue", "198.51.100.0/31", func(s *clearwayv1.IPPoolSpec) {
		s.ServiceSelector = &clearwayv1.LabelSelector{MatchLabels: map[string]string{"color": "blue"}}
		s.Priority = 5
	})
	off := lbPool(t, "off", "192.0.2.0/31", func(s *clearwayv1.IPPoolSpec) { s.Disabled = true })
	pods, _ := pool.Parse(&clearwayv1.IPPool{Metadata: &clearwayv1.ObjectMeta{Name: "pods"}, Spec: &clearwayv1.IPPoolSpec{Cidr: "10.0.0.0/24"}})
	all := []pool.Pool{pods, four, six, blue, off}
	for name, c := range map[string]struct {
		in   service.Input
		want string
	}{
		"the older ones go first": {
			input(all, lb("a", 2), lb("b", 1)), "a: 203.0.113.1@four\nb: 203.0.113.0@four",
		},
		"who shows one gets it": {
			input(all, lb("a", 1), lb("b", 2, shows("203.0.113.0"))), "a: 203.0.113.1@four\nb: 203.0.113.0@four",
		},
		"a selector, by priority": {
			input(all, lb("a", 1, func(s *service.Service) { s.Labels = map[string]string{"color": "blue"} })), "a: 198.51.100.0@blue",
		},
		"another class": {
			input(all, lb("a", 1, func(s *service.Service) { s.Class = "other" }), lb("b", 2, func(s *service.Service) { s.Class = "" })), "a: \nb: ",
		},
		"both families": {input(all, lb("a", 1, dual)), "a: 203.0.113.0@four 2001:db8:1::@six"},
		"one family of two is enough": {
			input([]pool.Pool{four}, lb("a", 1, dual)), "a: 203.0.113.0@four (there is no pool of kind LoadBalancer for IPv6)",
		},
		"all families or none": {
			input([]pool.Pool{four}, lb("a", 1, dual, func(s *service.Service) { s.AllFamilies = true })),
			"a:  (there is no pool of kind LoadBalancer for IPv6)",
		},
		"asked for": {input(all, lb("a", 1, asks("203.0.113.3"))), "a: 203.0.113.3@four"},
		"asked for, and another's": {
			input(all, lb("a", 1, asks("203.0.113.3")), lb("b", 2, asks("203.0.113.3"))),
			"a: 203.0.113.3@four\nb:  (203.0.113.3 cannot be had: Service web/a has it; Services of one namespace share an address when " +
				"all have the same annotation clearway.io/sharing-key)",
		},
		"asked for, of a pool of Pods": {
			input(all, lb("a", 1, asks("10.0.0.7"))), "a:  (10.0.0.7 is in no pool of kind LoadBalancer)",
		},
		"asked for, of a pool that is closed": {
			input(all, lb("a", 1, asks("192.0.2.1")), lb("b", 1, asks("198.51.100.1"))),
			"a:  (192.0.2.1 cannot be had: pool off is disabled)\n" +
				"b:  (198.51.100.1 cannot be had: the serviceSelector of pool blue (color=blue) does not take it)",
		},
		"a pool by name": {
			input(all, lb("a", 1, func(s *service.Service) { s.Pools = []string{"off", "none", "pods"} }),
				lb("b", 1, func(s *service.Service) { s.Pools = []string{"off", "four"} }),
				lb("c", 1, asks("203.0.113.1"), func(s *service.Service) { s.Pools = []string{"off"} })),
			"a:  (no IPv4 address: there is no pool none; pool pods is of kind Block; pool off is disabled)\nb: 203.0.113.0@four\n" +
				"c:  (203.0.113.1 cannot be had: pool four is none of those in the annotation clearway.io/pools (off))",
		},
		"none is left": {
			input([]pool.Pool{four}, lb("a", 1), lb("b", 2), lb("c", 3), lb("d", 4), lb("e", 5)),
			"a: 203.0.113.0@four\nb: 203.0.113.1@four\nc: 203.0.113.2@four\nd: 203.0.113.3@four\n" +
				"e:  (no IPv4 address: pool four (203.0.113.0/30) has no free address: 4 are given)",
		},
		"shared": {
			input(all, lb("a", 1, shared("k", 80)), lb("b", 2, shared("k", 443)), lb("c", 3, shared("k", 80)), lb("d", 4)),
			"a: 203.0.113.0@four\nb: 203.0.113.0@four\nc: 203.0.113.1@four\nd: 203.0.113.2@four",
		},
		"shared with a port that is taken": {
			input(all, lb("a", 1, shared("k", 80)), lb("b", 2, shared("k", 80), asks("203.0.113.0"))),
			"a: 203.0.113.0@four\nb:  (203.0.113.0 cannot be had: Service web/a has its port TCP 80)",
		},
		"shared, Local, with other endpoints": {
			input(all, lb("a", 1, shared("k", 80), func(s *service.Service) { s.ExternalLocal, s.Selector = true, "x=y" }),
				lb("b", 2, shared("k", 81), asks("203.0.113.0"))),
			"a: 203.0.113.0@four\nb:  (203.0.113.0 cannot be had: Service web/a has it, with other endpoints; with externalTrafficPolicy " +
				"Local those that share an address must have the same selector)",
		},
		"a bad annotation": {
			input(all, lb("a", 1, func(s *service.Service) { s.Fault = "annotation x: bad" })), "a:  (annotation x: bad)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := told(c.in); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func held(since int, s *service.Service, addresses ...string) (string, service.Held) {
	h := service.Held{UID: s.UID, Since: noon.Add(time.Duration(since) * time.Minute)}
	for _, text := range addresses {
		addr, of, _ := strings.Cut(text, "@")
		h.Addresses = append(h.Addresses, service.Address{Addr: netip.MustParseAddr(addr), Pool: of})
	}
	return s.Key(), h
}

// TestGivenStays: what becomes of pools, selectors and other Services moves nothing.
func TestGivenStays(t *testing.T) {
	four := lbPool(t, "four", "203.0.113.0/30", func(s *clearwayv1.IPPoolSpec) {
		s.Disabled = true
		s.ServiceSelector = &clearwayv1.LabelSelector{MatchLabels: map[string]string{"no": "one"}}
	})
	reserved, _ := pool.ParseReservation(&clearwayv1.IPReservation{
		Metadata: &clearwayv1.ObjectMeta{Name: "r"}, Spec: &clearwayv1.IPReservationSpec{Cidrs: []string{"203.0.113.2"}},
	})
	for name, c := range map[string]struct {
		pools []pool.Pool
		s     *service.Service
		has   string
		want  string
	}{
		"a disabled pool":          {[]pool.Pool{four}, lb("a", 1), "203.0.113.2@four", "a: 203.0.113.2@four"},
		"a pool that is gone":      {nil, lb("a", 1), "203.0.113.2@four", "a: 203.0.113.2@four"},
		"a bad annotation":         {nil, lb("a", 1, func(s *service.Service) { s.Fault = "bad" }), "203.0.113.2@four", "a: 203.0.113.2@four (bad)"},
		"another that is not free": {nil, lb("a", 1, asks("203.0.113.1")), "203.0.113.2@four", "a: 203.0.113.2@four (203.0.113.1 is in no pool of kind LoadBalancer)"},
		"another that is free":     {[]pool.Pool{lbPool(t, "four", "203.0.113.0/30")}, lb("a", 1, asks("203.0.113.1")), "203.0.113.2@four", "a: 203.0.113.1@four"},
		"a family that is no more": {nil, lb("a", 1, func(s *service.Service) { s.Families = nil }), "203.0.113.2@four", "a: "},
		"another type":             {nil, lb("a", 1, func(s *service.Service) { s.LoadBalancer = false }), "203.0.113.2@four", "a: "},
		"a Service made anew":      {nil, lb("a", 1, func(s *service.Service) { s.UID = "new" }), "203.0.113.2@four", "a:  (there is no pool of kind LoadBalancer for IPv4)"},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(c.pools, c.s)
			in.Reservations = []pool.Reservation{reserved}
			key, h := held(0, lb("a", 1), c.has)
			in.Held[key] = h
			if got := told(in); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	t.Run("the first keeps what two can no longer share", func(t *testing.T) {
		a, b := lb("a", 1, shared("k", 80)), lb("b", 2, shared("other", 81))
		in := input([]pool.Pool{lbPool(t, "four", "203.0.113.0/30")}, a, b)
		for since, s := range map[int]*service.Service{5: a, 3: b} {
			key, h := held(since, s, "203.0.113.2@four")
			in.Held[key] = h
		}
		want := "a: 203.0.113.0@four (it no longer has 203.0.113.2: Service web/b has it; Services of one namespace share an address " +
			"when all have the same annotation clearway.io/sharing-key)\nb: 203.0.113.2@four"
		if got := told(in); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

// TestGiveHolds draws Services that come, go and change, and pools that do, and checks after each what must hold of what was
// given: what is shared may be, what is new is of an open pool and not reserved, and nothing moves that did not ask to.
func TestGiveHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		reserved, _ := pool.ParseReservation(&clearwayv1.IPReservation{
			Metadata: &clearwayv1.ObjectMeta{Name: "r"}, Spec: &clearwayv1.IPReservationSpec{Cidrs: []string{"203.0.113.2", "2001:db8::3"}},
		})
		in := input(nil)
		in.Reservations = []pool.Reservation{reserved}
		serial := 0
		for step := range rapid.IntRange(1, 30).Draw(t, "steps") {
			in.Now = noon.Add(time.Duration(step) * time.Minute)
			in.Pools = []pool.Pool{
				lbPool(t, "four", "203.0.113.0/29", func(s *clearwayv1.IPPoolSpec) { s.Disabled = rapid.Bool().Draw(t, "off") }),
				lbPool(t, "six", "2001:db8::/125", func(s *clearwayv1.IPPoolSpec) { s.AvoidBuggyIps = true }),
			}
			name := fmt.Sprint("s", rapid.IntRange(0, 11).Draw(t, "name"))
			if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
				delete(in.Services, "web/"+name)
			} else {
				serial++
				s := lb(name, serial, shared(rapid.SampledFrom([]string{"", "k"}).Draw(t, "key"), int32(rapid.IntRange(80, 83).Draw(t, "port"))))
				if before := in.Services[s.Key()]; before != nil {
					s.UID, s.Created = before.UID, before.Created
				} else {
					s.UID = fmt.Sprint(serial)
				}
				if rapid.Bool().Draw(t, "dual") {
					dual(s)
				}
				s.AllFamilies = rapid.Bool().Draw(t, "all or none")
				if rapid.IntRange(0, 2).Draw(t, "asks") == 0 {
					s.Asked = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(rapid.IntRange(0, 9).Draw(t, "asked"))})}
				}
				in.Services[s.Key()] = s
			}
			given, refused := service.Give(in)
			checkGiven(t, in, given, refused)
			again, _ := service.Give(service.Input{
				Services: in.Services, Held: given, Pools: in.Pools, Reservations: in.Reservations, Now: in.Now.Add(time.Second),
			})
			if fmt.Sprint(again) != fmt.Sprint(given) {
				t.Fatalf("a second look moves something: %v, then %v", given, again)
			}
			in.Held = given
		}
	})
}

func checkGiven(t *rapid.T, in service.Input, given map[string]service.Held, refused map[string]string) {
	users := map[netip.Addr][]*service.Service{}
	for key, h := range given {
		s := in.Services[key]
		if s == nil || h.UID != s.UID {
			t.Fatalf("%s has %v, and is no more", key, h.Addresses)
		}
		if s.AllFamilies && len(h.Addresses) < len(s.Families) && len(in.Held[key].Addresses) == 0 {
			t.Fatalf("%s wants all families, and has %v", key, h.Addresses)
		}
		for _, addr := range h.Addresses {
			users[addr.Addr] = append(users[addr.Addr], s)
			isNew := in.Held[key].UID != s.UID || !slices.Contains(in.Held[key].Addresses, addr)
			if isNew && (in.Reservations[0].Contains(addr.Addr) || addr.Pool == "four" && in.Pools[0].Disabled) {
				t.Fatalf("%s is given %s, which is reserved, or of a disabled pool", key, addr)
			}
		}
	}
	for key, before := range in.Held {
		s := in.Services[key]
		for _, addr := range before.Addresses {
			if s == nil || s.UID != before.UID || slices.Contains(given[key].Addresses, addr) || len(s.Asked) > 0 ||
				!slices.Contains(s.Families, service.FamilyOf(addr.Addr)) || strings.Contains(refused[key], "no longer has "+addr.String()) {
				continue
			}
			t.Fatalf("%s had %s, and has %v", key, addr, given[key].Addresses)
		}
	}
	for addr, all := range users {
		for i, a := range all {
			for _, b := range all[:i] {
				if a.SharingKey == "" || a.SharingKey != b.SharingKey || a.Ports[0] == b.Ports[0] {
					t.Fatalf("%s and %s both have %s", a.Key(), b.Key(), addr)
				}
			}
		}
	}
	for key, s := range in.Services {
		if len(given[key].Addresses) < len(s.Families) && refused[key] == "" {
			t.Fatalf("%s lacks an address, and is not told why", key)
		}
	}
}

func TestRoutes(t *testing.T) {
	ready := map[string]service.Readiness{"n1": service.Ready, "n2": service.Terminating, "n3": service.Unready, "": service.Ready}
	allowed := service.Allowed{
		LoadBalancer: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/32")},
		External:     []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Cluster: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
	}
	addr := netip.MustParseAddr
	for name, c := range map[string]struct {
		change func(*service.Service)
		given  string
		want   string
	}{
		"every node, whatever its endpoints": {nil, "203.0.113.7", "[203.0.113.7] everywhere"},
		"beside the allow-list":              {nil, "198.51.100.7", ""},
		"Local":                              {func(s *service.Service) { s.ExternalLocal = true }, "203.0.113.7", "[203.0.113.7] [n1]"},
		"Local, and none is ready": {func(s *service.Service) {
			s.ExternalLocal = true
			s.Endpoints = map[string]service.Readiness{"n2": service.Terminating, "n3": service.Unready}
		}, "203.0.113.7", "[203.0.113.7] [n2]"},
		"no endpoint": {func(s *service.Service) { s.Endpoints = map[string]service.Readiness{"n3": service.Unready} }, "203.0.113.7", ""},
		"an endpoint off the nodes": {func(s *service.Service) {
			s.ExternalLocal = true
			s.Endpoints = map[string]service.Readiness{"": service.Ready}
		}, "203.0.113.7", ""},
		"external addresses": {func(s *service.Service) {
			s.ExternalIPs = []netip.Addr{addr("192.0.2.1"), addr("8.8.8.8"), addr("203.0.113.9"), addr("192.0.2.200")}
		}, "203.0.113.7", "[203.0.113.7 192.0.2.1] everywhere"},
		"cluster addresses": {func(s *service.Service) {
			s.ClusterIPs, s.InternalLocal, s.LoadBalancer = []netip.Addr{addr("10.96.0.1"), addr("fd00::1")}, true, false
		}, "", "[10.96.0.1] [n1]"},
		"of another class": {func(s *service.Service) {
			s.Class, s.Ingress = "other", []netip.Addr{addr("203.0.113.50"), addr("203.0.113.129")}
		}, "", "[203.0.113.50] everywhere"},
	} {
		t.Run(name, func(t *testing.T) {
			s := lb("a", 1)
			s.Endpoints = ready
			if c.change != nil {
				c.change(s)
			}
			var given []netip.Addr
			if c.given != "" {
				given = append(given, addr(c.given))
			}
			pools := []netip.Prefix{netip.MustParsePrefix("203.0.113.128/25"), netip.MustParsePrefix("192.0.2.192/26")}
			var got []string
			for _, route := range s.Routes(given, allowed, func(a netip.Addr) bool {
				return slices.ContainsFunc(pools, func(p netip.Prefix) bool { return p.Contains(a) })
			}) {
				who := fmt.Sprint(route.Nodes)
				if route.EveryNode {
					who = "everywhere"
				}
				got = append(got, fmt.Sprint(route.Addresses, " ", who))
			}
			if text := strings.Join(got, "; "); text != c.want {
				t.Errorf("got %s, want %s", text, c.want)
			}
		})
	}
}
