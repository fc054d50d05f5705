package session

import (
	"bytes"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/wire"
)

// lateLink reads what it is to send only when the gate opens, and a link that retains once more when it is closed, unless the slices were
// released: what it finds there must be what the session gave it.
type lateLink struct {
	*fakeLink
	t        *testing.T
	entered  chan struct{} // a Send that is worth watching has begun
	gate     chan struct{}
	released atomic.Uint64
	kept     [][]byte // what Send was given
	was      []byte   // and what that was
	end      uint64
}

func (l *lateLink) Send(off uint64, bufs [][]byte) (int, error) {
	now := bytes.Join(bufs, nil)
	if len(now) < 1000 {
		return len(now), nil
	}
	l.kept, l.was, l.end = append([][]byte(nil), bufs...), now, off+uint64(len(now))
	close(l.entered)
	<-l.gate
	l.check("during Send")
	return len(now), nil
}

func (l *lateLink) Release(off uint64) { l.released.Store(max(l.released.Load(), off)) }

func (l *lateLink) check(when string) {
	assert.True(l.t, bytes.Equal(l.was, bytes.Join(l.kept, nil)), "the memory has been put to another use %s", when)
}

// TestMemoryInUse: blocks from which a link is sending, or may still send, are nobody else's: whatever the peer acknowledges, and also when
// the connection ends in the middle. Else one connection's bytes would go out on another one's link.
func TestMemoryInUse(t *testing.T) {
	for _, c := range []struct {
		name    string
		retains bool
		event   func(s *Session, sent int)
	}{
		{"acknowledged too early", false, func(s *Session, sent int) {
			s.OnRecord(&wire.Record{Type: wire.TypeState, GID: testGID, LinkNo: 1, Ack: uint64(sent), Limit: 1 << 62})
		}},
		{"acknowledged too early, retained", true, func(s *Session, sent int) {
			s.OnRecord(&wire.Record{Type: wire.TypeState, GID: testGID, LinkNo: 1, Ack: uint64(sent), Limit: 1 << 62})
		}},
		{"ended", true, func(s *Session, _ int) { s.Abort(net.ErrClosed, "in the middle") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := NewPool(0)
				l := &lateLink{fakeLink: newFakeLink(nil), t: t, entered: make(chan struct{}), gate: make(chan struct{})}
				s := New(testGID, false, [32]byte{1}, Config{}, fakeEnv{}, pool)
				setup := wire.Setup{Proc: testPeer, Epoch: 1, LinkNo: 1, Limit: 1 << 62}
				require.NoError(t, s.Bind(NewLink{Link: l, Name: "late", LinkNo: 1, Retains: c.retains, Peer: setup}))
				defer finish(t, s, l.fakeLink)
				if c.retains {
					s.Attach(&fakeChannel{}) // the link becomes bare: it is given the send buffer's slices and nothing else
					synctest.Wait()
				}
				const size = 50_000
				go s.Write(bytes.Repeat([]byte("mine "), size/5))
				<-l.entered
				c.event(s, size)
				synctest.Wait()
				other := bound(t, newFakeLink(nil), Config{}, pool)
				defer finish(t, other, nil)
				_, err := other.Write(bytes.Repeat([]byte("yours"), 2*size/5))
				require.NoError(t, err)
				close(l.gate)
				synctest.Wait()
				if c.retains && l.released.Load() < l.end {
					select {
					case <-l.closed:
					default:
						l.check("while the link keeps it")
					}
				}
			})
		})
	}
}

// TestAckOfWhatWasNotTaken: a Send that ended half-way, at a deadline, has brought the peer no more than the link took.
func TestAckOfWhatWasNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLink(nil)
		s := New(testGID, false, [32]byte{1}, Config{}, fakeEnv{}, NewPool(0))
		setup := wire.Setup{Proc: testPeer, Epoch: 1, LinkNo: 1, Limit: 1 << 62}
		require.NoError(t, s.Bind(NewLink{Link: l, Name: "late", LinkNo: 1, Retains: true, Peer: setup}))
		defer finish(t, s, l)
		s.Attach(&fakeChannel{})
		synctest.Wait()
		const size = 50_000
		l.mu.Lock()
		l.send = func(n int) (int, error) {
			s.OnRecord(&wire.Record{Type: wire.TypeState, GID: testGID, LinkNo: 1, Ack: size})
			return n / 2, os.ErrDeadlineExceeded
		}
		l.mu.Unlock()
		require.NoError(t, s.SetWriteDeadline(time.Now().Add(time.Hour)))
		s.Write(make([]byte, size))
		synctest.Wait()
		require.ErrorIs(t, s.Snapshot().Err, ErrProtocol)
	})
}
