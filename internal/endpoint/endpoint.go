package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/samehost"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// Config holds the tunables of an endpoint. Zero fields take the defaults, except Substrate, which is needed.
type Config struct {
	// Session is the configuration of every connection.
	Session session.Config
	// Substrate makes the first link of every connection, and those that no other substrate makes: it is what the addresses of Dial
	// and Listen are for.
	Substrate substrate.Substrate
	// Others are substrates that a connection may move to.
	Others []Other
	// Policy says which substrates may be used with the peer at an address; nil: any.
	Policy func(addr string) selector.Policy
	// Choice configures the choice between them. Zero fields take the defaults.
	Choice selector.Config
	// ClusterKey, if not empty, must be the same on both sides; peers without it are refused.
	ClusterKey []byte
	// HandshakeTimeout bounds one handshake. Default 5 s.
	HandshakeTimeout time.Duration
	// MaxHandshakes bounds the handshakes in progress on the accepting side; more are told to come back. Default 1024.
	MaxHandshakes int
	// Backlog bounds the connections waiting for Accept, per listener. Default 1024.
	Backlog int
	// KeepAlive is how often a silent control channel is asked for a sign of life; KeepAliveDead is the silence after which
	// it is given up and replaced. Defaults 5 s and 15 s.
	KeepAlive, KeepAliveDead time.Duration
	// MemoryBudget bounds the send and receive buffers of all connections together, in bytes. Beyond it every connection keeps a
	// minimum of 64 KiB. Default 1 GiB.
	MemoryBudget int64
	// Remember is how long an ended connection still answers its peer. Default 30 s.
	Remember time.Duration
	// NoWatch leaves changes of the host's interfaces, addresses and routes unnoticed until the next probes.
	NoWatch bool
	// NoSharing keeps the endpoint from sharing pages of memory with processes on the same host.
	NoSharing bool
}

func (c Config) withDefaults() Config {
	if c.KeepAlive > 0 {
		c.Session.KeepAlive = c.KeepAlive
	}
	c.Session = c.Session.WithDefaults()
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.HandshakeTimeout, 5*time.Second)
	def(&c.KeepAlive, 5*time.Second)
	def(&c.KeepAliveDead, 3*c.KeepAlive)
	def(&c.Remember, 30*time.Second)
	if c.MaxHandshakes <= 0 {
		c.MaxHandshakes = 1024
	}
	if c.Backlog <= 0 {
		c.Backlog = 1024
	}
	if c.MemoryBudget <= 0 {
		c.MemoryBudget = 1 << 30
	}
	return c
}

// Other is a further substrate. If it is an io.Closer it is closed with the endpoint.
type Other struct {
	Substrate substrate.Substrate
	// Listen is where it accepts links, in its own form of addresses, while the endpoint has a Listener. It must let the system
	// choose: there may be many endpoints on a host.
	Listen string
}

// closeGrace is what Close gives to connections that are closing.
const closeGrace = 500 * time.Millisecond

// maxRemembered bounds the ended connections that are kept to answer their peers.
const maxRemembered = 4096

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

	mu        sync.Mutex
	sessions  map[end]*entry
	ended     []end // remembered, oldest first
	peers     map[gid.ProcessID]*peer
	channels  map[*channel]struct{}
	listeners map[*Listener]struct{} // also closed ones that connections still need
	imported  map[importKey]struct{}
	links     map[substrate.Link]struct{} // in handshake
	sides     []*Listener                 // of the other substrates; nil before the first Listen
	barred    map[string]string           // substrates that can't be listened on, and why
	watching  bool                        // changes of the host's network
	closed    bool

	count counts
	total totals
}

// entry is what the endpoint knows about a connection besides its session.
type entry struct {
	s        *session.Session
	home     string    // the address that was dialled; "" on the accepting side
	from     *Listener // that accepted it
	imported bool
	held     bool  // imported, but not to be used before Release
	reach    bool  // the peer has told where it listens
	peer     *peer // this end looks after the control channel to it, and chooses the path
	choice   *choice
	ended    bool
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

// end names one end of a connection. A process that has dialled itself holds both.
type end struct {
	id        gid.GID
	initiator bool
}

func endOf(s *session.Session) end { return end{s.GID(), s.Initiator()} }

// lookup returns one end of a connection, if this process holds it.
func (e *Endpoint) lookup(id gid.GID, initiator bool) *session.Session {
	e.mu.Lock()
	defer e.mu.Unlock()
	if en := e.sessions[end{id, initiator}]; en != nil {
		return en.s
	}
	return nil
}

// Sessions returns the connections of this process that haven't ended.
func (e *Endpoint) Sessions() []*session.Session {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []*session.Session
	for _, en := range e.sessions {
		if !en.ended {
			list = append(list, en.s)
		}
	}
	return list
}

// CountPlain counts a connection that fell back to plain TCP.
func (e *Endpoint) CountPlain() { e.count.plain.Add(1) }

// Dial opens a connection to address. If answer is not 0, a peer that stays silent for so long after the link is up is taken
// for one that doesn't speak sockemu. An error matches ErrNotSockemu if the peer answers but doesn't speak sockemu,
// *session.RefusedError if it refused, or the substrate's error classes.
func (e *Endpoint) Dial(ctx context.Context, address string, answer time.Duration) (*session.Session, error) {
	backoff := 10 * time.Millisecond
	for {
		s, err := e.dialOnce(ctx, address, answer)
		var r *session.RefusedError
		if err == nil || !errors.As(err, &r) || r.Status != wire.StatusBusy {
			return s, err
		}
		t := time.NewTimer(backoff)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		case <-e.ctx.Done():
			t.Stop()
			return nil, net.ErrClosed
		}
		backoff = min(2*backoff, time.Second)
	}
}

