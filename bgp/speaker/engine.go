package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/clearway/clearway/bgp/config"
	"github.com/clearway/clearway/bgp/route"
)

// engine is one GoBGP. Its methods are called from one goroutine; what it hears goes to a listener.
type engine struct {
	bgp       *server.BgpServer
	stopWatch context.CancelFunc
	muted     *atomic.Bool
	exporters map[netip.AddrPort]*exporter
}

// listener is told what happens, from one goroutine, in the order in which it happened to each peer. GoBGP's queue
// before it has no limit, so its methods do no more than note.
type listener interface {
	onPaths([]*apiutil.Path)
	onEndOfRIB(peer netip.Addr, family route.Family)
	onPeer(*apiutil.WatchEventMessage_PeerEvent)
	// onUnreadable hears of an UPDATE that was not read to its end. It is called from any goroutine, and must not call GoBGP.
	onUnreadable(peer string)
}

func startEngine(global config.Global, listen []netip.Addr, to listener, log *slog.Logger) (*engine, error) {
	muted := &atomic.Bool{}
	bgpServer := server.NewBgpServer(server.LoggerOption(slog.New(quiet{to: log.Handler(), muted: muted, unreadable: to.onUnreadable}), nil))
	go bgpServer.Serve()
	ctx, cancel := context.WithTimeout(context.Background(), limits.operation)
	defer cancel()
	e := &engine{bgp: bgpServer, muted: muted}
	request := &api.StartBgpRequest{Global: &api.Global{
		Asn: global.ASN, RouterId: global.RouterID.String(), ListenPort: int32(global.ListenPort),
	}}
	for _, address := range listen {
		request.Global.ListenAddresses = append(request.Global.ListenAddresses, address.String())
	}
	if err := bgpServer.StartBgp(ctx, request); err != nil {
		e.stop()
		return nil, fmt.Errorf("start BGP on port %d: %w", global.ListenPort, err)
	}
	if err := e.prepare(ctx, to); err != nil {
		e.stop()
		return nil, err
	}
	return e, nil
}

// prepare sets the policies before anything can be learned or told, and the watch before there is a peer.
func (e *engine) prepare(ctx context.Context, to listener) error {
	if err := e.setPolicies(ctx, policies(config.Desired{})); err != nil {
		return err
	}
	for name, direction := range map[string]api.PolicyDirection{
		importPolicy: api.PolicyDirection_POLICY_DIRECTION_IMPORT, exportPolicy: api.PolicyDirection_POLICY_DIRECTION_EXPORT,
	} {
		if err := e.bgp.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name: "global", Direction: direction, Policies: []*api.Policy{{Name: name}},
			DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
		}}); err != nil {
			return fmt.Errorf("assign the %s policy: %w", name, err)
		}
	}
	watch, cancel := context.WithCancel(context.Background())
	e.stopWatch = cancel
	return e.bgp.WatchEvent(watch, server.WatchEventMessageCallbacks{
		OnPathUpdate: func(paths []*apiutil.Path, _ time.Time) { to.onPaths(paths) },
		OnPathEor: func(eor *apiutil.Path, _ time.Time) {
			if family, ok := familyOf(eor.Family); ok {
				to.onEndOfRIB(eor.PeerAddress.Unmap(), family)
			}
		},
		OnPeerUpdate: func(event *apiutil.WatchEventMessage_PeerEvent, _ time.Time) { to.onPeer(event) },
	}, server.WatchUpdate(false, "", ""), server.WatchAdjInWithdraw(), server.WatchEor(false), server.WatchPeer())
}

func (e *engine) setPolicies(ctx context.Context, request *api.SetPoliciesRequest) error {
	if err := e.bgp.SetPolicies(ctx, request); err != nil {
		return fmt.Errorf("set policies: %w", err)
	}
	return nil
}

// stop closes the sessions without a NOTIFICATION. It waits no longer than its limit.
func (e *engine) stop() {
	e.muted.Store(true)
	for _, one := range e.exporters {
		one.stop()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if e.stopWatch != nil {
			e.stopWatch()
		}
		// An error says that it was not running.
		_ = e.bgp.StopBgp(context.Background(), &api.StopBgpRequest{AllowGracefulRestart: true})
		e.bgp.Stop() // its BFD goroutine, which no session of ours uses
	}()
	select {
	case <-done:
	case <-time.After(limits.stop):
	}
}
