package session

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/substrate"
)

// counters are guarded by Session.mu.
type counters struct {
	links       uint64
	lost        uint64
	moved       uint64
	failedDials uint64
	replayed    uint64
	outage      time.Duration
}

// Event is one entry in the life of a connection.
type Event struct {
	At   time.Time
	What string
}

// events is a short ring of the latest events.
type events struct {
	mu   sync.Mutex
	list []Event
}

const eventsKept = 16

func (e *events) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.list) >= eventsKept {
		e.list = e.list[:copy(e.list, e.list[1:])]
	}
	e.list = append(e.list, Event{At: time.Now(), What: fmt.Sprintf(format, args...)})
}

func (e *events) copy() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]Event(nil), e.list...)
}

// Snapshot is the state of a connection at one moment.
type Snapshot struct {
	GID       gid.GID
	Initiator bool
	State     string // "up", "parked", "closing", "ended", "exported"
	Peer      gid.ProcessID
	Epoch     uint64
	PeerEpoch uint64

	Substrate  string // of the current link; "" while parked
	LinkNo     uint64
	Local      string // physical addresses of the current link
	Remote     string
	Mode       string // "bare": application bytes only; "record": framed, control in-band; "sealed": record and encrypted
	Control    string // "channel", "in-band", "none"
	Cost       substrate.Cost
	Opened     time.Time
	LinkSince  time.Time
	DownFor    time.Duration // how long there has been no path
	MaxOutage  time.Duration
	Sent       uint64 // bytes the application wrote
	Acked      uint64 // of them, the peer's session has
	Received   uint64 // bytes in this session's possession
	Unread     uint64 // of them, the application hasn't read
	Links      uint64 // links bound so far
	Lost       uint64 // links lost so far
	Moved      uint64 // links given up for better ones
	FailedDial uint64 // attempts that brought no link
	Replayed   uint64 // bytes sent again
	Err        error
	Events     []Event
}

// Snapshot returns the state of the connection. It takes a few locks: don't call it per message.
func (s *Session) Snapshot() Snapshot {
	s.pollAck()
	s.mu.Lock()
	defer s.mu.Unlock()
	sn := Snapshot{
		GID: s.id, Initiator: s.initiator, Peer: s.peer, Epoch: s.epoch, PeerEpoch: s.peerEpoch, LinkNo: s.linkNo,
		Opened: s.opened, MaxOutage: s.counts.outage, Acked: s.acked.Load(), Sent: s.sent.Load(), Received: s.got.Load(),
		Unread: uint64(s.pend.Len()), Links: s.counts.links, Lost: s.counts.lost, Moved: s.counts.moved, FailedDial: s.counts.failedDials,
		Replayed: s.counts.replayed, Err: s.err, Events: s.events.copy(), Control: "none",
	}
	sn.Sent = max(sn.Sent, sn.Acked)
	if !s.downSince.IsZero() {
		sn.DownFor = time.Since(s.downSince)
		sn.MaxOutage = max(sn.MaxOutage, sn.DownFor)
	}
	switch {
	case s.exported:
		sn.State = "exported"
	case s.ended || s.err != nil:
		sn.State = "ended"
	case s.closed:
		sn.State = "closing"
	case s.cur == nil:
		sn.State = "parked"
	default:
		sn.State = "up"
	}
	if b := s.cur; b != nil {
		sn.Substrate, sn.LinkSince, sn.Cost = b.name, b.at, b.link.Cost()
		sn.Local, sn.Remote = b.link.LocalAddr().String(), b.link.RemoteAddr().String()
		switch {
		case b.seal != nil:
			sn.Mode = "sealed"
		case b.txBare && b.rxBare:
			sn.Mode = "bare"
		default:
			sn.Mode = "record"
		}
		if s.ch != nil {
			sn.Control = "channel"
		} else if !b.txBare {
			sn.Control = "in-band"
		}
	}
	return sn
}

// note records an event of low interest.
func (s *Session) note(format string, args ...any) {
	s.events.add(format, args...)
	s.log.Debug(fmt.Sprintf(format, args...), "gid", s.id)
}

// The ways a connection can end, for counters.
const (
	EndOK = iota
	EndPatience
	EndReset
	EndUndelivered
	EndOther
)

// End says how the connection has ended.
func (n *Snapshot) End() int {
	switch {
	case n.Err == nil:
		return EndOK
	case errors.Is(n.Err, ErrPatience):
		return EndPatience
	case errors.Is(n.Err, ErrReset), errors.Is(n.Err, ErrPeerGone):
		return EndReset
	case errors.Is(n.Err, ErrUndelivered):
		return EndUndelivered
	}
	return EndOther
}
