package session

import (
	"bytes"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// A lendLink borrows, and checks all the time that what it may look at is what it was given.
type lendLink struct {
	*fakeLink
	t        *testing.T
	rng      *rand.Rand
	ack      func(off uint64) // by the peer, on the page or in a record
	loan     lent
	mu       sync.Mutex
	kept     []lent
	released uint64
}

// lent is a slice that ends before offset end.
type lent struct {
	end    uint64
	b, was []byte
}

func (l *lendLink) take(off uint64, bufs [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range bufs {
		off += uint64(len(b))
		l.kept = append(l.kept, lent{off, b, bytes.Clone(b)})
	}
}

// look reads everything that has not been released since the link has it.
func (l *lendLink) look(when string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.kept {
		require.True(l.t, bytes.Equal(k.was, k.b), "the memory before offset %d has been put to another use %s, released are %d", k.end, when, l.released)
	}
}

// peer acknowledges anything up to end.
func (l *lendLink) peer(end uint64) {
	if l.rng.IntN(2) == 0 {
		from := l.acked()
		l.ack(from + l.rng.Uint64N(end-from+1))
	}
}

func (l *lendLink) Borrows() int { return 1000 }

func (l *lendLink) Send(off uint64, bufs [][]byte) (int, error) {
	if off == substrate.Unkept {
		return l.fakeLink.Send(off, bufs)
	}
	n, err := l.fakeLink.Send(off, bufs)
	l.peer(off + uint64(n))
	l.take(off, bufs)
	l.look("in Send")
	return n, err
}

func (l *lendLink) Borrow(off uint64, p []byte) (int, error) {
	n := len(p)
	var err error
	if l.rng.IntN(4) == 0 {
		n = l.rng.IntN(n)
		err = os.ErrDeadlineExceeded
	}
	l.loan = lent{off + uint64(n), p, bytes.Clone(p[:n])}
	l.take(off, [][]byte{p[:n]})
	l.peer(l.loan.end)
	l.look("in Borrow")
	return n, err
}

func (l *lendLink) Return(off uint64, bufs [][]byte) {
	begin := l.loan.end - uint64(len(l.loan.was))
	require.GreaterOrEqual(l.t, off, begin)
	require.LessOrEqual(l.t, off, l.loan.end)
	if off > begin {
		require.LessOrEqual(l.t, off, l.acked(), "not acknowledged")
	}
	require.True(l.t, bytes.Equal(l.loan.was[off-begin:], bytes.Join(bufs, nil)), "other bytes are returned")
	l.peer(l.loan.end)
	l.look("in Return")
	l.mu.Lock()
	l.kept = l.kept[:len(l.kept)-1]
	l.mu.Unlock()
	l.take(off, bufs)
}

func (l *lendLink) Release(off uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released = max(l.released, off)
	for i := range l.kept {
		k := &l.kept[i]
		if begin := k.end - uint64(len(k.b)); off > begin {
			n := min(off, k.end) - begin
			k.b, k.was = k.b[n:], k.was[n:]
		}
	}
}

func (l *lendLink) acked() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.released
}

// TestBorrowed: whatever the peer acknowledges, and when, a link that borrows has the application's memory until Write returns and no longer, and after
// that the send buffer's, which is nobody else's before it was released.
func TestBorrowed(t *testing.T) {
	ours, page := sharedPage(t)
	for _, shared := range []bool{false, true} {
		l := &lendLink{fakeLink: newFakeLink(nil), t: t, rng: rand.New(rand.NewPCG(1, 2))}
		s := New(testGID, false, [32]byte{1}, Config{ProbeEvery: time.Hour, KeepAlive: time.Hour}, fakeEnv{}, NewPool(0))
		setup := wire.Setup{Proc: testPeer, Epoch: 1, LinkNo: 1, Limit: 1 << 62}
		require.NoError(t, s.Bind(NewLink{Link: l, Name: "lent", LinkNo: 1, Retains: true, Peer: setup}))
		ch := &fakeChannel{}
		s.Attach(ch)
		bare := func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.cur.txBare
		}
		for !bare() {
			<-time.After(time.Millisecond)
		}
		l.ack = func(off uint64) {
			s.OnRecord(&wire.Record{Type: wire.TypeState, GID: testGID, LinkNo: 1, Ack: off, Limit: 1 << 62})
		}
		if shared {
			s.Share(ch, ours.Slot(0, 1, true))
			peer := page.Slot(0, 1, false)
			l.ack = func(off uint64) { peer.Publish(off) }
		}
		rng, buf := rand.New(rand.NewPCG(3, 4)), make([]byte, 300_000)
		for range 300 {
			p := buf[:1+rng.IntN(1<<rng.IntN(19))%len(buf)]
			fill := byte(rng.Uint32())
			for i := range p {
				p[i] = fill + byte(i%251)
			}
			n, err := s.Write(p)
			require.NoError(t, err)
			require.Equal(t, len(p), n)
			clear(p)
			s.tx.lock() // nobody is sending
			l.look("after Write")
			s.tx.unlock()
		}
		finish(t, s, l.fakeLink)
	}
}
