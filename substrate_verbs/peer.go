package verbs

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/substrate"
)

// maxLinks bounds the links between two processes, at each end.
const maxLinks = 1 << 16

// laterTime is how long the peer may not hear of bytes that were taken, if nothing else goes there.
const laterTime = 20 * time.Millisecond

// An opening is how far a link has come.
type opening uint8

const (
	stateDialing   opening = iota // the peer was asked
	stateAbandoned                // and its answer isn't waited for any more
	stateAccepting                // the peer will be answered
	stateOpen                     //
)

// What a peer is still to be told of a link.
const (
	dueTaken uint32 = 1 << iota
	dueEnd
)

// An answer to msgOpen is sent by the goroutine that tells.
type answer struct {
	theirs uint32
	status uint64
	link   *link // nil if there was no place for it
	to     *listener
}

// A peer is the other process of a queue pair.
//
// Locks: sending or receiving of a link, then mu, then snd or rcv of a link. Handlers take no lock that is held while something is sent.
type peer struct {
	s             *Substrate
	conn          net.Conn // of the rendezvous: it ends with the process
	carrier       activemsg.Carrier
	ep            *activemsg.Endpoint
	local, remote net.Addr
	device        string
	dialer        bool
	there         instance // who the other process says it is
	secrets       secrets
	most          int // bytes of a segment
	store         store

	ready    chan struct{} // closed when ep is set
	verified chan struct{}
	good     atomic.Bool // verified

	// hot is the link that data came for last, as long as find would find it: so mu isn't needed for it. Written under mu.
	hot atomic.Pointer[link]

	mu      sync.Mutex
	links   []*link
	free    []uint32
	live    int
	over    bool
	buried  bool             // the carrier is closed
	err     *substrate.Error // nil for an orderly end
	quit    chan struct{}    // closed with over
	gone    chan struct{}    // closed when nothing of the peer is left
	idle    *time.Timer
	key     pair
	telling []*link  // that owe something
	answers []answer // to be sent
	kick    chan struct{}

	lateMu sync.Mutex
	lates  []*link
	laters *time.Timer // nil if not running

	starvedMu sync.Mutex
	starved   []*link

	trial trial
}

// newPeer makes an endpoint over carrier, and runs it until its end. The peer owns conn and carrier.
func (s *Substrate) newPeer(conn net.Conn, carrier activemsg.Carrier, device string, dialer bool, there instance, sec secrets) (*peer, error) {
	p := &peer{
		s: s, conn: conn, carrier: carrier, dialer: dialer, there: there, secrets: sec, device: device,
		local: addrOf(conn.LocalAddr()), remote: addrOf(conn.RemoteAddr()),
		ready: make(chan struct{}), verified: make(chan struct{}), quit: make(chan struct{}), gone: make(chan struct{}), kick: make(chan struct{}, 1),
		trial: trial{wait: activemsg.NewWaiter(), over: make(chan struct{})},
	}
	if lender, ok := carrier.(Lender); ok {
		p.store.lend, p.store.giveBack = lender.Lend, lender.Return
	}
	ep, err := activemsg.New(carrier, p.handlers(), activemsg.Config{Death: s.opts.Death, OnCredit: p.fed})
	if err != nil {
		p.release()
		return nil, err
	}
	p.ep = ep
	p.most = ep.Payload() - dataHead
	running := s.enlist(p)
	close(p.ready)
	if !running {
		p.mu.Lock()
		p.over = true
		p.mu.Unlock()
		ep.Close()
		p.release()
		return nil, net.ErrClosed
	}
	return p, nil
}

// run ends the peer when its time has come.
func (p *peer) run() {
	var work sync.WaitGroup
	work.Go(p.tellAll)
	work.Go(p.watch)
	work.Go(p.fit)
	select {
	case <-p.ep.Done():
		p.fail(p.whyEnded())
	case <-p.quit:
	}
	p.mu.Lock()
	orderly := p.err == nil
	p.mu.Unlock()
	if orderly {
		p.lastWords()
	} else {
		p.conn.Close() // at once: the peer has nothing else to notice it by
	}
	p.ep.Close()
	p.conn.Close()
	work.Wait()
	p.bury()
	p.release()
	p.s.delist(p)
	close(p.gone)
}

// bury lets closed links go: nothing is on its way any more. The others keep what they have until they are closed.
func (p *peer) bury() {
	p.mu.Lock()
	p.buried = true
	links := p.links
	p.links = nil
	p.mu.Unlock()
	for _, l := range links {
		if l != nil && l.ctl.Load()&closed != 0 {
			l.forget()
		}
	}
}

// release gives back what the carrier holds beyond its Close. Memory that links keep stays until they are closed.
func (p *peer) release() {
	p.store.close()
	if c, ok := p.carrier.(interface{ Release() }); ok {
		c.Release()
	}
}

// watch waits for the end of the TCP connection, on which nothing is said any more.
func (p *peer) watch() {
	p.conn.SetDeadline(time.Time{})
	var b [1]byte
	if n, err := p.conn.Read(b[:]); n > 0 {
		p.protocol(errors.New("it goes on talking on the TCP connection"))
	} else if p.ep.Err() != nil {
		p.fail(p.whyEnded()) // that came first
	} else {
		p.fail(p.newError(substrate.PathDown, errGone{err}))
	}
}

// errGone is what the end of the TCP connection means. It doesn't wrap its cause: io.EOF would be the end of a link.
type errGone struct{ error }

func (e errGone) Error() string { return "the peer's process is gone (" + e.error.Error() + ")" }

// whyEnded is the endpoint's error as that of a link.
func (p *peer) whyEnded() *substrate.Error { return p.why(p.ep.Err()) }

