package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/cmd/internal/unary"
)

// Limits of a unix socket's server.
const (
	guardMaxRequest = 4 << 20 // a GC names thousands of attachments
	guardMaxStreams = 256     // of one connection; the unary server's are as many
	guardMaxCalls   = 4096    // under way at once: each of them waits for the journal's disk
	guardMaxLists   = 16      // streams under way at once: each has a copy of what it lists
	// Others than root and ourselves make so many calls a second, and four times as many at once.
	guardOthersRate  = 50
	guardOthersBurst = 4 * guardOthersRate
	// guardIdle closes connections on which nothing is called: the plugin makes one for each call.
	guardIdle = 5 * time.Minute
	// guardFarewell is how long one who may not call has to read why.
	guardFarewell = 2 * time.Second
)

// SocketGuard lets root, our own user and the users that were named call over a unix socket, by the credentials that the
// kernel knows of the process at the other end (SO_PEERCRED), and bounds how much they call at once. The socket's mode is
// the first lock: the guard is what holds when somebody has opened it, and where others are to be let in.
type SocketGuard struct {
	own    uint32
	others map[uint32]*rate.Limiter
	logger *slog.Logger
	pace   *rate.Limiter
	silent atomic.Int64 // refusals since the last line of the log

	calls, lists atomic.Int64
	refused      *prometheus.CounterVec
}

// NewSocketGuard makes a guard; uids are the further users.
func NewSocketGuard(uids []uint32, logger *slog.Logger, metrics prometheus.Registerer) (*SocketGuard, error) {
	g := &SocketGuard{
		own: uint32(os.Geteuid()), others: map[uint32]*rate.Limiter{}, logger: logger,
		pace: rate.NewLimiter(rate.Every(failureEvery), failuresFirst),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "clearway_socket_refusals_total",
			Help: "Calls at the socket that were refused, by method and reason: uid, rate, busy.",
		}, []string{"method", "reason"}),
	}
	for _, uid := range uids {
		if uid != 0 && uid != g.own {
			g.others[uid] = rate.NewLimiter(guardOthersRate, guardOthersBurst)
		}
	}
	if err := metrics.Register(g.refused); err != nil {
		return nil, fmt.Errorf("register metrics of the socket: %w", err)
	}
	return g, nil
}

// ServerOptions are those of a gRPC server on the socket.
func (g *SocketGuard) ServerOptions() []grpc.ServerOption {
	return append(ServerOptions(peerCredentials{g}),
		grpc.MaxRecvMsgSize(guardMaxRequest), grpc.MaxConcurrentStreams(guardMaxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 10 * time.Second, Timeout: 5 * time.Second, MaxConnectionIdle: guardIdle,
		}),
		grpc.ChainUnaryInterceptor(g.unary), grpc.ChainStreamInterceptor(g.stream))
}

// UnaryOptions are those of the server that has the socket's unary calls.
func (g *SocketGuard) UnaryOptions() unary.Options {
	return unary.Options{Credentials: peerCredentials{g}, Intercept: g.unary, MaxMessage: guardMaxRequest, MaxIdle: guardIdle}
}

func (g *SocketGuard) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if err := g.admit(ctx, info.FullMethod, &g.calls, guardMaxCalls); err != nil {
		return nil, err
	}
	defer g.calls.Add(-1)
	return handle(ctx, request)
}

func (g *SocketGuard) stream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := g.admit(stream.Context(), info.FullMethod, &g.lists, guardMaxLists); err != nil {
		return err
	}
	defer g.lists.Add(-1)
	return handle(service, stream)
}

// admit is nil for a call that may be made, and then it has counted it in.
func (g *SocketGuard) admit(ctx context.Context, method string, underWay *atomic.Int64, most int64) error {
	from := processOf(ctx)
	reason, err := g.judge(from)
	if err == nil {
		if underWay.Add(1) <= most {
			return nil
		}
		underWay.Add(-1)
		reason, err = "busy", status.Errorf(codes.ResourceExhausted, "%d calls of this kind are under way already; try again", most)
	}
	g.note(method, reason, from, err)
	return err
}

