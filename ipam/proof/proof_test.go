package proof

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestCompare(t *testing.T) {
	seen := Namespace{Path: "/run/netns/a", Self: File{4, 7}, Folder: File{2, 3}}
	inProc := Namespace{Path: "/proc/7/ns/net", Self: File{4, 7}}
	for name, c := range map[string]struct {
		of   Namespace
		at   Sighting
		want Standing
		why  string
	}{
		"there":                 {seen, Sighting{Self: seen.Self, Folder: seen.Folder}, Alive, "is there"},
		"gone":                  {seen, Sighting{Missing: true, Folder: seen.Folder}, Gone, "/run/netns/a is gone"},
		"another":               {seen, Sighting{Self: File{4, 8}, Folder: seen.Folder}, Gone, "another"},
		"no path":               {Namespace{}, Sighting{Missing: true}, Unknown, "named no"},
		"never seen":            {Namespace{Path: "/run/netns/a"}, Sighting{Missing: true}, Unknown, "could not be seen"},
		"folder is another":     {seen, Sighting{Missing: true, Folder: File{2, 4}}, Unknown, "folder"},
		"folder is missing":     {seen, Sighting{Missing: true}, Unknown, "folder"},
		"no namespace there":    {seen, Sighting{Folder: seen.Folder}, Unknown, "mount"},
		"not allowed":           {seen, Sighting{Missing: true, Folder: seen.Folder, Fault: "permission denied"}, Unknown, "permission denied"},
		"process ended":         {inProc, Sighting{Missing: true}, Gone, "is gone"},
		"number of another one": {inProc, Sighting{Self: File{4, 8}}, Gone, "another"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.of.Compare(c.at); got.Standing != c.want || !strings.Contains(got.Why, c.why) {
				t.Errorf("got %v, want %v %q", got, c.want, c.why)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	address := netip.MustParseAddr("10.244.0.5")
	h := Holder{
		Namespace: Namespace{Path: "/run/netns/a", Self: File{4, 7}, Folder: File{2, 3}},
		Addresses: []netip.Addr{netip.MustParseAddr("fd00::5"), address},
	}
	gone := Sighting{Missing: true, Folder: h.Namespace.Folder}
	for name, c := range map[string]struct {
		view View
		want Standing
	}{
		"nothing has it":     {View{}, Gone},
		"view is not whole":  {View{Fault: "no /proc"}, Unknown},
		"another namespace":  {View{Places: map[netip.Addr][]Place{address: {{File{4, 9}, "/proc/9/ns/net"}}}}, Alive},
		"a route":            {View{Reached: map[netip.Addr]string{address: "a route"}}, Alive},
		"somebody else's":    {View{Reached: map[netip.Addr]string{address.Next(): "a route"}}, Gone},
		"fault beside proof": {View{Fault: "x", Reached: map[netip.Addr]string{}}, Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.view.Judge(h, gone); got.Standing != c.want || got.Why == "" {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestJudgeByPod: Kubernetes' word counts where nothing is known of the namespace, and only with all of the machine seen.
func TestJudgeByPod(t *testing.T) {
	address := netip.MustParseAddr("10.244.0.5")
	seen := Namespace{Path: "/run/netns/a", Self: File{4, 7}, Folder: File{2, 3}}
	for name, c := range map[string]struct {
		of   Namespace
		at   Sighting
		view View
		want Standing
	}{
		"none was named":         {Namespace{}, Sighting{}, View{}, Gone},
		"its folder is hidden":   {seen, Sighting{Missing: true}, View{}, Gone},
		"its namespace is there": {seen, Sighting{Self: seen.Self, Folder: seen.Folder}, View{}, Alive},
		"not all is seen":        {Namespace{}, Sighting{}, View{Fault: "no /proc"}, Unknown},
		"a namespace has it":     {Namespace{}, Sighting{}, View{Places: map[netip.Addr][]Place{address: {{File{4, 9}, "/proc/9/ns/net"}}}}, Alive},
		"the kernel leads to it": {Namespace{}, Sighting{}, View{Reached: map[netip.Addr]string{address: "a route"}}, Alive},
	} {
		t.Run(name, func(t *testing.T) {
			h := Holder{Namespace: c.of, Addresses: []netip.Addr{address}, PodGone: true}
			if got := c.view.Judge(h, c.at); got.Standing != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestNeverFreesALiveOne drives the decisions through machines on which Pods come and go, namespaces' numbers are
// reused, and things are hidden; whoever is freed must be gone, and freed when a slow twin that remembers every look
// says so.
func TestNeverFreesALiveOne(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		if err := walk(rt, View.Judge); err != nil {
			rt.Fatal(err)
		}
	})
}

// TestSeededBugsAreFound breaks the decision on purpose: the walk must find each.
func TestSeededBugsAreFound(t *testing.T) {
	type judge = func(View, Holder, Sighting) Finding
	for name, broken := range map[string]judge{
		"frees on missing information": func(v View, h Holder, s Sighting) Finding {
			if found := v.Judge(h, s); found.Standing != Unknown {
				return found
			}
			return Finding{Gone, "not seen"}
		},
		"trusts a view that is not whole": func(v View, h Holder, s Sighting) Finding {
			v.Fault = ""
			return v.Judge(h, s)
		},
		"does not look at other namespaces": func(v View, h Holder, s Sighting) Finding {
			v.Places = nil
			return v.Judge(h, s)
		},
		"does not look at routes": func(v View, h Holder, s Sighting) Finding {
			v.Reached = nil
			return v.Judge(h, s)
		},
		"does not compare the folder": func(v View, h Holder, s Sighting) Finding {
			s.Folder = h.Namespace.Folder
			return v.Judge(h, s)
		},
		"takes Kubernetes' word alone": func(v View, h Holder, s Sighting) Finding {
			if h.PodGone {
				return Finding{Gone, "deleted"}
			}
			return v.Judge(h, s)
		},
		"takes an empty file for an end": func(v View, h Holder, s Sighting) Finding {
			s.Missing = s.Missing || !s.Self.exists()
			return v.Judge(h, s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			const tries = 2000
			walks := rapid.Custom(func(rt *rapid.T) string {
				if err := walk(rt, broken); err != nil {
					return err.Error()
				}
				return ""
			})
			for seed := range tries {
				if found := walks.Example(seed); found != "" {
					t.Logf("found with seed %d: %s", seed, found)
					return
				}
			}
			t.Errorf("not found in %d walks", tries)
		})
	}
}

// sandbox is an attachment on the machine as it truly is.
type sandbox struct {
	holder Holder
	self   File // of its true namespace
	// path: its file is there; alive: its namespace is, and has the address unless it is not configured yet.
	path, alive, configured bool
	// moved: the path leads to another one's namespace. wired: only a route on the host shows it.
	moved, wired bool
	history      []look
	freed        bool
}

type look struct {
	at    time.Time
	found Standing
}

// walk is one machine's life; an error tells what was decided wrongly.
func walk(rt *rapid.T, judge func(View, Holder, Sighting) Finding) error {
	const grace = 5 * time.Minute
	now := time.Unix(1_000_000, 0)
	folder := File{2, 3}
	var all []*sandbox
	var ledger Ledger
	var told uint64
	for range rapid.IntRange(1, 30).Draw(rt, "steps") {
		switch rapid.SampledFrom([]string{"add", "die", "hide", "configure", "remake", "retry", "delete", "look", "look", "look"}).Draw(rt, "step") {
		case "add":
			told++
			s := &sandbox{self: File{4, told % 5}, path: true, alive: true, wired: rapid.Bool().Draw(rt, "wired")}
			s.holder = Holder{ID: ID{Number: told}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(told)})}}
			s.holder.Namespace = Namespace{Path: fmt.Sprintf("/run/netns/%d", told)}
			if rapid.IntRange(0, 3).Draw(rt, "seen") > 0 {
				s.holder.Namespace.Self, s.holder.Namespace.Folder = s.self, folder
			}
			all = append(all, s)
		case "configure":
			each(rt, all, func(s *sandbox) { s.configured = s.alive })
		case "die":
			each(rt, all, func(s *sandbox) { s.alive, s.path, s.configured, s.moved = false, false, false, false })
		case "hide": // its file goes, and its processes live on
			each(rt, all, func(s *sandbox) { s.path, s.configured = false, s.alive })
		case "remake": // another namespace under its name, while its processes live on
			each(rt, all, func(s *sandbox) { s.moved, s.configured = true, s.alive })
		case "delete": // its Pod, by force too: an ADD that is under way is over before two looks over the grace time are
			each(rt, all, func(s *sandbox) { s.holder.PodGone = s.holder.PodGone || !s.alive || s.configured })
		case "retry":
			each(rt, all, func(s *sandbox) { s.holder.Superseded = true })
		case "look":
			now = now.Add(rapid.SampledFrom([]time.Duration{time.Second, 2 * time.Minute, grace}).Draw(rt, "later"))
			if err := lookAround(rt, now, grace, all, &ledger, folder, judge); err != nil {
				return err
			}
		}
	}
	return nil
}

func each(rt *rapid.T, all []*sandbox, do func(*sandbox)) {
	if len(all) > 0 {
		do(rapid.SampledFrom(all).Draw(rt, "of"))
	}
}

func lookAround(
	rt *rapid.T, now time.Time, grace time.Duration, all []*sandbox, ledger *Ledger, folder File,
	judge func(View, Holder, Sighting) Finding,
) error {
	hidden := rapid.SampledFrom([]string{"", "", "", "processes", "folder", "mounts"}).Draw(rt, "hidden")
	view := View{Places: map[netip.Addr][]Place{}, Reached: map[netip.Addr]string{}}
	if hidden == "processes" {
		view.Fault = "not allowed"
	}
	var held []*sandbox
	var holders []Holder
	var findings []Finding
	for _, s := range all {
		if s.alive && s.configured && hidden != "processes" {
			if s.wired {
				view.Reached[s.holder.Addresses[0]] = "a route"
			} else {
				view.Places[s.holder.Addresses[0]] = []Place{{s.self, "/proc/1/ns/net"}}
			}
		}
		if !s.freed {
			held, holders = append(held, s), append(holders, s.holder)
		}
	}
	for _, s := range held {
		found := judge(view, s.holder, s.sight(hidden, folder))
		findings = append(findings, found)
		s.history = append(s.history, look{now, found.Standing})
	}
	free := map[int]bool{}
	for _, i := range ledger.Note(now, grace, holders, findings) {
		free[i] = true
	}
	for i, s := range held {
		if want := s.due(now, grace); free[i] != want {
			return fmt.Errorf("sandbox %s: freed %v, and by its looks %v it is %v", s.holder.Namespace.Path, free[i], s.history, want)
		}
		if free[i] && s.alive {
			return fmt.Errorf("sandbox %s lives and was freed: %s", s.holder.Namespace.Path, findings[i].Why)
		}
		s.freed = s.freed || free[i]
	}
	return nil
}

// sight is what is found at the sandbox's path, with something hidden.
func (s *sandbox) sight(hidden string, folder File) Sighting {
	found := Sighting{Folder: folder}
	switch {
	case hidden == "folder": // the agent sees another folder, without the runtime's files
		return Sighting{Folder: File{2, 99}, Missing: true}
	case s.moved:
		found.Self = File{4, 99}
	case s.path:
		found.Self = s.self
	default:
		found.Missing = true
	}
	if hidden == "mounts" {
		found.Self = File{}
	}
	return found
}

// due is the slow twin: it goes through all looks anew.
func (s *sandbox) due(now time.Time, grace time.Duration) bool {
	looks, first := 0, now
	for i := len(s.history) - 1; i >= 0 && s.history[i].found == Gone; i-- {
		looks, first = looks+1, s.history[i].at
	}
	return looks > 0 && (s.holder.Superseded || looks >= 2 && now.Sub(first) >= grace)
}
