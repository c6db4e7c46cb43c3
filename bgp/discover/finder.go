package discover

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/clearway/clearway/bgp/config"
)

// lookEvery is how often interfaces are looked at: a link that comes up has its session some seconds later.
const lookEvery = time.Second

// Finder hears routers on links. Set and Links may be called from any goroutine; Run does the work.
type Finder struct {
	log  *slog.Logger
	wake chan struct{}

	mu       sync.Mutex // guards all following fields
	patterns []string
	heard    heard
}

// New makes a Finder that looks nowhere.
func New(log *slog.Logger) *Finder {
	return &Finder{log: log, wake: make(chan struct{}, 1), heard: newHeard()}
}

// Set says on which interfaces to look, by name or by a pattern with * and ?. It does not block; the latest wins.
func (f *Finder) Set(patterns []string) {
	f.mu.Lock()
	same := slices.Equal(patterns, f.patterns)
	f.patterns = slices.Clone(patterns)
	f.mu.Unlock()
	if same {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Links are the interfaces that match and are up, or were a moment ago, with the routers heard on each, in order.
func (f *Finder) Links() []config.Link {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heard.list()
}

// Run listens until the context ends.
func (f *Finder) Run(ctx context.Context) error {
	listening := map[string]*listener{}
	defer func() {
		for _, l := range listening {
			l.stop()
		}
	}()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case <-look.C:
		}
		f.look(ctx, listening)
	}
}

// look listens on the links that are up and wanted, and on no others.
func (f *Finder) look(ctx context.Context, listening map[string]*listener) {
	f.mu.Lock()
	patterns := f.patterns
	f.mu.Unlock()
	up := map[string]net.Interface{}
	if len(patterns) > 0 {
		up = f.matching(patterns)
	}
	for name, l := range listening {
		if link, still := up[name]; !still || link.Index != l.link.Index || l.ended() {
			l.stop()
			delete(listening, name)
		}
	}
	names := make([]string, 0, len(up))
	for name := range up {
		names = append(names, name)
	}
	slices.Sort(names)
	now := time.Now()
	f.mu.Lock()
	f.heard.present(names, now)
	f.heard.expire(now)
	f.mu.Unlock()
	for _, name := range names {
		if listening[name] == nil && len(listening) < limits.links {
			f.open(ctx, up[name], listening)
		}
	}
}

func (f *Finder) open(ctx context.Context, link net.Interface, listening map[string]*listener) {
	l, err := listen(link, func(router netip.Addr) { f.note(link.Name, router) })
	if err != nil {
		f.mu.Lock()
		at := f.heard.links[link.Name]
		tell := at != nil && !at.reported && time.Since(at.changed) > 5*time.Second // its address is checked by the kernel at first
		if tell {
			at.reported = true
		}
		f.mu.Unlock()
		if tell {
			f.log.Error("no router can be heard on an interface; trying again", "interface", link.Name, "error", err)
		}
		return
	}
	l.start(ctx)
	listening[link.Name] = l
}

func (f *Finder) note(name string, router netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard.router(name, router.WithZone(""), time.Now())
}

// matching are the interfaces that are up and match.
func (f *Finder) matching(patterns []string) map[string]net.Interface {
	links, err := net.Interfaces()
	if err != nil {
		f.log.Warn("interfaces cannot be listed", "error", err)
		return nil
	}
	const needed = net.FlagUp | net.FlagRunning | net.FlagMulticast
	up := map[string]net.Interface{}
	for _, link := range links {
		if link.Flags&needed != needed || link.Flags&net.FlagLoopback != 0 {
			continue
		}
		if slices.ContainsFunc(patterns, func(pattern string) bool {
			matches, err := path.Match(pattern, link.Name)
			return err == nil && matches
		}) {
			up[link.Name] = link
		}
	}
	return up
}
