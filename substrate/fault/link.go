package fault

import (
	"io"
	"math"
	"net"
	"os"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// A Link is one end of a link of a Network. Tests get it from Dial and Accept as a substrate.Link.
type Link struct {
	conn          *conn
	side          int // 0 is the dialer's
	local, remote Addr

	// The lock of conn guards these.
	closed       bool
	interrupted  bool
	sendDeadline deadline
	recvDeadline deadline
	base         uint64 // the bytes sent before the one at the session's offset 0, modulo 2^64
	based        bool   // something with an offset was sent
	moving       int    // calls of its Sole that run
}

var _ substrate.Link = (*Link)(nil)

func (l *Link) out() *pipe { return &l.conn.pipes[l.side] }

func (l *Link) in() *pipe { return &l.conn.pipes[1-l.side] }

// Send takes bufs into the buffer of the link's direction, waiting for room.
func (l *Link) Send(off uint64, bufs [][]byte) (n int, err error) {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	keep := off != substrate.Unkept
	if keep {
		l.base, l.based = l.out().sent-off, true
	}
	for _, b := range bufs {
		for len(b) > 0 {
			if err := l.waitRoom(); err != nil {
				return n, err
			}
			k := l.out().put(b, keep)
			n += k
			b = b[k:]
		}
	}
	if n == 0 {
		return 0, l.sendErr()
	}
	return n, nil
}

func (l *Link) waitRoom() error {
	for {
		if err := l.sendErr(); err != nil {
			return err
		}
		if l.out().room() > 0 {
			return nil
		}
		l.out().sendable.Wait()
	}
}

// sendErr says why nothing can be sent now, nil if it can.
func (l *Link) sendErr() error {
	switch {
	case l.closed:
		return net.ErrClosed
	case l.interrupted:
		return substrate.ErrInterrupted
	case l.sendDeadline.expired:
		return os.ErrDeadlineExceeded
	case l.conn.err != nil:
		return l.pathDown("send", l.conn.err)
	case l.in().ended:
		return l.pathDown("send", ErrEnded)
	}
	return nil
}

// Release gives slices back (Config.Retains); else it does nothing.
func (l *Link) Release(off uint64) {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	if l.based {
		l.out().store.release(l.base + off)
	}
}

// Recv returns bytes that have arrived, waiting for the first.
func (l *Link) Recv(p []byte) (int, error) {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	for {
		switch in := l.in(); {
		case l.closed:
			return 0, net.ErrClosed
		case l.interrupted:
			return 0, substrate.ErrInterrupted
		case l.recvDeadline.expired:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case in.unread() > 0:
			if in.shape.RecvPiece > 0 {
				p = p[:min(len(p), 1+in.recvRNG.IntN(in.shape.RecvPiece))]
			}
			return in.get(p), nil
		}
		if err := l.end(); err != nil {
			return 0, err
		}
		l.in().readable.Wait()
	}
}

// Drain returns bytes that have arrived, without waiting.
func (l *Link) Drain(p []byte) (int, error) {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	switch {
	case l.closed:
		return 0, net.ErrClosed
	case l.in().unread() > 0:
		return l.in().get(p), nil
	}
	return 0, l.end()
}

// end says why no byte will come after those that have arrived, nil if one may.
func (l *Link) end() error {
	switch {
	case l.conn.err != nil: // first: a cut may have lost bytes before an end that had arrived
		return l.pathDown("recv", l.conn.err)
	case l.in().ended:
		return io.EOF
	}
	return nil
}

// SetSendDeadline bounds Send.
func (l *Link) SetSendDeadline(t time.Time) error {
	return l.setDeadline(&l.sendDeadline, l.out().sendable.Broadcast, t)
}

// SetRecvDeadline bounds Recv.
func (l *Link) SetRecvDeadline(t time.Time) error {
	return l.setDeadline(&l.recvDeadline, l.in().readable.Broadcast, t)
}

func (l *Link) setDeadline(d *deadline, wake func(), t time.Time) error {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	d.reset(t, &l.conn.mu, wake)
	return nil
}

// Interrupt makes Send and Recv return, now and later.
func (l *Link) Interrupt() {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	l.interrupted = true
	l.wake()
}

// Close ends the link in an orderly way (but see Config.HardClose): the peer receives what is in flight and then io.EOF.
func (l *Link) Close() error {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	if l.closed {
		return nil
	}
	if l.moving > 0 {
		panic("fault: Close of a Sole while Send or Recv runs")
	}
	l.closed = true
	l.sendDeadline.stop()
	l.recvDeadline.stop()
	l.wake()
	c, unread := l.conn, l.in().unread()
	l.in().hangUp()
	l.out().store.release(math.MaxUint64) // what is in flight travels on, from a copy
	switch {
	case c.err != nil:
	case c.ends[1-l.side].closed:
		c.retire()
	case c.net.cfg.HardClose && unread > 0:
		l.out().finish(markReset)
	default:
		l.out().finish(markEnd)
	}
	return nil
}

func (l *Link) wake() {
	l.out().sendable.Broadcast()
	l.in().readable.Broadcast()
}

// Cost tells the delays and the rate that are set now.
func (l *Link) Cost() substrate.Cost {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	out, in := l.out().shape, l.in().shape
	c := substrate.Cost{
		RTT:     out.Delay + in.Delay + (out.Jitter+in.Jitter)/2,
		Jitter:  (out.Jitter + in.Jitter) / 4,
		Samples: 1,
		Source:  substrate.SourceKernel,
	}
	if out.Rate > 0 {
		c.PerByte = 1e9 / float64(out.Rate)
	}
	return c
}

// LocalAddr is an Addr.
func (l *Link) LocalAddr() net.Addr { return l.local }

// RemoteAddr is an Addr: the dialer's end has the one that was dialled, also behind a Route.
func (l *Link) RemoteAddr() net.Addr { return l.remote }

func (l *Link) pathDown(op string, err error) error {
	return &substrate.Error{Op: op, Substrate: name, Peer: l.remote.String(), Class: substrate.PathDown, Err: err}
}
