package session

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// TestPairExcludes relies on the race detector: the two numbers have no other guard.
func TestPairExcludes(t *testing.T) {
	var p pair
	outer, inner := p.lanes()
	a, b, wantA, wantB := 0, 0, 0, 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 9 {
		wg.Go(func() {
			for range 2000 {
				ranA, ranB := 0, 0
				switch {
				case i%3 == 0:
					inner.lock()
					b, ranB = b+1, 1
					inner.unlock()
				case i%3 == 1 && p.tryBoth():
					a, b, ranA, ranB = a+1, b+1, 1, 1
					p.unlockBoth(&outer, &inner)
				default:
					outer.lock()
					a, ranA = a+1, 1
					if inner.tryLock() {
						b, ranB = b+1, 1
						inner.unlock()
					}
					outer.unlock()
				}
				mu.Lock()
				wantA, wantB = wantA+ranA, wantB+ranB
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Equal(t, wantA, a)
	require.Equal(t, wantB, b)
	require.Zero(t, p.word.Load())
}

// TestPairPassesOn: whoever waits for one of two lanes that were taken together gets it.
func TestPairPassesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pair
		outer, inner := p.lanes()
		require.True(t, p.tryBoth())
		require.False(t, p.tryBoth())
		require.False(t, inner.tryLock())
		require.True(t, inner.held())
		got := make(chan string, 2)
		go func() { outer.lock(); got <- "outer" }()
		go func() { inner.lock(); got <- "inner" }()
		synctest.Wait()
		require.Empty(t, got)
		p.unlockBoth(&outer, &inner)
		synctest.Wait()
		require.Len(t, got, 2)
		require.False(t, p.tryBoth())
		outer.unlock()
		require.False(t, p.tryBoth(), "inner is held")
		inner.unlock()
		require.True(t, p.tryBoth())
	})
}

// straightaway returns a session whose next Write and Read need not look at its state: it has done one of each.
func straightaway(t *testing.T, cfg Config) (*Session, *fakeLink, *fakeChannel) {
	l := newFakeLink(frame(wire.FrameBare))
	s := bound(t, l, cfg, NewPool(0))
	ch := &fakeChannel{}
	s.Attach(ch)
	synctest.Wait()
	l.feed([]byte("x"))
	n, err := s.Read(make([]byte, 10))
	require.Equal(t, 1, n)
	require.NoError(t, err)
	n, err = s.Write([]byte("y"))
	require.Equal(t, 1, n)
	require.NoError(t, err)
	require.NotNil(t, s.mu.tx.Load())
	require.NotNil(t, s.mu.rx.Load(), "a Write takes nothing from a Read")
	return s, l, ch
}

// TestStraightaway: whatever happens to a connection, the next Write and Read see it, and so do those that are waiting: although they did
// not look at its state when they began.
func TestStraightaway(t *testing.T) {
	past := time.Unix(1, 0) // in a bubble, too, whose time begins in 2000
	for name, c := range map[string]struct {
		do        func(s *Session, ch *fakeChannel)
		wr, rd    error // of the next ones
		waiting   error // of the Read that waits; nil: it goes on waiting
		keepsLink bool
	}{
		"Close":            {func(s *Session, _ *fakeChannel) { go s.Close() }, net.ErrClosed, net.ErrClosed, net.ErrClosed, true},
		"CloseWrite":       {func(s *Session, _ *fakeChannel) { s.CloseWrite() }, ErrWriteClosed, nil, nil, true},
		"Abort":            {func(s *Session, _ *fakeChannel) { s.Abort(ErrReset, "x") }, ErrReset, ErrReset, ErrReset, false},
		"Export":           {func(s *Session, _ *fakeChannel) { s.Export(context.Background()) }, ErrExported, ErrExported, ErrExported, false},
		"a read deadline":  {func(s *Session, _ *fakeChannel) { s.SetReadDeadline(past) }, nil, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded, true},
		"a write deadline": {func(s *Session, _ *fakeChannel) { s.SetWriteDeadline(past) }, os.ErrDeadlineExceeded, nil, nil, true},
		"the peer's Close": {func(s *Session, ch *fakeChannel) {
			s.OnChannelRecord(ch, &wire.Record{Type: wire.TypeState, Flags: wire.StateClosed, GID: testGID, LinkNo: 1, Ack: 1, Sent: 1})
		}, ErrPeerClosed, nil, nil, true},
		"the peer's end of stream": {func(s *Session, ch *fakeChannel) {
			s.OnChannelRecord(ch, &wire.Record{Type: wire.TypeState, Flags: wire.StateFin, GID: testGID, LinkNo: 1, Ack: 1, Sent: 1})
		}, nil, io.EOF, io.EOF, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, l, ch := straightaway(t, Config{Linger: time.Millisecond})
				defer finish(t, s, l)
				c.do(s, ch)
				synctest.Wait()
				_, err := s.Write([]byte("z"))
				require.ErrorIs(t, err, c.wr)
				s.mu.Peek()
				link := s.cur != nil
				s.mu.Unlock()
				require.Equal(t, c.keepsLink, link)
				if c.rd != nil {
					_, err = s.Read(make([]byte, 10))
					require.ErrorIs(t, err, c.rd)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				s, l, ch := straightaway(t, Config{Linger: time.Millisecond})
				defer finish(t, s, l)
				done := make(chan error, 1)
				go func() {
					_, err := s.Read(make([]byte, 10))
					done <- err
				}()
				synctest.Wait()
				c.do(s, ch)
				synctest.Wait()
				if c.waiting != nil {
					require.Len(t, done, 1, "the Read that waits sees it")
					require.ErrorIs(t, <-done, c.waiting)
					return
				}
				require.Empty(t, done)
				l.feed([]byte("more"))
				synctest.Wait()
				require.NoError(t, <-done)
			})
		})
	}
}

