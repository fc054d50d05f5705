package verbs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// rendezvousTime bounds a rendezvous, at both ends.
const rendezvousTime = 5 * time.Second

// maxTries bounds how often Dial looks again for who is there.
const maxTries = 3

// A route is the way to an address: a peer, or the attempt to get one. Everybody who dials the address meanwhile waits for the same,
// and one whose patience ends before finds it made when it dials again.
type route struct {
	done   chan struct{}
	p      *peer // after done, and what follows
	token  uint64
	made   bool // the queue pair is new
	err    error
	cancel context.CancelFunc
}

// Dial opens a link to address, the "host:port" of a rendezvous. The first one to a process makes the queue pair.
func (s *Substrate) Dial(ctx context.Context, address string) (substrate.Link, error) {
	if err := checkAddress(address); err != nil {
		return nil, newError("dial", address, substrate.Config, err)
	}
	if err := s.fabric.Check(); err != nil {
		return nil, newError("dial", address, substrate.Config, err)
	}
	for try := 1; ; try++ {
		r, fresh, err := s.reach(ctx, address)
		if err != nil {
			return nil, dialError(ctx, address, err)
		}
		l, err := r.p.open(ctx, r.token)
		if err == nil {
			return l, nil
		}
		if fresh || try == maxTries || ctx.Err() != nil || errors.Is(err, errBusy) {
			return nil, dialError(ctx, address, err)
		}
		s.forget(address, r) // the path has ended, or another process is there now
	}
}

// reach returns a way to address. It says whether its queue pair was made just now, for this call.
func (s *Substrate) reach(ctx context.Context, address string) (_ *route, fresh bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, false, net.ErrClosed
	}
	r := s.routes[address]
	if r == nil {
		fresh = true
		r = &route{done: make(chan struct{})}
		var within context.Context
		within, r.cancel = context.WithTimeout(context.Background(), rendezvousTime)
		s.routes[address] = r
		s.work.Go(func() { s.find(within, address, r) })
	}
	s.mu.Unlock()
	select {
	case <-r.done:
		return r, fresh && r.made, r.err
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// find makes the way.
func (s *Substrate) find(ctx context.Context, address string, r *route) {
	defer r.cancel()
	p, token, made, err := s.rendezvous(ctx, address)
	s.mu.Lock()
	r.p, r.token, r.made, r.err = p, token, made, err
	gone := false
	if err == nil {
		_, there := s.peers[p]
		gone = !there
	}
	if err != nil || gone {
		if s.routes[address] == r {
			delete(s.routes, address)
		}
	}
	s.mu.Unlock()
	close(r.done)
}

func (s *Substrate) forget(address string, r *route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.routes[address] == r {
		delete(s.routes, address)
	}
}

// rendezvous connects to address and makes a queue pair with the process there, or finds that there is one.
func (s *Substrate) rendezvous(ctx context.Context, address string) (p *peer, token uint64, made bool, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, 0, false, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	p, token, made, err = s.introduce(ctx, conn)
	if !stop() && err == nil {
		<-ctx.Done()
		err = ctx.Err()
		if made {
			p.fail(nil)
		}
	}
	if !made {
		conn.Close()
	}
	return p, token, made, err
}

// introduce is the dialer's side of a rendezvous. If a peer was made, conn belongs to it.
func (s *Substrate) introduce(ctx context.Context, conn net.Conn) (p *peer, token uint64, made bool, err error) {
	fail := func(err error) (*peer, uint64, bool, error) { return nil, 0, false, err }
	if err := (hello{s.instance}).say(conn); err != nil {
		return fail(err)
	}
	code, body, err := hear(conn, sayWelcome)
	if err != nil {
		return fail(err)
	}
	w, err := parseWelcome(code, body)
	if err != nil {
		return fail(err)
	}
	if w.verdict == verdictBusy {
		return fail(errBusy)
	}
	if p := s.known(w.instance, conn); p != nil {
		return p, w.token, false, offer{join: true}.say(conn)
	}
	local, remote := addrPair(conn)
	half, err := s.fabric.Open(local.ip(), remote.ip(), false)
	if err != nil {
		return fail(unfit{err})
	}
	mine := offer{kind: half.Kind(), secret: newSecret(), info: half.Info()}
	theirs, err := mine.exchange(conn)
	if err != nil {
		half.Close()
		return fail(err)
	}
	about := half.String()
	carrier, err := half.Connect(theirs.info)
	if err != nil {
		return fail(fmt.Errorf("joining the queue pair: %w", err))
	}
	p, err = s.newPeer(conn, carrier, about, true, w.instance, joinSecrets(mine.secret, theirs.secret))
	if err != nil {
		return fail(err)
	}
	if err := p.verify(ctx); err != nil {
		p.fail(nil)
		return nil, 0, true, err
	}
	return p, w.token, true, nil
}

// exchange tells the acceptor of our end of the queue pair and returns what it says of its own.
func (o offer) exchange(conn net.Conn) (a answered, err error) {
	if err := o.say(conn); err != nil {
		return a, err
	}
	code, body, err := hear(conn, sayAnswer)
	if err != nil {
		return a, err
	}
	if a, err = parseAnswer(code, body); err != nil {
		return a, err
	}
	switch {
	case a.kind == 0:
		return a, unfit{errors.New("the peer: " + a.why)}
	case a.kind != o.kind:
		return a, unfit{mismatch(o.kind, a.kind)}
	}
	return a, nil
}

func joinSecrets(dialer, acceptor [secretLen]byte) (sec secrets) {
	copy(sec[:], dialer[:])
	copy(sec[secretLen:], acceptor[:])
	return sec
}

// verify sends the longest message through the queue pair and waits until it is back.
func (p *peer) verify(ctx context.Context) error {
	if err := p.ep.TrySend(msgVerify, [][]byte{p.proof()}); err != nil {
		return err
	}
	select {
	case <-p.verified:
		return nil
	case <-p.quit:
		return p.cause("dial", errOver)
	case <-ctx.Done():
		return fmt.Errorf("nothing came through the queue pair on %s: %w", p.device, ctx.Err())
	}
}

// unfit says why two addresses can't be joined by a queue pair.
type unfit struct{ error }

func (u unfit) Unwrap() error { return u.error }

// dialError says why there is no link, and which class that is.
func dialError(ctx context.Context, address string, err error) error {
	class := substrate.PathDown
	var s *substrate.Error
	var u unfit
	ended := ctx.Err()
	// Timers of net can be a moment faster than that of ctx.
	if d, ok := ctx.Deadline(); ok && ended == nil && !time.Now().Before(d) {
		ended = context.DeadlineExceeded
	}
	switch {
	case ended != nil:
		if !errors.Is(err, ended) {
			err = fmt.Errorf("%w (%w)", ended, substrate.Cause(err))
		}
		return newError("dial", address, class, err)
	case errors.As(err, &s):
		class, err = s.Class, s.Err
	case errors.As(err, &u):
		class, err = substrate.Config, u.error
	case errors.Is(err, errRefused), errors.Is(err, syscall.ECONNREFUSED):
		class = substrate.Refused
	case errors.Is(err, errBusy):
		class = substrate.PathSuspect
	case errors.Is(err, errRendezvous):
		class = substrate.Protocol
	case substrate.IsBadAddress(err):
		class = substrate.Config
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("no answer within %v (%w)", rendezvousTime, err)
	}
	return newError("dial", address, class, substrate.Cause(err))
}
