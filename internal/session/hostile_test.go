package session

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/wire"
)

// What a peer that breaks the protocol (or has lost its mind) must not be able to do. It holds the secret: nobody else gets
// this far.

// TestAckOfBytesNotSent: bytes in the send buffer that no link was ever given can't have arrived.
func TestAckOfBytesNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := NewPool(0)
		l := newFakeLink(nil)
		s := New(testGID, false, [32]byte{}, Config{Linger: time.Millisecond}, fakeEnv{}, pool)
		defer finish(t, s, l)
		bindFake(t, s, l) // the peer may be sent 50 bytes
		_, err := s.Write(make([]byte, 1000))
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, uint64(50), s.next.Load())
		s.OnRecord(&wire.Record{Type: wire.TypeState, GID: testGID, Ack: 50, LinkNo: 1})
		require.NoError(t, s.Snapshot().Err)
		s.OnRecord(&wire.Record{Type: wire.TypeState, GID: testGID, Ack: 100, LinkNo: 1})
		// With a Limit of 1000 in that record the pump goes on from byte 50, which is released: it panics.
		require.ErrorIs(t, s.Snapshot().Err, ErrProtocol)
	})
}

// TestAckOvertakesSend: an acknowledgement of what a Send has yet to take is settled when the link takes less.
func TestAckOvertakesSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := NewPool(0)
		l := newFakeLink(nil)
		s := New(testGID, false, [32]byte{}, Config{Linger: time.Second}, fakeEnv{}, pool)
		defer finish(t, s, l)
		bindFake(t, s, l)
		ch := &fakeChannel{}
		s.Attach(ch)
		synctest.Wait() // bare now
		l.mu.Lock()
		l.send = func(n int) (int, error) {
			<-l.gone
			return 10, net.ErrClosed
		}
		l.mu.Unlock()
		wrote := make(chan error, 1)
		go func() {
			_, err := s.Write(make([]byte, 1000))
			wrote <- err
		}()
		synctest.Wait()
		s.OnChannelRecord(ch, &wire.Record{Type: wire.TypeState, GID: testGID, Ack: 900, LinkNo: 1})
		s.Switch(net.ErrClosed) // the link has taken 10 bytes
		synctest.Wait()
		sn := s.Snapshot()
		if sn.Err == nil { // the Write goes on: acknowledged and sent must fit together again
			require.LessOrEqual(t, s.acked.Load(), s.sent.Load())
		} else {
			require.ErrorIs(t, sn.Err, ErrProtocol)
		}
		s.Abort(net.ErrClosed, "over")
		<-wrote
	})
}

// TestFinBehindRead: a peer sends on behind the end of its stream, while a Read is waiting on the bare link.
func TestFinBehindRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := NewPool(0)
		l := newFakeLink(frame(wire.FrameBare))
		s := New(testGID, false, [32]byte{}, Config{Linger: time.Millisecond}, fakeEnv{}, pool)
		defer finish(t, s, l)
		bindFake(t, s, l)
		ch := &fakeChannel{}
		s.Attach(ch)
		synctest.Wait()
		var got []byte
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			got, err = io.ReadAll(s)
		}()
		synctest.Wait()
		s.OnChannelRecord(ch, &wire.Record{Type: wire.TypeState, Flags: wire.StateFin, GID: testGID, LinkNo: 1, Sent: 5})
		synctest.Wait()
		l.feed([]byte("five+too much"))
		select {
		case <-done:
		case <-time.After(time.Hour):
			s.Abort(net.ErrClosed, "over")
			<-done
			t.Errorf("Read returned %q of a stream of 5 bytes and waits for more", got)
		}
		if err == nil {
			require.Equal(t, "five+", string(got))
		} else {
			require.ErrorIs(t, err, ErrProtocol)
		}
	})
}

