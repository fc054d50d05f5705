package activemsg

import (
	"context"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestDataSlots(t *testing.T) {
	for slots, want := range map[int]uint32{1: 1, 2: 2, 3: 2, 127: 64, 128: 128, 1 << 20: maxSlots} {
		require.Equal(t, want, dataSlots(Limits{Slots: ControlSlots + slots}), "%d", slots)
	}
}

func TestSlots(t *testing.T) {
	for _, base := range []uint32{0, 1<<32 - 3} { // also where numbers wrap
		var s slots
		s.init(4)
		s.arrived.Store(base)
		s.prefix.Store(base)
		s.told.Store(base)
		require.Error(t, s.arrive(base+1))
		for i := range uint32(4) {
			require.False(t, s.due())
			require.NoError(t, s.arrive(base+i))
		}
		require.Error(t, s.arrive(base+4))
		require.True(t, s.crowded())
		s.release(base + 2)
		require.EqualValues(t, 4, s.held(), "only a prefix counts")
		s.release(base)
		require.EqualValues(t, 3, s.held())
		require.True(t, s.due(), "the peer has used all credits it knows of")
		require.Error(t, s.arrive(base+4), "the peer doesn't know yet")
		require.Equal(t, base+1, s.tell())
		require.False(t, s.due())
		require.NoError(t, s.arrive(base+4))
		s.release(base + 1)
		require.EqualValues(t, 2, s.held())
		require.True(t, s.due(), "half")
		require.Equal(t, base+3, s.tell())
		s.release(base + 3)
		s.release(base + 4)
		require.Zero(t, s.held())
	}
}

func tries(w *window) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.try()
}

func TestWindow(t *testing.T) {
	w := window{size: 2, mu: new(sync.Mutex)}
	e := &Endpoint{done: make(chan struct{})}
	require.NoError(t, w.take(t.Context(), e))
	try := func() bool { return tries(&w) }
	require.True(t, try())
	require.False(t, try())
	n, tell, err := w.advance(0)
	require.NoError(t, err)
	require.Zero(t, n)
	require.False(t, tell)
	_, _, err = w.advance(1)
	require.ErrorIs(t, err, errOverRelease, "nothing was sent yet")
	w.sent.Store(2)
	_, _, err = w.advance(3)
	require.ErrorIs(t, err, errOverRelease)
	_, _, err = w.advance(1<<32 - 1)
	require.ErrorIs(t, err, errOverRelease)

	// Those who wait are served in turn, and before those who come later.
	var line [3]chan error
	for i := range line {
		line[i] = make(chan error, 1)
		go func() { line[i] <- w.take(t.Context(), e) }()
		for waiting := 0; waiting <= i; {
			w.mu.Lock()
			waiting = 0
			for c := w.line.first; c != nil; c = c.next {
				waiting++
			}
			w.mu.Unlock()
		}
	}
	_, tell, err = w.advance(1)
	require.NoError(t, err)
	require.False(t, tell, "it is taken")
	require.NoError(t, await(t, line[0]))
	require.False(t, try())
	require.Empty(t, line[1])
	require.False(t, w.giveBack(), "it is taken")
	require.NoError(t, await(t, line[1]))
	w.sent.Store(3)
	_, tell, err = w.advance(3)
	require.NoError(t, err)
	require.NoError(t, await(t, line[2]))
	require.True(t, tell, "one is left for who tried")
	require.True(t, try())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, w.take(ctx, e), context.Canceled)
	e.ending.Store(true)
	close(e.done)
	require.ErrorIs(t, w.take(t.Context(), e), net.ErrClosed)
	require.True(t, w.line.empty())
}

// TestCreditGivenBack: who has tried in vain is told of a credit that comes back unused, too: nothing may be under way that would bring another.
func TestCreditGivenBack(t *testing.T) {
	w := window{size: 1, mu: new(sync.Mutex)}
	try := func() bool { return tries(&w) }
	require.True(t, try())
	require.False(t, try())
	require.True(t, w.giveBack())
	require.True(t, try())
	require.True(t, func() bool { w.sent.Store(1); _, _, err := w.advance(1); return err == nil }())

	// Who waits gives up just when a credit is given to him.
	e := &Endpoint{done: make(chan struct{})}
	e.owed.kick = make(chan struct{}, 1)
	for n := uint32(2); n < 100; n++ {
		require.True(t, try())
		require.False(t, try())
		ctx, cancel := context.WithCancel(t.Context())
		took := make(chan error)
		go func() { took <- w.take(ctx, e) }()
		for waits := false; !waits; {
			w.mu.Lock()
			waits = !w.line.empty()
			w.mu.Unlock()
		}
		w.mu.Lock()
		cancel()
		for range 100 { // until he waits for the lock, most likely
			runtime.Gosched()
		}
		w.sent.Store(n)
		w.released.Store(n)
		tell := w.freed()
		w.mu.Unlock()
		if err := await(t, took); err == nil {
			require.Equal(t, !tell, w.giveBack(), "once")
			continue
		}
		require.True(t, try())
		require.True(t, tell || e.owed.credit)
		e.owed.credit = false
		require.False(t, w.giveBack(), "it was told already")
	}
}

// TestGrants plays sender, receiver and the wires between them in every order: at most two grants are ever under way, the receiver is never
// overrun, and a sender without credits gets some as soon as a slot is free.
func TestGrants(t *testing.T) {
	type segment struct {
		grant    bool
		released uint32
	}
	rapid.Check(t, func(t *rapid.T) {
		size := uint32(1) << rapid.IntRange(0, 5).Draw(t, "log size")
		var s slots
		s.init(size)
		w := window{size: size, mu: new(sync.Mutex)}
		var there []uint32  // data under way to the receiver
		var back []segment  // and to the sender
		var unread []uint32 // in the receiver's slots
		grants := func() (n int) {
			for _, b := range back {
				if b.grant {
					n++
				}
			}
			return n
		}
		step := func(kind int) {
			switch {
			case kind < 3 && w.try():
				there = append(there, w.sent.Add(1)-1)
			case kind < 5 && len(there) > 0:
				require.NoError(t, s.arrive(there[0]))
				unread, there = append(unread, there[0]), there[1:]
			case kind < 7 && len(unread) > 0:
				i := rapid.IntRange(0, len(unread)-1).Draw(t, "which")
				s.release(unread[i])
				unread = append(unread[:i], unread[i+1:]...)
			case kind == 7:
				if s.due() { // as the keeper does it
					back = append(back, segment{true, s.tell()})
				}
			case kind == 8:
				back = append(back, segment{false, s.tell()})
			case kind == 9 && len(back) > 0:
				_, _, err := w.advance(back[0].released)
				require.NoError(t, err)
				back = back[1:]
			}
			require.LessOrEqual(t, grants(), 2)
			require.LessOrEqual(t, len(there)+len(unread), int(size))
		}
		for range rapid.IntRange(0, 300).Draw(t, "steps") {
			step(rapid.IntRange(0, 9).Draw(t, "step"))
		}
		// When all that is under way has come and the keeper has looked, who has no credit knows that there is no slot.
		for len(there) > 0 || len(back) > 0 || s.due() {
			for len(there) > 0 {
				step(3)
			}
			step(7)
			for len(back) > 0 {
				step(9)
			}
		}
		require.Equal(t, s.held() < size, w.try())
	})
}