// why is an error of the endpoint as that of a link. What a process's end means for a connection is found out over TCP, so all but a breach of the
// protocol is the path's.
func (p *peer) why(err error) *substrate.Error {
	class := substrate.PathDown
	if substrate.ClassOf(err) == substrate.Protocol {
		class = substrate.Protocol
	}
	if e := (*substrate.Error)(nil); errors.As(err, &e) {
		err = e.Err
	}
	return p.newError(class, err)
}

func (p *peer) newError(class substrate.Class, err error) *substrate.Error {
	return &substrate.Error{Op: "message", Substrate: name, Peer: p.remote.String(), Class: class, Err: err}
}

// fail ends the peer and its links. It doesn't wait.
func (p *peer) fail(err *substrate.Error) {
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		return
	}
	p.over = true
	p.err = err
	if p.idle != nil {
		p.idle.Stop()
	}
	all := make([]*link, 0, p.live)
	for _, l := range p.links {
		if l != nil {
			all = append(all, l)
		}
	}
	p.mu.Unlock()
	close(p.quit)
	p.trial.wait.Wake()
	if err == nil {
		err = p.newError(substrate.PathDown, net.ErrClosed)
	}
	for _, l := range all {
		l.fail(err)
	}
}

// ended reports whether nothing can be sent any more.
func (p *peer) ended() bool {
	select {
	case <-p.quit:
		return true
	default:
		return p.ep.Err() != nil
	}
}

// protocol ends the peer because it broke the protocol.
func (p *peer) protocol(err error) { p.fail(p.newError(substrate.Protocol, err)) }

// cause is the error of a link for one of the endpoint.
func (p *peer) cause(op string, err error) error {
	p.mu.Lock()
	e := p.err
	p.mu.Unlock()
	if e == nil {
		if ended := p.ep.Err(); ended != nil {
			err = ended
		}
		e = p.why(err)
	}
	return &substrate.Error{Op: op, Substrate: name, Peer: e.Peer, Class: e.Class, Err: e.Err}
}

// add makes a link with a number.
func (p *peer) add(state opening) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return nil, errOver
	}
	var id uint32
	switch n := len(p.free); {
	case n > 0:
		id, p.free = p.free[n-1], p.free[:n-1]
	case len(p.links) == maxLinks:
		return nil, errors.New("too many links between two processes")
	default:
		id = uint32(len(p.links))
		p.links = append(p.links, nil)
	}
	l := newLink(p, id)
	l.state = state
	p.links[id] = l
	p.live++
	if p.idle != nil {
		p.idle.Stop()
	}
	return l, nil
}

var errOver = errors.New("the path has ended")

// at returns the link with a number. Under mu.
func (p *peer) at(id uint64) *link {
	if id >= uint64(len(p.links)) {
		return nil
	}
	return p.links[id]
}

// find returns an open link.
func (p *peer) find(id uint64) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.at(id); l != nil && l.state == stateOpen && !l.endGot {
		p.hot.Store(l)
		return l
	}
	return nil
}

// drop frees a link's number: nothing more comes for it. Under mu.
func (p *peer) drop(l *link) {
	p.hot.Store(nil)
	if !p.buried { // else there are no numbers any more
		p.links[l.id] = nil
		p.free = append(p.free, l.id)
		if p.live--; p.live == 0 {
			p.rest()
		}
	}
	l.snd.Lock()
	defer l.snd.Unlock()
	l.out.Drop(p.store.keep) // what of it is still on its way is for an end that was closed
}

// rest starts the clock of a peer without links. Under mu.
func (p *peer) rest() {
	if p.over {
		return
	}
	wait := p.s.opts.Idle
	if !p.dialer {
		wait *= 2 // the end that dials knows better
	}
	if p.idle == nil {
		p.idle = time.AfterFunc(wait, p.rested)
	} else {
		p.idle.Reset(wait)
	}
}

func (p *peer) rested() {
	p.mu.Lock()
	live := p.live
	p.mu.Unlock()
	if live == 0 {
		p.fail(nil)
	}
}

// open asks the peer for a link to one of its listeners.
func (p *peer) open(ctx context.Context, token uint64) (*link, error) {
	l, err := p.add(stateDialing)
	if err != nil {
		return nil, err
	}
	if err := p.ep.Short(ctx, msgOpen, [4]uint64{uint64(l.id), token, p.s.opts.firstWindow}); err != nil {
		p.mu.Lock()
		p.drop(l)
		p.mu.Unlock()
		return nil, err
	}
	select {
	case status := <-l.opened:
		switch status {
		case statusOpened:
			return l, nil
		case statusRefused:
			return nil, errRefused
		}
		return nil, errBusy
	case <-ctx.Done():
		p.mu.Lock()
		answered := l.state != stateDialing
		if !answered {
			l.state = stateAbandoned
			l.tell(closed)
		}
		p.mu.Unlock()
		if answered && <-l.opened == statusOpened {
			l.Close()
		}
		return nil, ctx.Err()
	case <-p.quit:
		return nil, p.cause("dial", errOver)
	}
}

var (
	errRefused = errors.New("nobody listens there any more")
	errBusy    = errors.New("the peer has too many links")
)

// starve puts l into the list of links that wait for a credit. It reports whether it wasn't there yet.
func (p *peer) starve(l *link) bool {
	p.starvedMu.Lock()
	defer p.starvedMu.Unlock()
	for _, s := range p.starved {
		if s == l {
			return false
		}
	}
	p.starved = append(p.starved, l)
	return true
}

// fed wakes those who wait for credits.
func (p *peer) fed() {
	p.starvedMu.Lock()
	defer p.starvedMu.Unlock()
	for i, l := range p.starved {
		l.sendWait.Wake()
		p.starved[i] = nil
	}
	p.starved = p.starved[:0]
}