func (e *Endpoint) dialOnce(ctx context.Context, address string, answer time.Duration) (*session.Session, error) {
	ctx, cancel := e.bound(ctx)
	defer cancel()
	link, err := e.cfg.Substrate.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	hctx, hcancel := context.WithTimeout(ctx, e.cfg.HandshakeTimeout)
	defer hcancel()
	id := gid.New()
	my := e.identify(wire.Setup{Epoch: 1, LinkNo: 1, Limit: uint64(e.cfg.Session.RecvBuffer)}, link, address)
	peer, a, err := dialHandshake(hctx, link, request{
		kind: wire.KindOpen, gid: id, answer: answer, psk: e.psk, key: len(e.cfg.ClusterKey) > 0, seal: e.cfg.Session.Seal, my: my, addr: address,
	})
	if err != nil {
		link.Close()
		return nil, err
	}
	s := session.New(id, true, a.secret(true), e.cfg.Session, e, e.pool)
	s.SetAddrs(link.LocalAddr(), link.RemoteAddr())
	if err := e.add(&entry{s: s, home: address}); err != nil {
		link.Close()
		return nil, err
	}
	if err := s.Bind(e.newLink(e.basePath(address), link, a, 1, true, peer)); err != nil {
		e.remove(endOf(s))
		return nil, err
	}
	e.count.opened.Add(1)
	return s, nil
}

// bound ends ctx with the endpoint.
func (e *Endpoint) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(e.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

func (e *Endpoint) add(en *entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return net.ErrClosed
	}
	if old := e.sessions[endOf(en.s)]; old != nil {
		return fmt.Errorf("connection %s is already here", en.s.GID())
	}
	e.sessions[endOf(en.s)] = en
	if en.from != nil {
		en.from.live++
	}
	return nil
}

func (e *Endpoint) remove(id end) {
	e.mu.Lock()
	en := e.sessions[id]
	if en == nil {
		e.mu.Unlock()
		return
	}
	delete(e.sessions, id)
	p := en.peer
	var free *Listener
	if en.from != nil && !en.ended {
		free = e.released(en.from)
	}
	e.mu.Unlock()
	en.s.Forget()
	if p != nil {
		p.leave(en.s)
	}
	if free != nil {
		free.rawNow().Close()
	}
	for _, c := range e.openChannels() {
		c.forget(en.s)
	}
}

func (e *Endpoint) openChannels() []*channel {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]*channel, 0, len(e.channels))
	for c := range e.channels {
		list = append(list, c)
	}
	return list
}

// Ended implements session.Env: the connection is remembered for a while, so that its peer, which may have missed the last
// records, gets an answer.
func (e *Endpoint) Ended(s *session.Session) {
	last, untold := s.Snapshot(), s.Untold()
	e.mu.Lock()
	en := e.sessions[endOf(s)]
	if en == nil || en.s != s || en.ended {
		e.mu.Unlock()
		return
	}
	en.ended = true
	if untold && e.mayDial(en) {
		e.wg.Go(func() { e.tellEnd(s) })
	}
	e.total.add(last)
	e.ended = append(e.ended, endOf(s))
	var oldest end
	if len(e.ended) > maxRemembered {
		oldest = e.ended[0]
	}
	var free *Listener
	if en.from != nil {
		free = e.released(en.from)
	}
	closed, p := e.closed, en.peer
	e.mu.Unlock()
	if p != nil {
		p.decided(s)
	}
	if free != nil {
		free.rawNow().Close()
	}
	if !oldest.id.IsZero() {
		e.forget(oldest)
	}
	if !closed {
		time.AfterFunc(e.cfg.Remember, func() { e.forget(endOf(s)) })
	}
}

