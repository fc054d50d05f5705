package activemsg

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWait has several dialogues at a time whose ends wait for their turns with Wait, while one goroutine waits for what never comes: each
// message wakes the one that it is for.
func TestWait(t *testing.T) {
	each(t, func(t *testing.T, m maker) {
		const pairs, rounds = 4, 500
		var h [2]Handlers
		var waiters [2][pairs]*Waiter
		var arrived [2][pairs]atomic.Uint64
		for side := range 2 {
			for i := range pairs {
				waiters[side][i] = NewWaiter()
			}
			h[side].Quick(idShort, func(m *Msg) {
				args := m.Args()
				arrived[side][args[0]].Store(args[1])
				waiters[side][args[0]].Wake()
			})
		}
		var end [2]*Endpoint
		end[0], end[1] = endpoints(t, m, &h[0], &h[1], calm, calm)
		never := NewWaiter()
		idle := make(chan struct{})
		go func() { end[0].Wait(never, nil); close(idle) }()
		var all sync.WaitGroup
		for i := range uint64(pairs) {
			for side := range 2 {
				all.Go(func() {
					for round := uint64(1); round <= rounds; round++ {
						if side == 0 {
							if err := end[0].Short(t.Context(), idShort, [4]uint64{i, round}); err != nil {
								t.Error(err)
								return
							}
						}
						for arrived[side][i].Load() < round {
							end[side].Wait(waiters[side][i], nil)
						}
						if side == 1 {
							if err := end[1].Short(t.Context(), idShort, [4]uint64{i, round}); err != nil {
								t.Error(err)
								return
							}
						}
					}
				})
			}
		}
		done := make(chan struct{})
		go func() { all.Wait(); close(done) }()
		await(t, done)
		never.Wake()
		await(t, idle)
	})
}

// TestWaitMore: what has come together is handled as far as who waits wants it, the rest by the next.
func TestWaitMore(t *testing.T) {
	var none, h Handlers
	var handled atomic.Int32
	w := NewWaiter()
	h.Quick(idShort, func(*Msg) { handled.Add(1); w.Wake() })
	b := new(Endpoint)
	x, y := looked(t)
	a, err := New(x, &none, calm)
	require.NoError(t, err)
	defer a.Close()
	// No receiving goroutine: only Wait receives.
	b.carrier, b.handlers, b.limits, b.done = y, &h, y.Limits(), make(chan struct{})
	b.in.init(dataSlots(y.Limits()))
	b.poller = y.(Poller)
	b.turn.back = make(chan struct{}, 1)
	b.owed.kick = make(chan struct{}, 1)
	for range 5 {
		require.NoError(t, a.Short(within(t), idShort, [4]uint64{}))
	}
	b.Wait(w, func() bool { return handled.Load() < 3 })
	require.EqualValues(t, 3, handled.Load())
	for handled.Load() < 5 {
		b.Wait(w, nil)
	}
}

// TestWaitIdle: who waits for long sleeps, and so does everybody else; a message is handled at once by the receiving goroutine then.
func TestWaitIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var none, h Handlers
		w := NewWaiter()
		h.Quick(idShort, func(*Msg) { w.Wake() })
		a, b := endpoints(t, looked, &none, &h, Config{Death: time.Hour}, Config{Death: time.Hour})
		for range 3 {
			woken := make(chan time.Duration, 1)
			began := time.Now()
			go func() { b.Wait(w, nil); woken <- time.Since(began) }()
			time.Sleep(time.Second)
			synctest.Wait() // fails if anybody looks for ever
			require.Empty(t, woken)
			require.NoError(t, a.Short(t.Context(), idShort, [4]uint64{}))
			require.Equal(t, time.Second, <-woken)
		}
	})
}

// TestLeft: when who looked has gone, messages that nobody waits for are handled all the same, after a moment at most.
func TestLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var none, h Handlers
		w := NewWaiter()
		h.Quick(idShort, func(*Msg) { w.Wake() })
		got := make(chan struct{}, 10)
		h.Quick(idReply, func(*Msg) { got <- struct{}{} })
		a, b := endpoints(t, looked, &none, &h, Config{Death: time.Hour}, Config{Death: time.Hour})
		for range 10 {
			woken := make(chan struct{})
			go func() { b.Wait(w, nil); close(woken) }()
			require.NoError(t, a.Short(t.Context(), idShort, [4]uint64{}))
			<-woken
			sent := time.Now()
			require.NoError(t, a.Short(t.Context(), idReply, [4]uint64{}))
			<-got
			require.LessOrEqual(t, time.Since(sent), 2*asideTime)
		}
	})
}

// TestPause: coming back in vain, as in a slow dialogue, happens less and less; a message that had to wait for it ends that.
func TestPause(t *testing.T) {
	pause := asideTime
	for range 10 {
		next := nextPause(pause, false, true)
		require.GreaterOrEqual(t, next, pause)
		pause = next
	}
	require.Equal(t, asideMost, pause)
	require.Equal(t, pause, nextPause(pause, false, false))
	require.Equal(t, asideTime, nextPause(pause, true, true))
}
