package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/rundir"
	"github.com/sockemu/sockemu/internal/sys"
)

// suffix ends the names of control sockets.
const suffix = ".ctl"

// What a caller may cost the process.
const (
	maxCallers   = 16 // at once; more are turned away
	maxHeader    = 4 << 10
	readTimeout  = 2 * time.Second
	writeTimeout = 10 * time.Second
	idleTimeout  = 10 * time.Second
	closeTimeout = time.Second
)

// A Server answers on the control socket of one process. Its methods are safe for concurrent use.
type Server struct {
	http  http.Server
	path  string
	conns sync.WaitGroup // a count for each caller's goroutine
	done  chan struct{}  // closed when no further caller is accepted
	close func() error
}

// Serve answers for process proc from now on until Close. It also removes the sockets that killed processes have left. Where
// the caller's credentials can't be checked the error wraps errors.ErrUnsupported.
func Serve(proc gid.ProcessID, src Source) (*Server, error) {
	d, err := rundir.Dir()
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	rundir.Sweep(d, suffix)
	path := filepath.Join(d, fmt.Sprintf("%d-%s%s", os.Getpid(), proc, suffix))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	s := &Server{path: path, done: make(chan struct{})}
	s.http = http.Server{
		Handler:           newHandler(proc, time.Now(), src),
		ReadTimeout:       readTimeout,
		ReadHeaderTimeout: readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // what callers do wrong is not this process's news
		ConnState:         s.count,
	}
	s.close = sync.OnceValue(s.shutdown)
	go func() {
		defer close(s.done)
		s.http.Serve(&gate{UnixListener: l, slots: make(chan struct{}, maxCallers)}) // returns after Close only: gate waits out other errors
	}()
	return s, nil
}

// Path is where the socket is.
func (s *Server) Path() string { return s.path }

// Close removes the socket and ends the server. Callers that are just being answered get a second to take their answer.
func (s *Server) Close() error { return s.close() }

func (s *Server) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.done
	s.conns.Wait()
	return err
}

// count keeps account of the callers' goroutines, which http.Server itself doesn't wait for.
func (s *Server) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.conns.Add(1)
	case http.StateClosed:
		s.conns.Done()
	}
}

// gate lets in callers with the right credentials, as long as there is room.
type gate struct {
	*net.UnixListener
	slots chan struct{}
}

// Accept waits for the next caller to serve. It fails only after Close.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		if err != nil {
			// Out of file descriptors, most likely. http.Server waits a little and asks again after an error that says so.
			return nil, busyError{err}
		}
		if uid, err := sys.PeerUID(c); err != nil || uid != os.Getuid() && uid != 0 {
			c.Close()
			continue
		}
		select {
		case g.slots <- struct{}{}:
			return &caller{UnixConn: c, leave: sync.OnceFunc(func() { <-g.slots })}, nil
		default:
			c.Close()
		}
	}
}

// busyError is an error of accept(2) after which it is worth trying again.
type busyError struct{ error }

// Temporary is what http.Server asks.
func (busyError) Temporary() bool { return true }

// Timeout completes net.Error.
func (busyError) Timeout() bool { return false }

// A caller is a connection that holds one of the gate's slots.
type caller struct {
	*net.UnixConn
	leave func()
}

// Close closes the connection and gives its slot back.
func (c *caller) Close() error {
	defer c.leave()
	return c.UnixConn.Close()
}

func newHandler(proc gid.ProcessID, started time.Time, src Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/process", func(w http.ResponseWriter, _ *http.Request) {
		p := src.Process()
		p.PID, p.Arg0, p.Proc = os.Getpid(), os.Args[0], proc.String()
		p.Executable, _ = os.Executable() // empty if it is unknown
		if p.Started.IsZero() {
			p.Started = started
		}
		reply(w, http.StatusOK, p)
	})
	mux.HandleFunc("GET /v1/connections", func(w http.ResponseWriter, _ *http.Request) {
		list := src.Connections()
		if list == nil {
			list = []Connection{} // [] rather than null
		}
		reply(w, http.StatusOK, list)
	})
	mux.HandleFunc("GET /v1/why", func(w http.ResponseWriter, r *http.Request) {
		prefix := strings.ToLower(r.URL.Query().Get("gid"))
		if err := checkPrefix(prefix); err != nil {
			reply(w, http.StatusBadRequest, problem{err.Error()})
			return
		}
		why, err := src.Why(prefix)
		switch {
		case errors.Is(err, ErrNoConnection):
			reply(w, http.StatusNotFound, problem{err.Error()})
		case errors.Is(err, ErrAmbiguous):
			reply(w, http.StatusConflict, problem{err.Error()})
		case err != nil:
			reply(w, http.StatusInternalServerError, problem{err.Error()})
		default:
			reply(w, http.StatusOK, why)
		}
	})
	return mux
}

// problem is the answer to a request that failed.
type problem struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // a Source's raw message that is no JSON
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer is not valid JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

// checkPrefix says what is wrong with the beginning of a GID.
func checkPrefix(s string) error {
	if len(s) < 1 || len(s) > 2*gid.Size || strings.Trim(s, "0123456789abcdef") != "" {
		return fmt.Errorf("want the first 1 to %d hexadecimal digits of a GID", 2*gid.Size)
	}
	return nil
}
