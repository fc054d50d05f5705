package udp

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// The states of a link.
type state uint8

const (
	dialing state = iota
	open
	closing // closed by its user; what was sent, and the end, may still have to arrive
	gone    // out of the socket's table; what was received may still be read
)

// A link is one end of a link. Whoever touches its fields holds mu, also while it hands packets to the socket, which never blocks: so
// when Release or Close return nobody looks at the session's slices any more.
type link struct {
	sub  *Substrate
	sock *socket
	id   uint64 // the connection id that the peer writes to us
	key  peerKey

	mu          sync.Mutex
	state       state
	peer        uint64         // the id that we write to
	remote      netip.AddrPort // where to
	err         *substrate.Error
	interrupted bool
	closed      bool
	dial        *dial // while dialing

	sender
	receiver
	rtt  rtt
	path path
	ecn  ecn
	local
	timer timer

	sentInit  int64 // while dialling: the last INIT
	refusedAt int64 // the network said that the peer has closed its port
	linger    int64 // when a closing link gives up
	resets    int   // how many resets are still to be sent by a link that is closing hard

	touched bool // in the reader's list; only the reader looks
}

var _ substrate.Link = (*link)(nil)

// A wakeup lets one goroutine wait for a change, with a deadline. Its fields are under the link's mu; what waits on ch does so
// without it.
type wakeup struct {
	ch       chan struct{}
	waiting  bool
	deadline time.Time
	timer    *time.Timer

	reading transport // what a Recv reads itself, while it does
	kicked  bool
}

// wake ends the present wait.
func (w *wakeup) wake() {
	if w.reading != nil && !w.kicked {
		w.kicked = true
		w.reading.kick()
	}
	if w.waiting {
		select {
		case w.ch <- struct{}{}:
		default:
		}
	}
}

// wait waits for wake. mu is held before and after.
func (w *wakeup) wait(mu *sync.Mutex) {
	if w.ch == nil {
		w.ch = make(chan struct{}, 1)
	}
	w.waiting = true
	mu.Unlock()
	<-w.ch
	mu.Lock()
	w.waiting = false
	select {
	case <-w.ch: // a second wake belongs to this wait, too
	default:
	}
}

// expired reports whether the deadline has passed.
func (w *wakeup) expired() bool { return !w.deadline.IsZero() && !time.Now().Before(w.deadline) }

func (w *wakeup) setDeadline(l *link, t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	w.deadline = t
	switch {
	case t.IsZero():
		if w.timer != nil {
			w.timer.Stop()
		}
	case w.expired():
		w.wake()
	case w.timer == nil:
		w.timer = time.AfterFunc(time.Until(t), func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			w.wake() // who waits looks at the deadline itself
		})
	default:
		w.timer.Reset(time.Until(t))
	}
	return nil
}

func (l *link) SetSendDeadline(t time.Time) error { return l.sender.wake.setDeadline(l, t) }

func (l *link) SetRecvDeadline(t time.Time) error { return l.receiver.wake.setDeadline(l, t) }

// now is the time of the link's clock.
func (l *link) now() int64 { return l.sub.now() }

func (l *link) Interrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.interrupted = true
	l.sender.wake.wake()
	l.receiver.wake.wake()
}

// newError makes the error of a link that ends. Under mu.
func (l *link) newError(class substrate.Class, err error) *substrate.Error {
	return &substrate.Error{Op: "link", Substrate: name, Peer: l.remote.String(), Class: class, Err: err}
}

var (
	errNoProgress = errors.New("nothing gets through to the peer")
	errPeerEnded  = errors.New("the peer ended the link")
	errReset      = errors.New("the peer has reset or forgotten the link")
	errBreach     = errors.New("the peer broke the protocol")
	errStuck      = errors.New("the peer lacks bytes that were released")
	errNoSocket   = errors.New("nobody has the peer's port open any more")
)

// fail breaks the link. Under mu.
func (l *link) fail(class substrate.Class, err error) {
	if l.state == gone {
		return
	}
	if l.err == nil {
		l.err = l.newError(class, err)
	}
	l.leave()
}

// leave takes the link out of its socket and gives back what it kept to send. Under mu.
func (l *link) leave() {
	if l.state == gone {
		return
	}
	if l.dial != nil {
		l.dial.done(l.err)
	}
	l.state = gone
	l.dropUnsent()
	l.timer.stop()
	l.sender.wake.wake()
	l.receiver.wake.wake()
	l.sock.remove(l)
}

// Close ends the link. What Send took and the peer has not acknowledged is copied, up to closeTail bytes, and sent from the copy in
// the background, for at most closeLinger; a longer tail is dropped, and the peer sees a break instead of an end.
func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	for _, w := range []*wakeup{&l.sender.wake, &l.receiver.wake} {
		if w.timer != nil {
			w.timer.Stop()
		}
		w.wake()
	}
	l.dropReceived()
	switch {
	case l.state == gone:
	case l.finSeen && l.receiver.next == l.finOff && !l.ackNow && l.unacked == 0:
		l.leave() // the peer has ended, too, and knows that we know
	case l.end-l.una > closeTail:
		l.abort()
	default:
		l.copyTail()
		l.finDue = true
		if l.finSeen {
			l.dropUnsent() // nobody wants it any more
		}
		l.state = closing
		now := l.now()
		l.linger = now + int64(closeLinger)
		l.transmit(now)
	}
	return nil
}

// abort breaks the link in such a way that the peer sees it. Under mu.
func (l *link) abort() {
	if l.state != open {
		l.leave()
		return
	}
	l.dropUnsent()
	l.state = closing
	now := l.now()
	l.linger = now + int64(closeLinger)
	l.resets = resetTries
	l.transmit(now)
}

// Bounds of what a closed link still does.
const (
	closeTail     = 4 << 20
	closeLinger   = 2 * time.Second
	resetTries    = 4
	resetInterval = 20 * time.Millisecond
)

// recvErr says why nothing (more) can be received, nil if that may change. Under mu.
func (l *link) recvErr() error {
	switch {
	case l.finSeen && l.receiver.next == l.finOff:
		return io.EOF
	case l.err != nil:
		return l.opError("recv")
	}
	return nil
}

// sendErr says why nothing can be sent. Under mu.
func (l *link) sendErr() error {
	switch {
	case l.closed:
		return net.ErrClosed
	case l.interrupted:
		return substrate.ErrInterrupted
	case l.err != nil:
		return l.opError("send")
	case l.finSeen:
		e := l.newError(substrate.PathDown, errPeerEnded)
		e.Op = "send"
		return e
	case l.sender.wake.expired():
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (l *link) opError(op string) error {
	e := *l.err
	e.Op = op
	return &e
}

func (l *link) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(l.sock.tr.local())
}

func (l *link) RemoteAddr() net.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return net.UDPAddrFromAddrPort(l.remote)
}

// Cost tells what the link has measured itself.
func (l *link) Cost() substrate.Cost {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.rtt
	if r.samples == 0 {
		return substrate.Cost{}
	}
	c := substrate.Cost{
		RTT: r.smooth, Jitter: r.dev, Samples: r.samples, Age: time.Duration(l.now() - r.at), Source: substrate.SourceProbe,
	}
	if l.sender.num > 0 {
		c.Loss = min(float64(l.lostCount)/float64(l.sender.num), 1)
	}
	if l.rate > 0 {
		c.PerByte = 1e9 / l.rate
	}
	return c
}
