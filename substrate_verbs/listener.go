package verbs

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// Bounds of what strangers can make a listener hold.
const (
	maxPending  = 256  // rendezvous at a time; further ones wait in the kernel
	maxAccepted = 256  // queue pairs that were not dialled from here, of all listeners of a Substrate
	backlog     = 1024 // links that wait for Accept
)

// A listener accepts links on a rendezvous.
type listener struct {
	s       *Substrate
	sock    net.Listener
	token   uint64
	pending chan struct{}
	ready   chan *link
	errs    chan error
	done    chan struct{} // closed by Close
	stop    func() error
	work    sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	waiting int // places of ready that are taken or promised
	talking map[net.Conn]struct{}
}

func (s *Substrate) newListener(sock net.Listener) (*listener, bool) {
	l := &listener{
		s: s, sock: sock, token: newToken(), pending: make(chan struct{}, maxPending),
		ready: make(chan *link, backlog), errs: make(chan error), done: make(chan struct{}), talking: map[net.Conn]struct{}{},
	}
	l.stop = sync.OnceValue(l.close)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.listeners[l.token] = l
	l.work.Go(l.loop)
	return l, true
}

func (l *listener) loop() {
	for {
		select {
		case l.pending <- struct{}{}:
		case <-l.done:
			return
		}
		conn, err := l.sock.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select {
			case l.errs <- newError("accept", "", substrate.PathSuspect, substrate.Cause(err)):
			case <-l.done:
			}
			<-l.pending
			continue
		}
		l.work.Go(func() {
			defer func() { <-l.pending }()
			if !l.talk(conn, true) || !l.rendezvous(conn) {
				l.talk(conn, false)
				conn.Close()
			}
		})
	}
}

// talk notes that conn is in a rendezvous, or not any more. It reports whether the listener is open.
func (l *listener) talk(conn net.Conn, on bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if on && !l.closed {
		l.talking[conn] = struct{}{}
	} else {
		delete(l.talking, conn)
	}
	return !l.closed
}

// rendezvous is the acceptor's side. It reports whether conn belongs to a peer now. What is wrong is the other end's own affair.
func (l *listener) rendezvous(conn net.Conn) bool {
	ctx, cancel := context.WithTimeout(context.Background(), rendezvousTime)
	defer cancel()
	conn.SetDeadline(time.Now().Add(rendezvousTime))
	code, body, err := hear(conn, sayHello)
	if err != nil {
		return false
	}
	h, err := parseHello(code, body)
	if err != nil {
		return false
	}
	w := welcome{instance: l.s.instance, token: l.token}
	if !l.s.reserve() {
		w.verdict = verdictBusy
		w.say(conn)
		return false
	}
	defer func() {
		if cancel != nil {
			l.s.unreserve()
		}
	}()
	if err := w.say(conn); err != nil {
		return false
	}
	if code, body, err = hear(conn, sayOffer); err != nil {
		return false
	}
	o, err := parseOffer(code, body)
	if err != nil || o.join || !l.talk(conn, false) {
		return false
	}
	p, err := l.join(conn, h.instance, o)
	if err != nil {
		answered{why: err.Error()}.say(conn)
		return false
	}
	cancel2 := cancel
	cancel = nil // the peer's end gives the place back
	defer cancel2()
	select {
	case <-p.verified:
	case <-p.quit:
	case <-ctx.Done():
		p.fail(p.newError(substrate.PathDown, ctx.Err()))
	case <-l.done:
		if !p.good.Load() {
			p.fail(nil)
		}
	}
	return true
}

// join makes our end of a queue pair and tells the dialer of it.
func (l *listener) join(conn net.Conn, there instance, o offer) (*peer, error) {
	local, remote := addrPair(conn)
	half, err := l.s.fabric.Open(local.ip(), remote.ip(), true)
	if err != nil {
		return nil, err
	}
	if half.Kind() != o.kind {
		err := mismatch(half.Kind(), o.kind)
		half.Close()
		return nil, err
	}
	mine := answered{kind: half.Kind(), secret: newSecret(), info: half.Info()}
	about := half.String()
	first := half.Kind() == KindIWARP // the dialer must know before it can connect
	if first {
		if err := mine.say(conn); err != nil {
			half.Close()
			return nil, err
		}
	}
	carrier, err := half.Connect(o.info)
	if err != nil {
		return nil, err
	}
	p, err := l.s.newPeer(conn, carrier, about, false, there, joinSecrets(o.secret, mine.secret))
	if err != nil {
		return nil, err
	}
	if first {
		return p, nil
	}
	if err := mine.say(conn); err != nil {
		p.fail(p.newError(substrate.PathDown, substrate.Cause(err)))
	}
	return p, nil
}

// reserve takes a place for a queue pair that a stranger wants.
func (s *Substrate) reserve() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accepted >= maxAccepted {
		return false
	}
	s.accepted++
	return true
}

func (s *Substrate) unreserve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted--
}

// admit promises a place to a link, or not.
func (l *listener) admit() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.waiting >= backlog {
		return false
	}
	l.waiting++
	return true
}

// push gives a link that has been promised a place to an Accept; nil gives the place back.
func (l *listener) push(k *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k == nil || l.closed {
		l.waiting--
		if k != nil {
			k.Close()
		}
		return
	}
	l.ready <- k
}

func (l *listener) Accept() (substrate.Link, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case k := <-l.ready:
		l.mu.Lock()
		l.waiting--
		l.mu.Unlock()
		return k, nil
	case err := <-l.errs:
		return nil, err
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Addr is where the rendezvous is.
func (l *listener) Addr() net.Addr { return addrOf(l.sock.Addr()) }

// Addresses are those that peers can dial: of a rendezvous at no certain address, one for each that leads to an RDMA device.
func (l *listener) Addresses() []string {
	at, err := netip.ParseAddrPort(l.sock.Addr().String())
	if err != nil || !at.Addr().IsUnspecified() {
		return []string{l.sock.Addr().String()}
	}
	ips, err := l.s.fabric.Addrs()
	if err != nil {
		return nil
	}
	all := make([]string, 0, len(ips))
	for _, ip := range ips {
		all = append(all, netip.AddrPortFrom(ip, at.Port()).String())
	}
	return all
}

// Close ends the rendezvous that are under way and waits for them.
func (l *listener) Close() error { return l.stop() }

func (l *listener) close() error {
	l.s.mu.Lock()
	delete(l.s.listeners, l.token)
	l.s.mu.Unlock()
	l.mu.Lock()
	l.closed = true
	for conn := range l.talking {
		conn.SetDeadline(time.Unix(1, 0))
	}
	l.mu.Unlock()
	close(l.done)
	err := l.sock.Close()
	l.work.Wait()
	for {
		select {
		case k := <-l.ready:
			k.Close()
		default:
			return err
		}
	}
}
