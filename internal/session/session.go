package session

import (
	"context"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/blocks"
	"github.com/sockemu/sockemu/internal/samehost"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// A Channel is the control channel to the peer's process, as a session sees it. Neither method blocks.
type Channel interface {
	// Proc is the process at the other end.
	Proc() gid.ProcessID
	// Post sends r soon.
	Post(r *wire.Record)
	// PostLater calls s.Flush within the acknowledgement delay, together with other sessions'.
	PostLater(s *Session)
}

// An Env is what a session needs of the process it lives in.
type Env interface {
	// Resume opens a link to the peer and performs the resume handshake with the given Setup.
	// It calls commit before the peer is told that the link counts, and gives up if that fails.
	Resume(ctx context.Context, s *Session, my wire.Setup, commit func() error) (NewLink, error)
	// CanDial reports whether Resume has an address to try. An end that can't dial waits for the peer. It is called without locks.
	CanDial(s *Session) bool
	// Bound is called after every Bind that succeeded, without locks.
	Bound(s *Session)
	// Ended is called once, when the session has nothing more to do.
	Ended(s *Session)
}

// NewLink is what a finished handshake hands to a session.
type NewLink struct {
	Link    substrate.Link
	Name    string // of the substrate
	Addr    string // that was dialled, if this end dialled it
	Retains bool   // substrate.Caps.Retains
	Seal    *Seal  // nil unless the link is sealed
	LinkNo  uint64
	Dialed  bool // by this end
	Peer    wire.Setup
}

// Session is one end of a connection. Its methods are safe for concurrent use.
type Session struct {
	id        gid.GID
	initiator bool
	cfg       Config
	env       Env
	pool      *Pool
	secret    [32]byte
	log       *slog.Logger
	opened    time.Time

	// Send side.
	out      pair // wr and tx
	wr       lane // one Write at a time
	tx       lane // one sender on the link at a time: a Write or the pump
	sizes    selector.Sizes
	streak   int           // Writes since the last Read; guarded by wr
	gotThen  uint64        // got at the last Write; guarded by wr
	wroteAt  time.Duration // since epoch; guarded by wr
	pumpFunc func()        // pump, as a value that needn't be made for every start
	next     atomic.Uint64 // the next byte to send on the current link; written under tx
	vec      [1][]byte     // guarded by tx
	views    [][]byte      // guarded by tx
	hi       atomic.Uint64 // the end of what was handed to a link: the peer can't have more
	sent     atomic.Uint64 // end of what the application has written
	acked    atomic.Uint64 // the peer's session has everything before this
	bmu      sync.Mutex
	over     bool        // ended: nothing is kept any more; guarded by bmu
	lentFrom uint64      // a Send is reading unack from here on; the largest number: none is; guarded by bmu
	unack    blocks.List // [acked, sent), and a little more; guarded by bmu
	canTx    signal      // for the Write that waits
	ctlDue   atomic.Bool
	probing  atomic.Bool // the probe timer runs
	kept     atomic.Pointer[keep]

	// Receive side.
	in       pair                          // rd and rx
	rd       lane                          // one Read at a time
	rx       lane                          // one receiver on a bare link at a time
	settling lane                          // one settle at a time
	got      atomic.Uint64                 // in this session's possession: read, or in pend
	told     atomic.Uint64                 // the acknowledgement last sent
	shown    atomic.Uint64                 // the acknowledgement last shown on the shared page; the receiver's
	finAt    atomic.Uint64                 // fin, or the largest number while it isn't known
	canRx    signal                        // for the Read that waits
	slot     atomic.Pointer[samehost.Slot] // shared with the peer's process on the same host; nil: none
	lateAck  atomic.Bool                   // an acknowledgement is due within AckDelay
	saidAt   atomic.Int64                  // when the last State was made, since epoch
	heard    atomic.Int64                  // when something last arrived on a link in record mode, since epoch

	mu         guard
	pend       blocks.List   // arrived, not read
	limitTold  uint64        // the Limit last sent
	cur        *binding      // nil: parked
	old        *binding      // lost, not settled
	linkNo     uint64        // the highest used or accepted
	seen       uint64        // of the last one that was bound
	lostNo     uint64        // the last one that was lost, or of which nothing came
	peerLimit  uint64        // record mode: may send up to here
	epoch      uint64        // of this end
	peerEpoch  uint64        // of the other end
	peer       gid.ProcessID // the process that holds the other end
	peerAddrs  []string      // where that process says it can be reached
	peerOffers []wire.Offer  // over which other substrates
	peerPolicy string        // which of them it admits
	ch         Channel       // nil: the peer isn't attached
	downSince  time.Time     // since when there is no path; zero: there is one
	rdl, wdl   time.Time     // the application's deadlines
	pumping    bool
	dialing    bool
	attempting bool          // a resume of ours is in progress, and counts: the peer's are refused
	giveUpTry  func()        // ends it, as long as it may be given up for one of the peer's; else nil
	admitted   admission     // a resume of the peer's that is in progress
	jump       uint64        // by how much to raise our link numbers; see redialLoop
	dialNo     uint64        // the acceptor's attempts are numbered from here, if it dials
	backoff    time.Duration // before the next attempt
	pulling    bool
	rec        wire.Record // being posted
	ctlFlags   uint8       // for the next in-band State
	finSent    bool        // nothing more will be written; sent is final
	finSeen    bool        // the peer knows
	finKnown   bool        // the peer will write nothing beyond fin
	fin        uint64      // the peer's end of stream
	peerClose  bool        // the peer reads no more
	peerDone   bool        // the peer needs nothing more
	saidDone   bool
	closed     bool // by our application
	exported   bool
	parting    bool  // both ends are done; the last word is on its way
	untold     bool  // ended, and the peer could not be told
	err        error // the definite end
	ended      bool
	linger     time.Duration
	closeTimer *time.Timer
	keeping    bool // the timer runs for KeepAlive
	probe      *time.Timer
	probeAck   uint64    // acked when the probe timer was armed
	askedAt    time.Time // when the peer was asked in-band, unanswered; zero: it wasn't
	askedOn    *binding
	stuck      time.Time // since when the peer starves although we sent; zero: it doesn't
	stuckAt    uint64    // the acknowledgement it stands at
	patience   *time.Timer
	late       *time.Timer
	retryNow   signal
	done       chan struct{} // closed with ended
	ctx        context.Context
	cancel     context.CancelFunc
	waiters    chan struct{} // closed and replaced when acked, the peer's state or the end changes; nil without waiters

	laddr, raddr net.Addr // what the application sees, for life
	counts       counters
	events       events
}

// New makes one end of a fresh connection, or an empty shell for Import. Bind gives it its first link.
func New(id gid.GID, initiator bool, secret [32]byte, cfg Config, env Env, pool *Pool) *Session {
	s := &Session{
		id: id, initiator: initiator, secret: secret, cfg: cfg.WithDefaults(), env: env, pool: pool, opened: time.Now(),
		settling: newLane(), canTx: newSignal(), canRx: newSignal(), retryNow: newSignal(), done: make(chan struct{}),
		epoch: 1, peerEpoch: 1,
	}
	s.wr, s.tx = s.out.lanes()
	s.rd, s.rx = s.in.lanes()
	s.log = s.cfg.Logger
	s.pumpFunc = s.pump
	s.finAt.Store(math.MaxUint64)
	s.lentFrom = math.MaxUint64
	s.linger = s.cfg.Linger
	s.unack, s.pend = blocks.New(pool, 0), blocks.New(pool, 0)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.downSince = s.opened
	return s
}

// GID returns the connection's identity.
func (s *Session) GID() gid.GID { return s.id }

// Initiator reports whether this end dialled the connection.
func (s *Session) Initiator() bool { return s.initiator }

// Peer returns the process that holds the other end and where it says it can be reached.
func (s *Session) Peer() (gid.ProcessID, []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peer, s.peerAddrs
}

// PeerOffers returns over which other substrates the peer's process can be reached, and which it admits.
func (s *Session) PeerOffers() (offers []wire.Offer, policy string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peerOffers, s.peerPolicy
}

// Link returns the substrate of the link in use, the address that was dialled for it (if this end did), and since when it is in
// use. Without a link the name is empty.
func (s *Session) Link() (name, addr string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == nil {
		return "", "", time.Time{}
	}
	return s.cur.name, s.cur.addr, s.cur.at
}

// Sizes counts the sizes of the application's Writes.
func (s *Session) Sizes() *selector.Sizes { return &s.sizes }

// Moved returns how many bytes have been written and received.
func (s *Session) Moved() uint64 { return s.sent.Load() + s.got.Load() }

// Done is closed when the session has nothing more to do.
func (s *Session) Done() <-chan struct{} { return s.done }

// LocalAddr and RemoteAddr are the addresses of the first link. They stay the same wherever the two ends move.
func (s *Session) LocalAddr() net.Addr { return s.laddr }

// RemoteAddr: see LocalAddr.
func (s *Session) RemoteAddr() net.Addr { return s.raddr }

// SetAddrs sets the addresses that LocalAddr and RemoteAddr show.
func (s *Session) SetAddrs(local, remote net.Addr) { s.laddr, s.raddr = local, remote }

// SetDeadline sets both deadlines.
func (s *Session) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline bounds pending and future Reads; the zero time means none.
func (s *Session) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.exported {
		return s.closedErr()
	}
	s.rdl = t
	if b := s.cur; b != nil && b.rxBare && s.rx.held() {
		b.setRecvDeadline(t)
	}
	s.canRx.raise()
	return nil
}

