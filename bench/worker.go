package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/sockemu/sockemu/bench/internal/host"
)

// The roles of a worker process.
const (
	RoleServer = "server"
	RoleClient = "client"
)

// closeTime bounds how long a worker waits for its connections to close.
const closeTime = time.Second

// Work is the life of a worker process: it takes commands from in and answers to out, until in ends. Then it closes its
// connections and returns; the process should exit, for a goroutine may still be in a transport's hands.
func Work(ctx context.Context, role string, in io.Reader, out io.Writer, registry Registry, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &worker{registry: registry, log: log, out: out, gone: make(chan struct{})}
	switch role {
	case RoleServer:
		w.side = &server{worker: w}
	case RoleClient:
		w.side = &client{worker: w}
	default:
		return fmt.Errorf("unknown role %q: there is %s, %s", role, RoleServer, RoleClient)
	}
	defer w.close()
	// Closing the connections ends whatever loop is running on them.
	defer context.AfterFunc(ctx, w.close)()

	frames := make(chan frame)
	go func() {
		defer cancel()
		var header [frameHeader]byte
		for {
			f, err := readFrame(in, &header)
			if err != nil {
				return
			}
			select {
			case frames <- f:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case f := <-frames:
			if err := w.answer(ctx, f); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// A side is what differs between client and server.
type side interface {
	setup(ctx context.Context, s setup) (ready, error)
	run(r run) (runResult, error)
	count(a allocs) (allocsResult, error)
}

// worker is what client and server have in common.
type worker struct {
	side
	registry   Registry
	log        *slog.Logger
	out        io.Writer
	congestion string
	counters   countersFrame
	gone       chan struct{} // closed when closers have been closed

	mu      sync.Mutex // guards what follows
	closed  bool
	closers []io.Closer
}

// answer handles one command.
func (w *worker) answer(ctx context.Context, f frame) error {
	if f.kind == kindCounters { // counted between two commands, so nothing must allocate here
		w.counters.put(readCounters())
		_, err := w.out.Write(w.counters[:])
		return err
	}
	body, err := w.do(ctx, f)
	if err != nil {
		return writeFrame(w.out, kindError, err.Error())
	}
	return writeFrame(w.out, f.kind, body)
}

func (w *worker) do(ctx context.Context, f frame) (any, error) {
	switch f.kind {
	case kindSetup:
		return handle(f, func(s setup) (ready, error) {
			w.congestion = s.Congestion
			return w.setup(withCongestion(ctx, s.Congestion), s)
		})
	case kindPin:
		if w.congestion == "" {
			return pinned{}, nil
		}
		n, err := host.EnforceCongestion(w.congestion)
		return pinned{n}, err
	case kindRun:
		return handle(f, w.run)
	case kindAllocs:
		return handle(f, w.count)
	}
	return nil, fmt.Errorf("unknown command %q", f.kind)
}

// handle gives fn the body of f.
func handle[In, Out any](f frame, fn func(In) (Out, error)) (any, error) {
	var in In
	if err := json.Unmarshal(f.body, &in); err != nil {
		return nil, fmt.Errorf("command %q: %w", f.kind, err)
	}
	return fn(in)
}

// own makes w close c in the end. It closes c now, and fails, if that end has come.
func (w *worker) own(c io.Closer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errors.Join(errors.New("the worker is ending"), c.Close())
	}
	w.closers = append(w.closers, c)
	return nil
}

// ending reports whether errors are to be expected, because everything is being closed.
func (w *worker) ending() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed
}

// close closes everything that w owns and waits for that, closeTime at most, whoever has begun it: only then may the process end.
func (w *worker) close() {
	w.mu.Lock()
	begun := w.closed
	closers := w.closers
	w.closers, w.closed = nil, true
	w.mu.Unlock()
	if begun {
		<-w.gone
		return
	}
	defer close(w.gone)
	var wg sync.WaitGroup
	for _, c := range closers {
		wg.Go(func() { c.Close() })
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		wg.Wait()
	}()
	select {
	case <-done:
	case <-time.After(closeTime):
		w.log.Warn("connections take long to close; not waiting for them")
	}
}

// transport looks a lane's transport up.
func (w *worker) transport(id laneID) (Transport, error) {
	t, ok := w.registry.find(id.Mode, id.Substrate)
	if !ok {
		return nil, fmt.Errorf("this worker has no %s", id)
	}
	return t, nil
}

// String names the lane in errors.
func (l laneID) String() string { return l.Mode + " over " + l.Substrate }
