package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// Plain says what a listener does with a client that doesn't speak sockemu.
type Plain struct {
	// Accept: serve it over its plain link, without any of the layer's promises.
	Accept bool
	// Wait is how long a client that says nothing at first is given before it is taken for a plain one (protocols in which
	// the server speaks first). Default 300 ms.
	Wait time.Duration
}

// Accepted is what Accept returns: a session, or the link of a plain client with the bytes that were read from it.
type Accepted struct {
	Session *session.Session
	Link    substrate.Link
	Head    []byte
}

// Listener accepts connections. Its methods are safe for concurrent use.
type Listener struct {
	e     *Endpoint
	sub   substrate.Substrate
	side  bool // of another substrate than the base: for connections that exist, and probes
	addr  net.Addr
	plain Plain
	queue chan Accepted
	done  chan struct{}

	// Guarded by Endpoint.mu.
	raw    substrate.Listener
	live   int // connections that it accepted and that may need it to resume
	closed bool
	freed  bool
}

// Listen accepts connections at address. When the Listener is closed, new connections are refused, but those that it has
// accepted can still resume there: the port is freed with the last of them, or with the endpoint.
func (e *Endpoint) Listen(ctx context.Context, address string, plain Plain) (*Listener, error) {
	raw, err := e.cfg.Substrate.Listen(ctx, address)
	if err != nil {
		return nil, err
	}
	return e.Serve(raw, plain, false)
}

// Serve accepts connections from a listener of the substrate that is already open. It takes raw over. With hold it doesn't begin
// before Start.
func (e *Endpoint) Serve(raw substrate.Listener, plain Plain, hold bool) (*Listener, error) {
	if plain.Wait <= 0 {
		plain.Wait = 300 * time.Millisecond
	}
	l := &Listener{e: e, sub: e.cfg.Substrate, raw: raw, addr: raw.Addr(), plain: plain, queue: make(chan Accepted, e.cfg.Backlog), done: make(chan struct{})}
	e.openSides()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		raw.Close()
		return nil, net.ErrClosed
	}
	e.listeners[l] = struct{}{}
	if !hold {
		e.wg.Go(l.loop)
	}
	return l, nil
}

// Start begins to take links, after Serve with hold.
func (l *Listener) Start() {
	e := l.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed && !l.freed {
		e.wg.Go(l.loop)
	}
}

// Addr is the address that peers dial.
func (l *Listener) Addr() net.Addr { return l.addr }

// Raw returns the substrate's listener.
func (l *Listener) Raw() substrate.Listener { return l.rawNow() }

// Accept waits for the next connection. After Close it returns net.ErrClosed.
func (l *Listener) Accept() (Accepted, error) {
	select {
	case <-l.done:
		return Accepted{}, net.ErrClosed
	default:
	}
	select {
	case a := <-l.queue:
		return a, nil
	case <-l.done:
		return Accepted{}, net.ErrClosed
	}
}

// Close stops accepting; see Listen. Connections that nobody has accepted yet are reset.
func (l *Listener) Close() error { return l.shut(false) }

// Free closes the listener and its port at once: connections that it accepted can't resume there any more.
func (l *Listener) Free() error { return l.shut(true) }

func (l *Listener) shut(free bool) error {
	e := l.e
	e.mu.Lock()
	was := l.closed
	if !was {
		l.closed = true
		close(l.done)
	}
	free = !l.freed && (free || l.live == 0)
	if free {
		l.freed = true
		delete(e.listeners, l)
	}
	e.mu.Unlock()
	l.reject()
	if free {
		l.rawNow().Close()
	}
	if was {
		return net.ErrClosed
	}
	return nil
}

// reject resets what waits in the queue of a closed listener.
func (l *Listener) reject() {
	for {
		select {
		case a := <-l.queue:
			if a.Session != nil {
				a.Session.Abort(net.ErrClosed, "the listener was closed")
			} else {
				a.Link.Close()
			}
		default:
			return
		}
	}
}

// released notes that a connection doesn't need l any more. It returns l if its port must be freed now. Under e.mu.
func (e *Endpoint) released(l *Listener) *Listener {
	l.live--
	if l.live > 0 || !l.closed || l.freed {
		return nil
	}
	l.freed = true
	delete(e.listeners, l)
	return l
}

func (l *Listener) loop() {
	backoff := time.Duration(0)
	var drained [wire.HelloSize + wire.MaxNoise]byte
	raw := l.rawNow()
	for {
		link, err := raw.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || l.e.ctx.Err() != nil {
				return
			}
			backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
			l.e.log.Warn("accept failed; trying again", "addr", l.Addr(), "err", err, "in", backoff)
			t := time.NewTimer(backoff)
			select {
			case <-t.C:
			case <-l.e.ctx.Done():
			}
			t.Stop()
			continue
		}
		backoff = 0
		select {
		case l.e.slots <- struct{}{}:
			l.e.wg.Go(func() {
				defer func() { <-l.e.slots }()
				l.serve(link)
			})
		default:
			// A flood: answer without reading, so that it costs neither memory nor a goroutine.
			l.e.count.busy.Add(1)
			refuse(link, l.e.proc, wire.StatusBusy)
			link.Drain(drained[:]) // what is there already: see seeOff, for which there is no time here
			link.Close()
		}
	}
}

