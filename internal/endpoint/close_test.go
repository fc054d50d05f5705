package endpoint

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate/fault"
	"github.com/sockemu/sockemu/wire"
)

// parting is what a connection without a channel gives its peer to read that it has ended, when the endpoint's patience with it is over.
const parting = 100 * time.Millisecond

// closing is how long Close of an endpoint takes.
func closing(t *testing.T, e *Endpoint) time.Duration {
	t.Helper()
	start := time.Now()
	require.NoError(t, e.Close())
	return time.Since(start)
}

// TestCloseOfAStuckEndpoint: neither a connection that lingers nor a control channel that takes nothing holds it up, nor both.
func TestCloseOfAStuckEndpoint(t *testing.T) {
	for _, lingers := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newCouple(t, fault.Config{Seed: 1, Buffer: 1 << 10}, Config{})
			p.alive(t)
			synctest.Wait() // the control channel is up
			channels := p.ea.openChannels()
			require.Len(t, channels, 1)
			p.n.Partition("a", "b")
			for range 1000 {
				channels[0].Post(&wire.Record{Type: wire.TypePing})
			}
			closed := make(chan error, 1)
			if lingers {
				_, err := p.a.Write([]byte("never arrives"))
				require.NoError(t, err)
				go func() { closed <- p.a.Close() }()
			} else {
				closed <- nil
			}
			synctest.Wait()
			require.LessOrEqual(t, closing(t, p.ea), closeGrace+parting)
			<-closed
		})
	}
}

// TestCloseOfManyConnections: their peers don't answer, and all of them together are given what one is given.
func TestCloseOfManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCouple(t, fault.Config{Seed: 1}, Config{Session: session.Config{Seal: true}}) // each must be told on its own link
		for range 100 {
			p.connect(t)
		}
		p.n.Partition("a", "b")
		require.LessOrEqual(t, closing(t, p.ea), closeGrace)
	})
}