// tellEnd brings a peer that can't be reached now the news that its connection has ended, as long as the connection is
// remembered: the end that has accepted it can't dial and would wait out its patience.
func (e *Endpoint) tellEnd(s *session.Session) {
	ctx, cancel := context.WithTimeout(e.ctx, e.cfg.Remember)
	defer cancel()
	backoff := e.cfg.Session.RetryMin
	for {
		actx, acancel := context.WithTimeout(ctx, e.cfg.HandshakeTimeout)
		nl, err := e.Resume(actx, s, s.PartingSetup(), nil)
		acancel()
		if err == nil {
			s.Part(nl)
			return
		}
		var r *session.RefusedError
		if errors.As(err, &r) && r.Status != wire.StatusBusy && r.Status != wire.StatusOvertaken {
			return // nobody there waits for it
		}
		t := time.NewTimer(time.Duration(float64(backoff) * (0.5 + rand.Float64())))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		backoff = min(2*backoff, e.cfg.Session.RetryMax)
	}
}

func (e *Endpoint) forget(id end) {
	e.mu.Lock()
	for i, g := range e.ended {
		if g == id {
			e.ended = append(e.ended[:i], e.ended[i+1:]...)
			break
		}
	}
	e.mu.Unlock()
	e.remove(id)
}

// CanDial implements session.Env.
func (e *Endpoint) CanDial(s *session.Session) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	en := e.sessions[endOf(s)]
	return en != nil && e.mayDial(en)
}

// mayDial: see CanDial. An end that has accepted the connection dials only after a move: its peer can't know where it is. Under mu.
func (e *Endpoint) mayDial(en *entry) bool {
	return !e.closed && !en.held && (en.home != "" || en.imported && en.reach)
}

// Resume implements session.Env: it tries the path that the choice falls on first, then the address that was dialled, then
// those that the peer's process has given, so that a load balancer, which may pick another process, is passed by.
func (e *Endpoint) Resume(ctx context.Context, s *session.Session, my wire.Setup, commit func() error) (session.NewLink, error) {
	ctx, cancel := e.bound(ctx)
	defer cancel()
	e.mu.Lock()
	en := e.sessions[endOf(s)]
	home := ""
	var c *choice
	if en != nil {
		home, c = en.home, en.choice
	}
	e.mu.Unlock()
	if en == nil {
		return session.NewLink{}, net.ErrClosed
	}
	_, addrs := s.Peer()
	list := e.paths(home, addrs)
	if c != nil {
		list = c.order(list)
	}
	var refused, failed error
	atHome := false
	for i, path := range list {
		actx, acancel := share(ctx, len(list)-i)
		nl, err := e.resumeAt(actx, s, my, path, commit)
		acancel()
		if err == nil {
			e.count.resumed.Add(1)
			return nl, nil
		}
		if c != nil {
			c.failed(path, err)
		}
		var r *session.RefusedError
		switch {
		case errors.As(err, &r) && r.Status != wire.StatusUnknown && r.Status != wire.StatusBusy && r.Status != wire.StatusPath:
			return nl, err // the holder itself has spoken
		case r != nil:
			refused = err
			if path.Addr == home && r.Status == wire.StatusUnknown {
				atHome = true
			}
		default:
			failed = err
		}
	}
	if atHome {
		return session.NewLink{}, refused // that the direct addresses can't be reached is no news then
	}
	if failed != nil {
		return session.NewLink{}, failed
	}
	if refused == nil {
		refused = errors.New("no address of the peer is known")
		if c != nil {
			refused = c.why()
		}
	}
	return session.NewLink{}, refused
}

func (e *Endpoint) resumeAt(ctx context.Context, s *session.Session, my wire.Setup, path selector.Path, commit func() error) (session.NewLink, error) {
	link, peer, a, err := e.open(ctx, path, request{
		kind: wire.KindResume, gid: s.GID(), acceptor: !s.Initiator(), psk: resumePSK(s.Secret()), seal: e.cfg.Session.Seal, my: my, commit: commit,
		home: e.knownAs(s),
	})
	if err != nil {
		return session.NewLink{}, err
	}
	return e.newLink(path, link, a, my.LinkNo, true, peer), nil
}

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
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	for _, s := range list {
		if !s.Closing() {
			continue
		}
		select {
		case <-s.Done():
			continue
		case <-grace.C:
		}
		break
	}
	for _, s := range list {
		s.Abort(net.ErrClosed, "the endpoint was closed")
		s.Forget()
	}
	for _, c := range e.openChannels() {
		c.flush(grace.C)
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
	clear(e.sessions)
	e.mu.Unlock()
	return nil
}

type importKey struct {
	end
	epoch uint64
}