// hold keeps a link where Close can interrupt it. It reports false if the endpoint is closed.
func (e *Endpoint) hold(link substrate.Link) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.links[link] = struct{}{}
	return true
}

func (e *Endpoint) unhold(link substrate.Link) {
	e.mu.Lock()
	delete(e.links, link)
	e.mu.Unlock()
}

// serve performs the accepting side of a handshake and hands the link to whom it is for.
func (l *Listener) serve(link substrate.Link) {
	e := l.e
	e.count.handshakes.Add(1)
	if !e.hold(link) {
		link.Close()
		return
	}
	defer e.unhold(link)
	deadline := time.Now().Add(e.cfg.HandshakeTimeout)
	link.SetSendDeadline(deadline)

	fixed := make([]byte, wire.HelloSize)
	n, err := l.readMagic(link, fixed, deadline)
	if err == nil {
		err = recvFull(link, fixed[n:])
	} else if l.plain.Accept && n >= 0 {
		l.servePlain(link, fixed[:n])
		return
	}
	var h wire.Hello
	if err == nil {
		h, err = wire.ParseHello(fixed)
	}
	if err != nil {
		st := wire.StatusFormat
		if errors.Is(err, wire.ErrVersion) {
			st = wire.StatusVersion
		}
		l.turnAway(link, st, err)
		return
	}
	switch h.Kind {
	case wire.KindOpen:
		l.serveOpen(link, fixed, h)
	case wire.KindResume:
		l.serveResume(link, fixed, h)
	case wire.KindControl:
		l.serveControl(link, fixed, h)
	case wire.KindProbe:
		l.serveProbe(link, fixed, h)
	}
}

// readMagic reads as much as is needed to tell a sockemu peer from a plain client. With an error, n bytes were read and belong
// to the plain client; n < 0 means that there is no client any more.
func (l *Listener) readMagic(link substrate.Link, b []byte, deadline time.Time) (int, error) {
	first := deadline
	if l.plain.Accept {
		first = time.Now().Add(l.plain.Wait)
	}
	link.SetRecvDeadline(first)
	n := 0
	for n < len(wire.Magic) {
		k, err := link.Recv(b[n:len(wire.Magic)])
		n += k
		if string(b[:n]) != wire.Magic[:n] {
			return n, wire.ErrMagic
		}
		if err != nil {
			if l.plain.Accept && (n == 0 && errors.Is(err, os.ErrDeadlineExceeded) || err == io.EOF) {
				return n, wire.ErrMagic // it waits for our word, or says no more
			}
			return -1, err
		}
		link.SetRecvDeadline(deadline)
	}
	return n, nil
}

func (l *Listener) servePlain(link substrate.Link, head []byte) {
	l.e.count.plain.Add(1)
	link.SetSendDeadline(time.Time{})
	link.SetRecvDeadline(time.Time{})
	if !l.push(Accepted{Link: link, Head: head}) {
		link.Close()
	}
}

// push hands a to Accept. It reports false if nobody will take it.
func (l *Listener) push(a Accepted) bool {
	select {
	case <-l.done:
		return false
	default:
	}
	select {
	case l.queue <- a:
	default:
		return false
	}
	select {
	case <-l.done:
		l.reject()
	default:
	}
	return true
}

