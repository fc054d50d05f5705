package tcp

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// A link is one connection. Its type has one method more than substrate.Link: NetConn.
//
// The hot path is bare: Interrupt works through a deadline in the past, so Send and Recv look at nothing of ours until the
// connection itself returns an error.
type link struct {
	conn net.Conn

	// vec and vecStore belong to Send. net.Buffers eats the slice it is given, so vec is a copy of the caller's list in the
	// space that vecStore keeps from call to call.
	vec      net.Buffers
	vecStore [][]byte

	interrupted atomic.Bool
	// broken is the error that ended the connection. The kernel tells it once, to a Send or a Recv, whichever comes first, and
	// afterwards pretends to the other that the stream has ended; see end.
	broken atomic.Pointer[substrate.Error]
	// ended: the peer ended its stream in an orderly way, and no error came before that.
	ended atomic.Bool

	mu           sync.Mutex // guards recvDeadline, and Drain's deadline of its own against SetRecvDeadline
	recvDeadline time.Time

	rawOnce sync.Once // for raw and rawErr: SyscallConn allocates, so it is called when first needed, once
	raw     syscall.RawConn
	rawErr  error

	drain
}

var _ substrate.Link = (*link)(nil)

// WrapConn makes a link of a connection that is open already, for example one that a shared listener accepted; any
// net.Conn does, a TCP connection gives the most. The link owns conn from then on.
//
// The link, like every link of this package, has a method NetConn() net.Conn that hands the connection back to a layer that
// finds out that the peer speaks plain TCP. The link must not be used any more after that, and deadlines set through it (an
// Interrupt is one) stay on the connection until its new owner clears them.
func WrapConn(conn net.Conn) substrate.Link {
	return &link{conn: conn}
}

// NetConn returns the connection below the link; see WrapConn.
func (l *link) NetConn() net.Conn { return l.conn }

// rawConn gives access to the descriptor, or errors.ErrUnsupported for a connection that has none.
func (l *link) rawConn() (syscall.RawConn, error) {
	l.rawOnce.Do(func() {
		l.rawErr = errors.ErrUnsupported
		if c, ok := l.conn.(syscall.Conn); ok {
			l.raw, l.rawErr = c.SyscallConn()
		}
	})
	return l.raw, l.rawErr
}

func (l *link) Send(_ uint64, bufs [][]byte) (int, error) {
	if len(bufs) == 1 {
		n, err := l.conn.Write(bufs[0])
		if err != nil {
			err = l.sendError(err)
		}
		return n, err
	}
	return l.sendMany(bufs)
}

func (l *link) sendMany(bufs [][]byte) (int, error) {
	l.vecStore = append(l.vecStore[:0], bufs...)
	l.vec = l.vecStore
	n, err := l.vec.WriteTo(l.conn)
	// What was written net.Buffers has cleared; the rest must not keep the session's memory alive either.
	clear(l.vec)
	if err != nil {
		err = l.sendError(err)
	} else if n == 0 && l.interrupted.Load() {
		err = substrate.ErrInterrupted // an empty list reaches no system call that would notice
	}
	return int(n), err
}

// Release has nothing to give back: the kernel copied.
func (l *link) Release(uint64) {}

func (l *link) Recv(p []byte) (int, error) {
	n, err := l.conn.Read(p)
	if err == nil {
		if len(p) == 0 && l.interrupted.Load() {
			err = substrate.ErrInterrupted
		}
		return n, err
	}
	if n > 0 {
		return n, nil // a net.Conn may return both; the error comes again
	}
	return 0, l.recvError(err)
}

func (l *link) SetSendDeadline(t time.Time) error {
	return l.guard(l.conn.SetWriteDeadline(t))
}

func (l *link) SetRecvDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recvDeadline = t
	return l.guard(l.conn.SetReadDeadline(t))
}

// guard undoes a deadline that came after an Interrupt. It looks *after* the deadline was set and Interrupt raises its flag
// *before* it sets its own: whichever order they run in, the deadline in the past is the last one.
func (l *link) guard(err error) error {
	if l.interrupted.Load() {
		l.conn.SetDeadline(longAgo)
	}
	return deadlineError(err)
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

func (l *link) Interrupt() {
	l.interrupted.Store(true)
	l.conn.SetDeadline(longAgo)
}

// Close lets the kernel send what it has taken; Go leaves SO_LINGER off, so it doesn't wait for that.
func (l *link) Close() error {
	if err := l.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return l.newError("close", err)
	}
	return nil
}

func (l *link) LocalAddr() net.Addr { return l.conn.LocalAddr() }

func (l *link) RemoteAddr() net.Addr { return l.conn.RemoteAddr() }

// sendError turns an error of the connection into one of the contract, and remembers one that ended it.
func (l *link) sendError(err error) error {
	if errors.Is(err, syscall.EPIPE) && l.broken.Load() == nil {
		l.ended.Store(true) // see stillOpen
		return l.newError("send", err)
	}
	return l.ioError("send", err)
}

func (l *link) recvError(err error) error {
	if errors.Is(err, io.EOF) {
		return l.end()
	}
	return l.ioError("recv", err)
}

func (l *link) ioError(op string, err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		if l.interrupted.Load() {
			return substrate.ErrInterrupted
		}
		return os.ErrDeadlineExceeded
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	}
	e := l.newError(op, err)
	l.broken.CompareAndSwap(nil, e)
	return e
}

func (l *link) newError(op string, err error) *substrate.Error {
	e := &substrate.Error{Op: op, Substrate: name, Class: substrate.PathDown, Err: substrate.Cause(err)}
	if a := l.conn.RemoteAddr(); a != nil {
		e.Peer = a.String()
	}
	return e
}