// TestStraightawayLosesItsLink: a Write that has just begun on a link that is lost keeps what the link didn't take.
func TestStraightawayLosesItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l, _ := straightaway(t, Config{})
		defer finish(t, s, l)
		l.mu.Lock()
		l.send = func(n int) (int, error) {
			if n > 1 {
				<-l.gone
				return 3, substrate.ErrInterrupted
			}
			return n, nil
		}
		l.mu.Unlock()
		wrote := make(chan error, 1)
		go func() {
			n, err := s.Write([]byte("0123456789"))
			if err == nil && n != 10 {
				err = errors.New("short")
			}
			wrote <- err
		}()
		synctest.Wait()
		s.Switch(errors.New("a test"))
		synctest.Wait()
		require.NoError(t, <-wrote)
		require.Equal(t, uint64(11), s.sent.Load())
		require.Equal(t, uint64(4), s.next.Load())
		l2 := newFakeLink(nil)
		err := s.Bind(NewLink{Link: l2, Name: "fake", LinkNo: 2, Peer: wire.Setup{Proc: testPeer, Epoch: 1, LinkNo: 2, Got: 2, Limit: 1 << 62}})
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, uint64(11), s.next.Load())
		s.Abort(net.ErrClosed, "over")
		<-l2.closed
	})
}

// fakeKeeper keeps everything.
type fakeKeeper struct {
	*fakeLink
	before int // bytes that it took before the session had it
}

func (l *fakeKeeper) Taken() uint64 { return 0 }

func (l *fakeKeeper) Kept(from uint64) [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return [][]byte{make([]byte, l.before+l.sent-int(from))}
}

// TestBareStreamIsAligned: whatever came before, the stream begins on a cache line of a ring.
func TestBareStreamIsAligned(t *testing.T) {
	for before := range 70 {
		synctest.Test(t, func(t *testing.T) {
			l := &fakeKeeper{newFakeLink(frame(wire.FrameBare)), before}
			s := New(testGID, false, [32]byte{1}, Config{}, fakeEnv{}, NewPool(0))
			require.NoError(t, s.Bind(NewLink{Link: l, Name: "fake", LinkNo: 1, Peer: wire.Setup{Proc: testPeer, Epoch: 1, LinkNo: 1, Limit: 1 << 62}}))
			defer finish(t, s, l.fakeLink)
			s.Attach(&fakeChannel{})
			synctest.Wait()
			s.tx.lock()
			k := &s.cur.keep
			require.True(t, k.marked)
			require.Zero(t, k.pos%64, "%d bytes before", before)
			s.tx.unlock()
		})
	}
}
