package endpoint

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/samehost"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
)

// closeGrace is what Close gives to connections that are closing, and to control channels to send what was posted.
const closeGrace = 500 * time.Millisecond

// Endpoint is one process's end of everything. Its methods are safe for concurrent use.
type Endpoint struct {
	cfg  Config
	proc gid.ProcessID
	subs map[string]substrate.Substrate // all, by name
	psk  [32]byte
	log  *slog.Logger
	pool *session.Pool
	host *samehost.Host // where processes of this host bring pages; nil: nowhere

	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	slots   chan struct{} // one per handshake in progress
	probing chan struct{} // one per probe that is served
	moving  chan struct{} // one per connection that is just moved to another path
	opening sync.Once     // openSides

	mu        sync.Mutex
	sessions  map[end]*entry
	ended     []departed  // oldest first
	ageing    *time.Timer // runs age; nil while nothing has ended
	peers     map[gid.ProcessID]*peer
	channels  map[*channel]struct{}
	listeners map[*Listener]struct{} // also closed ones that connections still need
	imported  map[importKey]struct{}
	links     map[substrate.Link]struct{} // in handshake
	sides     []*Listener                 // of the other substrates; none before the first Listen
	barred    map[string]string           // substrates that can't be listened on, and why
	watching  bool                        // changes of the host's network
	closed    bool

	count counts
	total totals

	queued    atomic.Int64 // bytes that wait on control channels
	queueMost atomic.Int64 // see maxQueued; tests change it
}

type counts struct {
	handshakes, refused, busy, badProofs, plain atomic.Uint64
	opened, accepted, resumed, moved, importedN atomic.Uint64
}

// New makes an endpoint with a fresh process identity.
func New(cfg Config) *Endpoint {
	cfg = cfg.withDefaults()
	e := &Endpoint{
		cfg: cfg, proc: gid.NewProcessID(), psk: clusterPSK(cfg.ClusterKey), log: cfg.Session.Logger,
		pool: session.NewPool(cfg.MemoryBudget), slots: make(chan struct{}, cfg.MaxHandshakes), probing: make(chan struct{}, probesServed), moving: make(chan struct{}, moves),
		sessions: make(map[end]*entry), peers: make(map[gid.ProcessID]*peer), channels: make(map[*channel]struct{}),
		listeners: make(map[*Listener]struct{}), imported: make(map[importKey]struct{}), links: make(map[substrate.Link]struct{}),
	}
	e.subs = map[string]substrate.Substrate{cfg.Substrate.Name(): cfg.Substrate}
	for _, o := range cfg.Others {
		e.subs[o.Substrate.Name()] = o.Substrate
	}
	e.queueMost.Store(maxQueued)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	if !cfg.NoSharing && !cfg.Session.Seal {
		h, err := samehost.Listen(e.proc, e.takePage)
		if err != nil {
			e.log.Debug("pages can't be shared with processes on this host", "err", err)
		}
		e.host = h
	}
	return e
}

// Proc returns the process identity.
func (e *Endpoint) Proc() gid.ProcessID { return e.proc }

// Config returns the configuration, defaults filled in.
func (e *Endpoint) Config() Config { return e.cfg }

// CountPlain counts a connection that fell back to plain TCP.
func (e *Endpoint) CountPlain() { e.count.plain.Add(1) }

// Close ends every connection with a reset, closes the listeners and waits for all goroutines of the endpoint.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return net.ErrClosed
	}
	e.closed = true
	var list []*session.Session
	for _, en := range e.sessions {
		list = append(list, en.s)
	}
	var ls []*Listener
	for l := range e.listeners {
		ls = append(ls, l)
	}
	sides := e.sides
	e.mu.Unlock()
	for _, l := range append(ls, sides...) {
		l.shut(true)
	}
	// Connections that are just closing get a moment to finish: their last records may be under way.
	grace, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	for _, s := range list {
		if !s.Closing() {
			continue
		}
		select {
		case <-s.Done():
		case <-grace.Done():
		}
	}
	var told sync.WaitGroup // a peer that doesn't answer is given a moment: all of them the same one
	for _, s := range list {
		told.Go(func() {
			s.Abort(net.ErrClosed, "the endpoint was closed")
			s.Forget()
		})
	}
	told.Wait()
	for _, c := range e.openChannels() {
		c.flush(grace)
	}
	e.cancel()
	if e.host != nil {
		e.host.Close()
	}
	e.mu.Lock()
	for link := range e.links {
		link.Interrupt()
	}
	e.mu.Unlock()
	for _, c := range e.openChannels() {
		c.close(errChannelClosed)
	}
	e.wg.Wait()
	for _, o := range e.cfg.Others {
		if c, ok := o.Substrate.(io.Closer); ok {
			c.Close() // what links of it are left belongs to nobody
		}
	}
	e.mu.Lock()
	if e.ageing != nil {
		e.ageing.Stop()
	}
	clear(e.sessions)
	e.mu.Unlock()
	return nil
}
