package endpoint

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate/fault"
)

// TestImportWhereItWas: an end that is exported and comes back to its process, as after an upgrade that failed, is another holder, although the
// process is the same: the control channel must be told anew that the connection belongs there.
func TestImportWhereItWas(t *testing.T) {
	for side, away := range map[string]time.Duration{"acceptor": 0, "dialer": 0, "acceptor, after a while": 5 * time.Second, "dialer, after a while": 5 * time.Second} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newCouple(t, fault.Config{Seed: 1}, Config{Session: session.Config{GoneAfter: time.Minute}})
				p.alive(t)
				time.Sleep(time.Second) // the first offer may have overtaken the data link
				require.True(t, p.a.Attached() && p.b.Attached())
				e, s := p.eb, &p.b
				if strings.HasPrefix(side, "dialer") {
					e, s = p.ea, &p.a
				}
				state, err := e.Export(t.Context(), *s)
				require.NoError(t, err)
				time.Sleep(away)
				*s, err = e.Import(t.Context(), state, false)
				require.NoError(t, err)
				start := time.Now()
				p.alive(t)
				time.Sleep(time.Second)
				require.True(t, p.a.Attached(), "dialer")
				require.True(t, p.b.Attached(), "acceptor")
				_, err = p.a.Write([]byte("last words"))
				require.NoError(t, err)
				closed := make(chan error, 1)
				go func() { closed <- p.a.Close() }()
				got := make([]byte, 10)
				require.NoError(t, readFull(p.b, got))
				require.NoError(t, p.b.Close())
				require.NoError(t, <-closed)
				require.Less(t, time.Since(start), 4*time.Second) // a back-off of 2 s, and the second above
				require.LessOrEqual(t, p.a.Snapshot().Lost+p.b.Snapshot().Lost, uint64(1), "only the link that the export ended")
			})
		})
	}
}

// TestImportStays: when the end that was exported is no longer remembered the one that has come back in its place still is.
func TestImportStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCouple(t, fault.Config{Seed: 1}, Config{Session: session.Config{GoneAfter: time.Minute}})
		p.alive(t)
		for _, x := range []struct {
			e *Endpoint
			s **session.Session
		}{{p.ea, &p.a}, {p.eb, &p.b}} {
			state, err := x.e.Export(t.Context(), *x.s)
			require.NoError(t, err)
			*x.s, err = x.e.Import(t.Context(), state, false)
			require.NoError(t, err)
			p.alive(t)
		}
		time.Sleep(2 * p.ea.cfg.Remember)
		p.alive(t)
		require.Len(t, p.ea.Sessions(), 1)
		require.Len(t, p.eb.Sessions(), 1)
	})
}

// TestImportAfterFencing: a process whose end was fenced off gets the connection back from the one that held it meanwhile, also while it
// remembers the end that it lost.
func TestImportAfterFencing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCouple(t, fault.Config{Seed: 1}, Config{})
		p.alive(t)
		ec := New(Config{Substrate: p.n.Host("c"), NoSharing: true})
		defer ec.Close()
		state, err := p.ea.Export(t.Context(), p.a)
		require.NoError(t, err)
		there, err := ec.Import(t.Context(), state, false)
		require.NoError(t, err)
		(&couple{a: there, b: p.b}).alive(t)
		lost, err := p.ea.Import(t.Context(), state, false) // it was thought that the other process had failed
		require.NoError(t, err)
		_, err = lost.Read(make([]byte, 1))
		require.ErrorIs(t, err, session.ErrFenced)
		state, err = ec.Export(t.Context(), there)
		require.NoError(t, err)
		p.a, err = p.ea.Import(t.Context(), state, false)
		require.NoError(t, err)
		p.alive(t)
		time.Sleep(2 * p.ea.cfg.Remember)
		p.alive(t)
	})
}

// TestImportIntoClosed: a state that finds no process to hold it is no state that was used before.
func TestImportIntoClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCouple(t, fault.Config{Seed: 1}, Config{})
		state, err := p.ea.Export(t.Context(), p.a)
		require.NoError(t, err)
		p.ea.Close()
		_, err = p.ea.Import(t.Context(), state, false)
		require.ErrorIs(t, err, net.ErrClosed)
		require.NotErrorIs(t, err, session.ErrStateReplayed)
	})
}

// TestMoveAwayFromDeadHost: an acceptor's end that has moved is found soon, although the initiator, which can't know, still dials the host
// that it has left, where nothing answers any more.
func TestMoveAwayFromDeadHost(t *testing.T) {
	var worst time.Duration
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			p := newCouple(t, fault.Config{Seed: seed}, Config{})
			_, err := p.ea.Listen(t.Context(), "a:1", Plain{})
			require.NoError(t, err)
			ec := New(Config{Substrate: p.n.Host("c"), NoSharing: true})
			defer ec.Close()
			p.a, p.b = p.connect(t) // the peer knows where this one listens
			p.alive(t)
			state, err := p.eb.Export(t.Context(), p.b)
			require.NoError(t, err)
			p.n.Between("a", "b").Blackhole(fault.Both, true)
			time.Sleep(time.Duration(seed) * 500 * time.Millisecond)
			start := time.Now()
			p.b, err = ec.Import(t.Context(), state, false)
			require.NoError(t, err)
			p.alive(t)
			moved := time.Since(start)
			time.Sleep(10 * time.Second)
			p.n.CutAll() // the initiator still knows only the old host
			start = time.Now()
			p.alive(t)
			t.Log(moved, time.Since(start))
			worst = max(worst, moved, time.Since(start))
		})
	}
	require.Less(t, worst, 4*time.Second)
}