func (g *SocketGuard) judge(from process) (reason string, err error) {
	if !g.knows(from) {
		return "uid", status.Errorf(codes.PermissionDenied, "%s may not use this socket: %s may; --socket-uids names others",
			from, g.allowed())
	}
	if bucket := g.others[from.uid]; bucket != nil && !bucket.Allow() {
		return "rate", status.Errorf(codes.ResourceExhausted, "%s makes more than %d calls a second; try again", from, guardOthersRate)
	}
	return "", nil
}

func (g *SocketGuard) knows(from process) bool {
	if !from.known {
		return false
	}
	return from.uid == 0 || from.uid == g.own || g.others[from.uid] != nil
}

// allowed names those who may call.
func (g *SocketGuard) allowed() string {
	uids := []uint32{0}
	if g.own != 0 {
		uids = append(uids, g.own)
	}
	for uid := range g.others {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	return "uid " + strings.Trim(strings.Join(strings.Fields(fmt.Sprint(uids)), ", "), "[]")
}

func (g *SocketGuard) note(method, reason string, from process, err error) {
	g.refused.WithLabelValues(method, reason).Inc()
	if !g.pace.Allow() {
		g.silent.Add(1)
		return
	}
	attributes := []any{"method", method, "reason", reason, "error", status.Convert(err).Message()}
	if silent := g.silent.Swap(0); silent > 0 {
		attributes = append(attributes, "more_before", silent)
	}
	g.logger.Warn("a call at the socket is refused", attributes...)
}

// process is who is at the other end of a connection.
type process struct {
	credentials.CommonAuthInfo
	known bool
	uid   uint32
	pid   int32
}

// AuthType is credentials.AuthInfo's.
func (process) AuthType() string { return "unix" }

func (p process) String() string {
	if !p.known {
		return "a process whose user is not known"
	}
	return fmt.Sprintf("uid %d (process %d)", p.uid, p.pid)
}

func processOf(ctx context.Context) process {
	if from, ok := peer.FromContext(ctx); ok {
		if made, ok := from.AuthInfo.(process); ok {
			return made
		}
	}
	return process{}
}

// peerCredentials are those of a server on a unix socket: no encryption, and the kernel's word on who is there.
type peerCredentials struct{ guard *SocketGuard }

// ServerHandshake is gRPC's. Who may not call is told so by each call, and soon hung up on.
func (p peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	from, err := readProcess(conn)
	if err != nil {
		return nil, nil, err
	}
	if !p.guard.knows(from) {
		time.AfterFunc(guardFarewell, func() { conn.Close() })
	}
	return conn, from, nil
}

func readProcess(conn net.Conn) (process, error) {
	found, err := SocketPeer(conn)
	if err != nil {
		return process{}, err
	}
	return process{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		known:          true, uid: found.Uid, pid: found.Pid,
	}, nil
}

// SocketPeer is what the kernel knows of the process at the other end of a unix socket. Its number is the one that it has
// in this process namespace, 0 where it has none.
func SocketPeer(conn net.Conn) (*unix.Ucred, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("read peer credentials: it is no unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("read peer credentials: %w", err)
	}
	var found *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		found, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, fmt.Errorf("read peer credentials: %w", err)
	}
	if failed != nil {
		return nil, fmt.Errorf("read peer credentials: %w", failed)
	}
	return found, nil
}

// ClientHandshake is gRPC's: clients need no credentials of their own.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are a server's")
}

// Info is gRPC's.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone is gRPC's.
func (p peerCredentials) Clone() credentials.TransportCredentials { return p }

// OverrideServerName is gRPC's.
func (peerCredentials) OverrideServerName(string) error { return nil }