func (l *Listener) serveOpen(link substrate.Link, fixed []byte, h wire.Hello) {
	e := l.e
	select {
	case <-l.done:
		l.turnAway(link, wire.StatusNoListener, nil)
		return
	default:
	}
	seal := h.Flags&wire.HelloSeal != 0
	if seal != e.cfg.Session.Seal {
		l.turnAway(link, wire.StatusPolicy, errors.New("encryption is demanded on one side only"))
		return
	}
	if (h.Flags&wire.HelloPSK != 0) != (len(e.cfg.ClusterKey) > 0) {
		l.turnAway(link, wire.StatusKey, errors.New("a cluster key is demanded on one side only"))
		return
	}
	if len(l.queue) == cap(l.queue) {
		e.count.busy.Add(1)
		l.turnAway(link, wire.StatusBusy, errors.New("the accept queue is full"))
		return
	}
	o, st, err := readOffer(link, fixed, h, e.psk)
	if err == nil && (o.peer.LinkNo != 1 || o.peer.Got != 0 || o.peer.Epoch != 1) {
		st, err = wire.StatusFormat, errors.New("a new connection that isn't new")
	}
	if err != nil {
		l.turnAway(link, st, err)
		return
	}
	if e.lookup(h.GID, false) != nil {
		l.turnAway(link, wire.StatusStale, errors.New("a connection of that GID is here already"))
		return
	}
	a, err := acceptOffer(link, o, e.identify(wire.Setup{Epoch: 1, LinkNo: 1, Limit: uint64(e.cfg.Session.RecvBuffer)}, link, ""))
	if err != nil {
		e.log.Debug("open not confirmed", "from", link.RemoteAddr(), "err", err)
		link.Close()
		return
	}
	clearDeadlines(link)
	s := session.New(h.GID, false, a.secret(false), e.cfg.Session, e, e.pool)
	s.SetAddrs(link.LocalAddr(), link.RemoteAddr())
	nl := e.newLink(l.path(), link, a, 1, false, o.peer)
	if err := e.add(&entry{s: s, from: l}); err != nil {
		s.Part(nl)
		return
	}
	if err := s.Bind(nl); err != nil {
		e.remove(s)
		return
	}
	if !l.push(Accepted{Session: s}) {
		s.Abort(net.ErrClosed, "nobody accepts connections here any more")
		return
	}
	e.count.accepted.Add(1)
}

func (l *Listener) serveResume(link substrate.Link, fixed []byte, h wire.Hello) {
	e := l.e
	s := e.lookup(h.GID, h.Flags&wire.HelloAcceptor != 0)
	if s == nil {
		l.turnAway(link, wire.StatusUnknown, nil)
		return
	}
	o, st, err := readOffer(link, fixed, h, resumePSK(s.Secret()))
	if err == nil && (h.Flags&wire.HelloSeal != 0) != e.cfg.Session.Seal {
		st, err = wire.StatusPolicy, errors.New("encryption is demanded on one side only")
	}
	if err != nil {
		l.turnAway(link, st, err)
		return
	}
	if !e.policy(e.knownAs(s)).Allows(l.sub.Name()) {
		l.turnAway(link, wire.StatusPath, fmt.Errorf("%s is not admitted here", l.sub.Name()))
		return
	}
	if h.Flags&wire.HelloStandby != 0 {
		l.serveStandby(link, o, s)
		return
	}
	my, st := s.AdmitResume(o.peer, "")
	if st != wire.StatusOK {
		l.turnAway(link, st, nil)
		return
	}
	a, err := acceptOffer(link, o, e.identify(my, link, e.knownAs(s)))
	if err != nil {
		s.AttemptFailed(o.peer.LinkNo)
		e.log.Debug("resume not confirmed", "gid", h.GID, "from", link.RemoteAddr(), "err", err)
		link.Close()
		return
	}
	clearDeadlines(link)
	if err := s.Bind(e.newLink(l.path(), link, a, o.peer.LinkNo, false, o.peer)); err != nil {
		e.log.Debug("resume not bound", "gid", h.GID, "err", err)
		return
	}
	e.count.resumed.Add(1)
}

// path names l's substrate, for links that the peer has dialled.
func (l *Listener) path() selector.Path { return selector.Path{Substrate: l.sub.Name()} }

func (l *Listener) serveControl(link substrate.Link, fixed []byte, h wire.Hello) {
	e := l.e
	if e.cfg.Session.Seal {
		l.turnAway(link, wire.StatusPolicy, errors.New("everything is encrypted here, records, too: they travel in the links"))
		return
	}
	if (h.Flags&wire.HelloPSK != 0) != (len(e.cfg.ClusterKey) > 0) {
		l.turnAway(link, wire.StatusKey, errors.New("a cluster key is demanded on one side only"))
		return
	}
	o, st, err := readOffer(link, fixed, h, e.psk)
	if err != nil {
		l.turnAway(link, st, err)
		return
	}
	a, err := acceptOffer(link, o, e.identify(wire.Setup{}, link, ""))
	if err != nil {
		link.Close()
		return
	}
	clearDeadlines(link)
	c := newChannel(e, link, o.peer.Proc, a.binding, false)
	if !e.register(c, nil) {
		link.Close()
	}
}

func clearDeadlines(link substrate.Link) {
	link.SetSendDeadline(time.Time{})
	link.SetRecvDeadline(time.Time{})
}

// Pause stops taking links from the system without closing the Listener: another process is about to take the port over.
// Accept goes on waiting. Restart undoes it with a new listener for the same port; Free ends it.
func (l *Listener) Pause() {
	l.rawNow().Close()
}

// Restart: see Pause.
func (l *Listener) Restart(raw substrate.Listener) error {
	e := l.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || l.freed {
		raw.Close()
		return net.ErrClosed
	}
	l.raw = raw
	e.wg.Go(l.loop)
	return nil
}

func (l *Listener) rawNow() substrate.Listener {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	return l.raw
}
