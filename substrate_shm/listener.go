package shm

import (
	"errors"
	"net"
	"strings"
	"sync"

	"github.com/sockemu/sockemu/substrate"
)

// maxPending is how many links may be in their handshake or wait for Accept; further ones wait in the kernel.
const maxPending = 128

// A listener accepts links on a UNIX socket. Handshakes run beside each other, so that none holds up another.
type listener struct {
	substrate *Substrate
	sock      *net.UnixListener
	addr      addr
	pending   chan struct{} // a place for each link between the kernel's accept and ours
	ready     chan accepted
	done      chan struct{} // closed by Close
	stop      func() error
	work      sync.WaitGroup

	mu         sync.Mutex
	handshakes map[*net.UnixConn]struct{}
}

type accepted struct {
	link substrate.Link
	err  error
}

func newListener(s *Substrate, sock *net.UnixListener, at addr) *listener {
	l := &listener{
		substrate: s, sock: sock, addr: at,
		pending: make(chan struct{}, maxPending), ready: make(chan accepted), done: make(chan struct{}),
		handshakes: map[*net.UnixConn]struct{}{},
	}
	l.stop = sync.OnceValue(l.close)
	l.work.Go(l.loop)
	return l
}

func (l *listener) loop() {
	for {
		select {
		case l.pending <- struct{}{}:
		case <-l.done:
			return
		}
		sock, err := l.sock.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			l.hand(accepted{err: newError("accept", "", substrate.PathSuspect, err)})
			<-l.pending
			continue
		}
		l.work.Go(func() {
			defer func() { <-l.pending }()
			if link := l.handshake(sock); link != nil && !l.hand(accepted{link: link}) {
				link.Close()
			}
		})
	}
}

// handshake returns nil if the other end isn't fit for a link: that is its own affair.
func (l *listener) handshake(sock *net.UnixConn) *link {
	l.mu.Lock()
	l.handshakes[sock] = struct{}{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.handshakes, sock)
		l.mu.Unlock()
	}()
	select {
	case <-l.done: // after Close went through the list
		sock.Close()
		return nil
	default:
	}
	host, _, _ := strings.Cut(string(l.addr), ":")
	link, err := l.substrate.accept(sock, l.addr, host)
	if err != nil {
		return nil
	}
	return link
}

// hand gives a to an Accept, or reports that the listener was closed.
func (l *listener) hand(a accepted) bool {
	select {
	case l.ready <- a:
		return true
	case <-l.done:
		return false
	}
}

func (l *listener) Accept() (substrate.Link, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case a := <-l.ready:
		return a.link, a.err
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Addr() net.Addr { return l.addr }

// Close ends the handshakes that are under way and waits for them.
func (l *listener) Close() error { return l.stop() }

func (l *listener) close() error {
	close(l.done)
	err := l.sock.Close()
	l.mu.Lock()
	for sock := range l.handshakes {
		sock.Close()
	}
	l.mu.Unlock()
	l.work.Wait()
	return err
}
