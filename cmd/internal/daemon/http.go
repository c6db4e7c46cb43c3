package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewRegistry returns a metrics registry with the Go runtime's, the process's and the build's own metrics in it.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := Version()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "clearway_build_info",
		Help:        "Always 1; the labels tell which build this is.",
		ConstLabels: prometheus.Labels{"version": build.Version, "revision": build.Revision, "goversion": build.Go},
	})
	info.Set(1)
	registry.MustRegister(info, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// HTTPOptions are those of the server of metrics and health.
type HTTPOptions struct {
	// Listen is ADDR:PORT; empty: no server, and Run only waits.
	Listen string
	// Gatherer gives /metrics.
	Gatherer prometheus.Gatherer
	// Ready answers /readyz: nil, or why not, in a sentence. It is called for each request and must not block.
	Ready func() error
	// Notice adds a sentence to the answer of one that is ready; "" or nil: nothing.
	Notice func() string
	Logger *slog.Logger
}

// HTTPServer serves /metrics, /healthz (200 as long as the process answers) and /readyz (200, or 503 with the reason).
type HTTPServer struct {
	listener net.Listener // nil: no server
	server   *http.Server
}

// Limits of the HTTP server: a scrape takes milliseconds, and nothing large is ever sent to it.
const (
	httpHeaderTime = 5 * time.Second
	httpWriteTime  = 30 * time.Second
	httpIdleTime   = 2 * time.Minute
	httpCloseTime  = 3 * time.Second
	httpMaxScrapes = 4
	httpMaxHeader  = 16 << 10
)

// ListenHTTP opens the listening socket, so that an address in use is known before anything else starts.
func ListenHTTP(options HTTPOptions) (*HTTPServer, error) {
	if options.Listen == "" {
		return &HTTPServer{}, nil
	}
	listener, err := net.Listen("tcp", options.Listen)
	if err != nil {
		return nil, fmt.Errorf("--metrics-listen: %w", err)
	}
	return &HTTPServer{listener: listener, server: &http.Server{
		Handler:           handler(options),
		ReadHeaderTimeout: httpHeaderTime,
		ReadTimeout:       httpHeaderTime,
		WriteTimeout:      httpWriteTime,
		IdleTimeout:       httpIdleTime,
		MaxHeaderBytes:    httpMaxHeader,
		ErrorLog:          slog.NewLogLogger(options.Logger.Handler(), slog.LevelWarn),
	}}, nil
}

func handler(options HTTPOptions) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(options.Gatherer, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(options.Logger.Handler(), slog.LevelWarn),
		MaxRequestsInFlight: httpMaxScrapes,
		Timeout:             httpWriteTime - time.Second,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := options.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
		if options.Notice != nil {
			if text := options.Notice(); text != "" {
				io.WriteString(w, text+"\n")
			}
		}
	})
	return mux
}

// Addr is the address listened on, with the port that was given where 0 was asked for; nil: no server.
func (s *HTTPServer) Addr() net.Addr {
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Run serves until ctx ends, then lets requests under way finish for a short while.
func (s *HTTPServer) Run(ctx context.Context) error {
	if s.listener == nil {
		<-ctx.Done()
		return nil
	}
	failed := make(chan error, 1)
	go func() { failed <- s.server.Serve(s.listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve metrics: %w", err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpCloseTime)
	defer cancel()
	err := s.server.Shutdown(closing)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.server.Close()
	}
	<-failed //nolint:errcheck // it is http.ErrServerClosed
	return err
}