// TestCloseGivesMemoryBack: in whatever order a connection ends and is closed.
func TestCloseGivesMemoryBack(t *testing.T) {
	for name, linger := range map[string]int{"lingering": 1, "with a reset": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := NewPool(0)
				l := newFakeLink(frame(wire.FrameData, []byte("never read")...))
				s := bound(t, l, Config{}, pool)
				synctest.Wait()
				s.Write([]byte("never acknowledged"))
				s.OnRecord(&wire.Record{Type: wire.TypeReset, GID: testGID, Code: wire.StatusClosed})
				synctest.Wait()
				p := make([]byte, 5)
				_, err := s.Read(p)
				require.NoError(t, err, "what has arrived can be read after the end")
				s.SetLinger(linger)
				s.Close()
				synctest.Wait()
				require.Zero(t, pool.Used())
			})
		})
	}
}

// TestCloseTimerIsStopped: Close after the end leaves nothing behind that keeps the session in memory.
func TestCloseTimerIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLink(nil)
		s := bound(t, l, Config{Linger: 24 * time.Hour}, NewPool(0))
		s.Abort(ErrReset, "")
		s.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closeTimer != nil {
			require.False(t, s.closeTimer.Stop(), "a timer of %v was running for a connection that is over", 24*time.Hour)
		}
	})
}

// TestCloseRacesWithEnd is for the race detector: the end comes from the network while Close is at work.
func TestCloseRacesWithEnd(t *testing.T) {
	for range 300 {
		l := newFakeLink(nil)
		s := bound(t, l, Config{Linger: time.Second}, NewPool(0))
		var wg sync.WaitGroup
		wg.Go(func() { s.Close() })
		wg.Go(func() {
			s.OnRecord(&wire.Record{Type: wire.TypeState, GID: testGID, LinkNo: 1, Flags: wire.StateFin | wire.StateFinSeen | wire.StateDone | wire.StateClosed})
			s.OnRecord(&wire.Record{Type: wire.TypeState, GID: testGID, LinkNo: 1, Flags: wire.StateFin | wire.StateFinSeen | wire.StateDone | wire.StateClosed})
			s.Abort(ErrReset, "")
		})
		wg.Wait()
		within(t, l.closed, "the link isn't closed")
	}
}

// TestRecordModeViolations: each ends the connection with ErrProtocol, at once, in whatever pieces it arrives.
func TestRecordModeViolations(t *testing.T) {
	state := wire.Record{Type: wire.TypeState, GID: testGID, LinkNo: 1}
	other := wire.Record{Type: wire.TypeState, GID: [16]byte{9}, LinkNo: 1}
	fin := wire.Record{Type: wire.TypeState, GID: testGID, LinkNo: 1, Flags: wire.StateFin, Sent: 3}
	finLater := fin
	finLater.Sent = 4
	acks := state
	acks.Ack = 1
	var cut []byte
	cut = state.Append(cut)
	for name, in := range map[string][]byte{
		"unknown frame":                 {9, 0, 0, 0},
		"frame of 16 MiB":               {1, 255, 255, 255},
		"control frame of 64 KiB + 1":   {2, 1, 0, 1},
		"bare with a body":              {3, 0, 0, 64},
		"beyond the window":             concat(frame(wire.FrameData, make([]byte, 4000)...), frame(wire.FrameData, make([]byte, 97)...)),
		"beyond the window in one":      frame(wire.FrameData, make([]byte, 5000)...),
		"beyond the end":                concat(ctl(fin), frame(wire.FrameData, []byte("four")...)),
		"an end behind what has come":   concat(frame(wire.FrameData, []byte("four")...), ctl(fin)),
		"an end that moves":             ctl(fin, finLater),
		"truncated record":              frame(wire.FrameCtrl, cut[:len(cut)-1]...),
		"unknown mandatory record":      frame(wire.FrameCtrl, 9, 0, 0, 0),
		"record of another connection":  ctl(other),
		"acknowledges what wasn't sent": ctl(acks),
		"garbage behind a good frame":   concat(ctl(state), bytes.Repeat([]byte{0xff}, 300)),
	} {
		for _, piece := range []int{0, 1, 3} {
			synctest.Test(t, func(t *testing.T) {
				l := newFakeLink(in)
				l.piece = piece
				s := bound(t, l, Config{RecvBuffer: 4096, Linger: time.Millisecond}, NewPool(0))
				defer finish(t, s, l)
				synctest.Wait()
				require.ErrorIs(t, s.Snapshot().Err, ErrProtocol, "%s, in pieces of %d", name, piece)
				for {
					_, err := s.Read(make([]byte, 1000))
					if err != nil {
						require.ErrorIs(t, err, ErrProtocol)
						break
					}
				}
				_, err := s.Write([]byte{1})
				require.ErrorIs(t, err, ErrProtocol)
			})
		}
	}
}

