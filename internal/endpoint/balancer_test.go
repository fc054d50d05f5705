package endpoint

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate/fault"
)

// TestAnotherProcessAnswers: a load balancer sends whatever comes second to another process. The connection does without a
// control channel, and when its link is lost there, it says so instead of talking to the wrong one.
func TestAnotherProcessAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCouple(t, fault.Config{Seed: 2}, Config{Session: session.Config{GoneAfter: 5 * time.Second}})
		other := New(Config{Substrate: c.n.Host("c"), NoSharing: true})
		defer other.Close()
		ol, err := other.Listen(t.Context(), "c:1", Plain{})
		require.NoError(t, err)
		synctest.Wait() // the couple's own channel is there, so the next to dial is the one that counts
		// b doesn't say where it is: only the balancer's address is known.
		var second atomic.Bool
		c.n.Route(func(from, to string) string {
			if from == "a" && second.Swap(true) {
				return "c:1"
			}
			return to
		})
		a, b := c.connect(t)
		conn := &couple{a: a, b: b}
		for range 3 {
			conn.alive(t)
			time.Sleep(20 * time.Second)
		}
		require.Empty(t, other.Sessions())
		require.Empty(t, ol.queue)
		c.n.CutAll()
		_, err = a.Read(make([]byte, 1))
		require.ErrorIs(t, err, session.ErrPeerGone)
		require.Empty(t, other.Sessions(), "the wrong process has nothing")
	})
}

// TestRightProcessInTheEnd: where an attempt takes long, few wrong answers within GoneAfter are no reason to give the connection up: the load
// balancer finds the right process later.
func TestRightProcessInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCouple(t, fault.Config{Seed: 2}, Config{Session: session.Config{GoneAfter: 5 * time.Second}})
		other := New(Config{Substrate: c.n.Host("c"), NoSharing: true})
		defer other.Close()
		_, err := other.Listen(t.Context(), "c:1", Plain{})
		require.NoError(t, err)
		var wrong atomic.Bool
		c.n.Route(func(from, to string) string {
			if from == "a" && wrong.Load() {
				return "c:1"
			}
			return to
		})
		c.n.All().Shape(fault.Both, fault.Shape{Delay: time.Second})
		c.alive(t)
		wrong.Store(true)
		c.n.CutAll()
		time.Sleep(12 * time.Second)
		require.NoError(t, c.a.Snapshot().Err)
		wrong.Store(false)
		c.alive(t)
		require.GreaterOrEqual(t, c.a.Snapshot().FailedDial, uint64(2))
	})
}
