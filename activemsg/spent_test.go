package activemsg

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSpent: who waited for a message has it before its slot is released. That follows when he looks again, or soon if he doesn't.
func TestSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var none, h Handlers
		w := NewWaiter()
		h.Quick(idShort, func(*Msg) { w.Wake() })
		a, b := endpoints(t, looked, &none, &h, Config{Death: time.Hour}, Config{Death: time.Hour})
		for range 10 {
			for range 5 { // in quick succession: the receiving goroutine stays aside
				woken := make(chan struct{})
				go func() { b.Wait(w, nil); close(woken) }()
				require.NoError(t, a.Short(t.Context(), idShort, [4]uint64{}))
				<-woken
				require.LessOrEqual(t, b.in.held(), uint32(spentMost))
			}
			time.Sleep(3 * asideMost) // it may find out twice only that somebody has looked meanwhile
			require.Zero(t, b.in.held(), "nobody looks any more")
		}
	})
}

// TestHungry: a release is never missed by who has just found no credit, whether he waits for one or is told.
func TestHungry(t *testing.T) {
	const size, each, takers = 2, 2000, 3
	w := window{size: size, mu: new(sync.Mutex)}
	e := &Endpoint{done: make(chan struct{})}
	credit := make(chan struct{}, 1)
	sent := make(chan struct{}, takers*each)
	var all sync.WaitGroup
	for i := range takers {
		all.Go(func() {
			for range each {
				if i > 0 {
					if err := w.take(t.Context(), e); err != nil {
						t.Error(err)
						return
					}
				} else {
					for {
						w.mu.Lock()
						ok := w.try()
						w.mu.Unlock()
						if ok {
							break
						}
						await(t, credit)
					}
				}
				w.sent.Add(1) // by who holds tx, otherwise
				sent <- struct{}{}
			}
		})
	}
	for n := range uint32(takers * each) {
		await(t, sent)
		_, tell, err := w.advance(n + 1)
		require.NoError(t, err)
		if tell {
			select {
			case credit <- struct{}{}:
			default:
			}
		}
	}
	all.Wait()
	require.True(t, w.line.empty())
}