// TestBareBeyondTheEnd: bytes that come with the switch to bare mode, but behind the end of the stream, are a violation; those that come
// later are never read.
func TestBareBeyondTheEnd(t *testing.T) {
	fin := wire.Record{Type: wire.TypeState, GID: testGID, LinkNo: 1, Sent: 3, Flags: wire.StateFin}
	for _, piece := range []int{0, 1, 5} {
		synctest.Test(t, func(t *testing.T) {
			l := newFakeLink(concat(ctl(fin), frame(wire.FrameBare), []byte("abcdef")))
			l.piece = piece
			s := bound(t, l, Config{Linger: time.Millisecond, parting: time.Millisecond}, NewPool(0))
			defer finish(t, s, l)
			synctest.Wait()
			got, err := io.ReadAll(s)
			require.LessOrEqual(t, len(got), 3)
			if piece == 0 {
				require.ErrorIs(t, err, ErrProtocol)
			} else {
				require.NoError(t, err)
				require.Equal(t, "abc", string(got))
			}
		})
	}
}

// TestIgnoredInRecordMode: optional records, and those that are none of a session's business.
func TestIgnoredInRecordMode(t *testing.T) {
	in := concat(
		frame(wire.FrameData), frame(wire.FrameCtrl), frame(wire.FrameCtrl, 200, 7, 0, 3, 1, 2, 3),
		ctl(wire.Record{Type: wire.TypePing}, wire.Record{Type: wire.TypeAttach, GID: testGID}, wire.Record{Type: wire.TypeNak, GID: testGID}),
		frame(wire.FrameData, []byte("hello")...),
	)
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLink(in)
		s := bound(t, l, Config{Linger: time.Millisecond}, NewPool(0))
		defer finish(t, s, l)
		p := make([]byte, 10)
		n, err := s.Read(p)
		require.NoError(t, err)
		require.Equal(t, "hello", string(p[:n]))
	})
}

// TestStrangerChannel: records over a channel that leads to another process than the holder of the other end count nothing.
func TestStrangerChannel(t *testing.T) {
	l := newFakeLink(nil)
	s := bound(t, l, Config{Linger: time.Millisecond}, NewPool(0))
	defer finish(t, s, l)
	s.mu.Lock()
	s.peer[0]++
	s.mu.Unlock()
	s.OnChannelRecord(&fakeChannel{}, &wire.Record{Type: wire.TypeReset, GID: testGID})
	s.OnChannelRecord(&fakeChannel{}, &wire.Record{Type: wire.TypeState, GID: testGID, Ack: 1 << 60})
	require.NoError(t, s.Snapshot().Err)
}

// TestDrainIsBounded: a peer that fills one bare link after the other and lets it break has no more of it here, unread, than the window:
// what isn't taken out of a dead link comes again.
func TestDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window, size = 1 << 20, 4 << 20
		const head = 256 // per link: what comes in one piece with the switch to bare mode
		s := New(testGID, false, [32]byte{1}, Config{Linger: time.Millisecond, RecvBuffer: window}, fakeEnv{}, NewPool(0))
		s.Attach(&fakeChannel{})
		var l *fakeLink
		for no := uint64(1); no <= 10; no++ {
			l = newFakeLink(append(frame(wire.FrameBare), make([]byte, size)...))
			require.NoError(t, s.Bind(NewLink{Link: l, Name: "fake", LinkNo: no, Peer: wire.Setup{Proc: testPeer, Epoch: 1, LinkNo: no}}))
			synctest.Wait()
			s.Switch(net.ErrClosed)
			synctest.Wait()
			require.LessOrEqual(t, s.pend.Len(), window+int(no)*head)
		}
		defer finish(t, s, l)
		require.GreaterOrEqual(t, s.pend.Len(), window, "as much as fits")
		got := make([]byte, window)
		_, err := io.ReadFull(s, got)
		require.NoError(t, err)
	})
}
