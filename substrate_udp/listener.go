package udp

import (
	"net"
	"sync"

	"github.com/sockemu/sockemu/substrate"
)

// A listener hands out the links that were dialled to a socket.
type listener struct {
	sock  *socket
	queue chan *link
	done  chan struct{}
	once  sync.Once
}

// listen makes a listener for the socket, if it has none and is open.
func (s *socket) listen() (*listener, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.ln != nil {
		return nil, false
	}
	s.holds++
	s.ln = &listener{sock: s, queue: make(chan *link, s.sub.opts.Backlog), done: make(chan struct{})}
	return s.ln, true
}

// offer queues a new link. It is called by the reader of the socket.
func (ln *listener) offer(l *link) bool {
	ln.sock.mu.RLock()
	defer ln.sock.mu.RUnlock()
	if ln.sock.ln != ln {
		return false
	}
	select {
	case ln.queue <- l:
		return true
	default:
		return false
	}
}

func (ln *listener) Accept() (substrate.Link, error) {
	select {
	case <-ln.done:
		return nil, ln.closedError()
	default:
	}
	select {
	case l := <-ln.queue:
		return l, nil
	case <-ln.done:
		return nil, ln.closedError()
	}
}

func (ln *listener) closedError() error {
	return &net.OpError{Op: "accept", Net: "udp", Addr: ln.Addr(), Err: net.ErrClosed}
}

func (ln *listener) Addr() net.Addr { return net.UDPAddrFromAddrPort(ln.sock.tr.local()) }

// Close stops accepting. Links that nobody accepted are broken.
func (ln *listener) Close() error {
	ln.once.Do(func() {
		ln.sock.mu.Lock()
		ln.sock.ln = nil
		ln.sock.mu.Unlock()
		close(ln.done)
		for {
			select {
			case l := <-ln.queue:
				l.mu.Lock()
				l.closed = true
				l.abort()
				l.mu.Unlock()
				continue
			default:
			}
			break
		}
		ln.sock.unhold()
	})
	return nil
}
