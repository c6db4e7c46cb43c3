package unary

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

const (
	// maxIdleWorkers is how many goroutines wait for a call. They spare it the growing of a stack.
	maxIdleWorkers = 64
	// greetingTimeout bounds the wait for a client's first bytes.
	greetingTimeout = 10 * time.Second
)

// Options are what a server needs to know.
type Options struct {
	// Credentials shake hands on a new connection; what they know of the client is in the peer of a call's context. Those
	// that encrypt are not for here: the connection must stay the one that was accepted.
	Credentials credentials.TransportCredentials
	// Intercept, where not nil, is called for each unary call.
	Intercept grpc.UnaryServerInterceptor
	// MaxMessage is the largest message in bytes that is taken or sent.
	MaxMessage int
	// MaxIdle is how long a connection without calls is kept, at least; at most twice as long.
	MaxIdle time.Duration
}

// Server serves unary methods. Everything else is its rest's.
type Server struct {
	options Options
	rest    *grpc.Server
	methods map[string]method // by path; not changed once it serves
	handed  *handed

	calls   chan *stream // to workers that wait
	waiting atomic.Int32 // workers that wait
	workers sync.WaitGroup
	readers sync.WaitGroup

	mu       sync.Mutex // guards all below
	listener net.Listener
	conns    map[*conn]struct{}
	stopped  bool
}

// method is one unary method of a service.
type method struct {
	handle  grpc.MethodHandler
	service any
}

// New returns a server without services. The rest, to which a connection goes that needs more than unary calls, is made
// with further options: all that holds for unary calls must be among them as well, but for the credentials.
func New(options Options, rest ...grpc.ServerOption) *Server {
	return &Server{
		options: options, rest: grpc.NewServer(append(rest, grpc.Creds(passed{}))...), methods: map[string]method{}, handed: newHanded(),
		calls: make(chan *stream), conns: map[*conn]struct{}{},
	}
}

// RegisterService implements grpc.ServiceRegistrar, for here and for the rest. It must be called before Serve.
func (s *Server) RegisterService(service *grpc.ServiceDesc, implementation any) {
	s.rest.RegisterService(service, implementation)
	for _, m := range service.Methods {
		s.methods["/"+service.ServiceName+"/"+m.MethodName] = method{m.Handler, implementation}
	}
}

// GetServiceInfo implements reflection's view of a server: that of the rest, which has all services.
func (s *Server) GetServiceInfo() map[string]grpc.ServiceInfo { return s.rest.GetServiceInfo() }

// Serve takes connections until Stop, and then returns grpc.ErrServerStopped. Any other error is the listener's.
func (s *Server) Serve(listener net.Listener) error {
	if !s.start(listener) {
		listener.Close()
		return grpc.ErrServerStopped
	}
	s.handed.addr = listener.Addr()
	rest := make(chan error, 1)
	go func() { rest <- s.rest.Serve(s.handed) }()
	err := s.accept(listener)
	s.Stop()
	if restErr := <-rest; !errors.Is(restErr, grpc.ErrServerStopped) && restErr != nil {
		err = errors.Join(err, restErr)
	}
	return err
}

func (s *Server) start(listener net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener = listener
	return !s.stopped
}

func (s *Server) accept(listener net.Listener) error {
	const patience = 50 * time.Millisecond
	for {
		accepted, err := listener.Accept()
		if err != nil {
			if s.isStopped() {
				return grpc.ErrServerStopped
			}
			if temporary := interface{ Temporary() bool }(nil); errors.As(err, &temporary) && temporary.Temporary() {
				time.Sleep(patience) // out of descriptors: some may be closed by then
				continue
			}
			return fmt.Errorf("accept: %w", err)
		}
		c := newConn(s, accepted)
		if !s.add(c) {
			accepted.Close()
			continue
		}
		go func() {
			defer s.readers.Done()
			c.serve()
		}()
	}
}

func (s *Server) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

func (s *Server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.conns[c] = struct{}{}
	s.readers.Add(1)
	return true
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Stop closes the listener and every connection, ends the contexts of the calls under way, and waits for them.
func (s *Server) Stop() {
	for _, c := range s.stop() {
		c.close()
	}
	s.rest.Stop()
	s.readers.Wait()
	s.workers.Wait()
}

// stop marks the server as stopped and tells what is to be closed. Nothing is added afterwards.
func (s *Server) stop() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.stopped = true
		if s.listener != nil {
			s.listener.Close()
		}
		go func() {
			s.readers.Wait()
			close(s.calls) // nobody sends any more: the workers end
		}()
	}
	var conns []*conn
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// dispatch has a worker run a call. Only readers call it.
func (s *Server) dispatch(st *stream) {
	select {
	case s.calls <- st:
	default:
		s.workers.Go(func() { s.work(st) })
	}
}

func (s *Server) work(st *stream) {
	for open := true; open; {
		st.run()
		if s.waiting.Add(1) > maxIdleWorkers {
			s.waiting.Add(-1)
			return
		}
		st, open = <-s.calls
		s.waiting.Add(-1)
	}
}

// handed is the listener from which the rest takes the connections that are passed on to it.
type handed struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHanded() *handed {
	return &handed{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handed) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr implements net.Listener.
func (h *handed) Addr() net.Addr { return h.addr }

// pass gives a connection to the rest; false: it takes none any more.
func (h *handed) pass(ctx context.Context, c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.closed:
	case <-ctx.Done():
	}
	return false
}

// passed are the credentials of connections that are passed on: hands were shaken before.
type passed struct {
	credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (passed) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, c.(*replayed).info, nil
}

// Info implements credentials.TransportCredentials.
func (passed) Info() credentials.ProtocolInfo { return credentials.ProtocolInfo{} }

// Clone implements credentials.TransportCredentials.
func (p passed) Clone() credentials.TransportCredentials { return p }
