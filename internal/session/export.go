package session

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/sockemu/sockemu/gid"
)

// State is everything one end of a connection is, while it is in no process. Its byte form is in statecodec.go.
type State struct {
	GID       gid.GID
	Initiator bool
	Secret    [32]byte
	Epoch     uint64 // of the holder that exported it; the next holder has one more
	PeerEpoch uint64
	Peer      gid.ProcessID
	PeerAddrs []string
	Home      string // the address that was dialled
	LinkNo    uint64
	Got       uint64 // received, Unread included
	Acked     uint64 // the peer has everything before; Unacked begins here
	PeerLimit uint64
	FinSent   bool
	FinSeen   bool
	FinKnown  bool
	Fin       uint64
	PeerClose bool
	Sealed    bool
	Linger    time.Duration
	Local     string // the addresses that the application sees
	Remote    string
	Unacked   []byte
	Unread    []byte
}

// Export takes the connection out of this process: it stops it, in the middle of whatever it does, and returns its state.
// Blocked and later calls return ErrExported. The peer notices that its link ends and waits for the next holder.
func (s *Session) Export(ctx context.Context) (*State, error) {
	s.mu.Lock()
	switch {
	case s.closed || s.exported:
		err := s.closedErr()
		s.mu.Unlock()
		return nil, err
	case s.err != nil:
		err := s.err
		s.mu.Unlock()
		return nil, err
	case ctx.Err() != nil:
		s.mu.Unlock()
		return nil, context.Cause(ctx)
	}
	s.exported = true
	s.events.add("exported")
	if s.cur != nil {
		s.park(ErrExported)
	}
	if s.ch != nil {
		r := s.state(0) // says that there is no link here any more
		s.ch.Post(&r)
	}
	s.canRx.raise()
	s.canTx.raise()
	s.mu.Unlock()

	// Everybody who is at work leaves now: the link is interrupted, and nobody waits any more.
	s.pollAck()
	s.slot.Store(nil)
	s.wr.lock()
	s.rd.lock()
	s.settle()
	s.tx.lock()
	s.mu.Lock()
	st := &State{
		GID: s.id, Initiator: s.initiator, Secret: s.secret, Epoch: s.epoch, PeerEpoch: s.peerEpoch, Peer: s.peer,
		PeerAddrs: s.peerAddrs, LinkNo: s.linkNo, Got: s.got.Load(), Acked: s.acked.Load(), PeerLimit: s.peerLimit,
		FinSent: s.finSent, FinSeen: s.finSeen, FinKnown: s.finKnown, Fin: s.fin, PeerClose: s.peerClose, Sealed: s.cfg.Seal,
		Linger: s.linger, Local: addrString(s.laddr), Remote: addrString(s.raddr), Unread: s.pend.Bytes(),
	}
	s.bmu.Lock()
	s.unack.Release(st.Acked)
	st.Unacked = s.unack.Bytes()
	s.bmu.Unlock()
	s.mu.Unlock()
	s.tx.unlock()
	s.rd.unlock()
	s.wr.unlock()
	s.end(nil)
	return st, nil
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// maxCounter bounds the counters of an imported state: none of them gets there, and what is added to them can't wrap around.
const maxCounter = 1 << 62

// Import continues an exported connection in this process. It has no link yet: RetryNow starts the search for one if this end
// can dial, else the peer comes.
func Import(st *State, cfg Config, env Env, pool *Pool) (*Session, error) {
	switch {
	case st.FinKnown && st.Got > st.Fin, uint64(len(st.Unread)) > st.Got, st.Peer.IsZero(), st.GID.IsZero(), st.Epoch == 0,
		st.FinSeen && !st.FinSent, max(st.Epoch, st.LinkNo, st.Got, st.Acked) > maxCounter:
		return nil, errors.New("the state contradicts itself")
	case st.Sealed != cfg.Seal:
		return nil, errors.New("the connection and this process differ in whether they encrypt")
	}
	s := New(st.GID, st.Initiator, st.Secret, cfg, env, pool)
	s.epoch, s.peerEpoch, s.peer, s.peerAddrs = st.Epoch+1, st.PeerEpoch, st.Peer, st.PeerAddrs
	s.linkNo, s.peerLimit, s.linger = st.LinkNo, st.PeerLimit, st.Linger
	s.lostNo = st.LinkNo // the exporter's links are dead, whether the peer has noticed or not
	s.finSent, s.finSeen, s.finKnown, s.fin, s.peerClose = st.FinSent, st.FinSeen, st.FinKnown, st.Fin, st.PeerClose
	if st.FinKnown {
		s.finAt.Store(st.Fin)
	}
	s.acked.Store(st.Acked)
	s.next.Store(st.Acked)
	s.unack.Append(st.Acked, st.Unacked)
	end := st.Acked + uint64(len(st.Unacked))
	s.sent.Store(end)
	s.hi.Store(end)
	s.pend.Append(st.Got-uint64(len(st.Unread)), st.Unread)
	s.got.Store(st.Got)
	s.told.Store(st.Got)
	s.events.add("imported, epoch %d", s.epoch)
	s.mu.Lock()
	s.watchPath()
	s.mu.Unlock()
	return s, nil
}