// SetWriteDeadline bounds pending and future Writes; the zero time means none.
func (s *Session) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.exported {
		return s.closedErr()
	}
	s.wdl = t
	if b := s.cur; b != nil && b.appSending {
		b.setSendDeadline(t)
	}
	s.canTx.raise()
	return nil
}

func (s *Session) closedErr() error {
	if s.exported {
		return ErrExported
	}
	return net.ErrClosed
}

func expired(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// wait blocks until sig is raised or the deadline passes; the caller looks again either way.
func wait(sig signal, deadline time.Time) {
	if deadline.IsZero() {
		<-sig
		return
	}
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-sig:
	case <-t.C:
	}
}

// readErr says why there is nothing to read, ever; nil if there may be. Under mu.
func (s *Session) readErr() error {
	switch {
	case s.closed || s.exported:
		return s.closedErr()
	case expired(s.rdl):
		return os.ErrDeadlineExceeded
	case s.pend.Len() > 0:
		return nil
	case s.finKnown && s.got.Load() == s.fin:
		return io.EOF
	case s.err != nil:
		return s.err
	}
	return nil
}

// writeErr says why nothing can be written; nil if it may be. Under mu.
func (s *Session) writeErr() error {
	switch {
	case s.closed || s.exported:
		return s.closedErr()
	case s.err != nil:
		return s.err
	case s.finSent:
		return ErrWriteClosed
	case s.peerClose:
		return ErrPeerClosed
	case expired(s.wdl):
		return os.ErrDeadlineExceeded
	}
	return nil
}

// wantLink reports whether there is, or may be, anything left to move: bytes, or the news that they have arrived. Under mu.
func (s *Session) wantLink() bool {
	if s.ended || s.err != nil || s.exported {
		return false
	}
	return !(s.peerDone && (s.satisfied() || s.peerClose))
}

// changed wakes whoever waits for an acknowledgement or the end (Close, Export). Under mu.
func (s *Session) changed() {
	if s.waiters != nil {
		close(s.waiters)
		s.waiters = nil
	}
}

// changes returns a channel that is closed at the next change. Under mu.
func (s *Session) changes() <-chan struct{} {
	if s.waiters == nil {
		s.waiters = make(chan struct{})
	}
	return s.waiters
}
