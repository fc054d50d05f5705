package endpoint

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// TestHandshakeFlood: more silent dialers than there is room for.
func TestHandshakeFlood(t *testing.T) {
	const room, more = 16, 40
	besiege(t, Config{MaxHandshakes: room}, func(t *testing.T, s *siege) {
		synctest.Wait()
		var silent []substrate.Link
		for range room {
			silent = append(silent, s.dial(t))
			synctest.Wait()
		}
		require.Len(t, s.eb.slots, room)
		goroutines := runtime.NumGoroutine()
		for range more {
			l := s.dial(t)
			r, err := wire.ParseReply(answer(t, l))
			require.NoError(t, err)
			require.Equal(t, wire.StatusBusy, r.Status)
		}
		require.EqualValues(t, more, s.eb.count.busy.Load())
		require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+2)
		s.alive(t)

		// An honest client gets in as soon as there is room; see TestBusyBeforeHello and TestHostileTCP for one that comes earlier.
		time.Sleep(s.eb.cfg.HandshakeTimeout + time.Second)
		a, b := s.connect(t)
		exchange(t, a, b)
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		for _, l := range silent {
			l.Close()
		}
	})
}

// TestBusyBeforeHello: the refusal has arrived before the dialer says its first word. It counts nevertheless.
func TestBusyBeforeHello(t *testing.T) {
	besiege(t, Config{MaxHandshakes: 1}, func(t *testing.T, s *siege) {
		silent := s.dial(t)
		synctest.Wait()
		time.AfterFunc(time.Second, func() { silent.Close() })
		a, b := s.connect(t)
		exchange(t, a, b)
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	})
}

// TestBacklogFull: clients that nobody accepts are told to come back.
func TestBacklogFull(t *testing.T) {
	besiege(t, Config{Backlog: 2}, func(t *testing.T, s *siege) {
		var list []*session.Session
		for range 2 {
			a, err := s.ea.Dial(t.Context(), "b:1", 0)
			require.NoError(t, err)
			list = append(list, a)
		}
		synctest.Wait()
		s.handshakeRefused(t, request{kind: wire.KindOpen, gid: gid.New(), psk: s.eb.psk, my: fresh()}, wire.StatusBusy, "backlog")
		for _, a := range list {
			acc, err := s.l.Accept()
			require.NoError(t, err)
			a.Close()
			acc.Session.Close()
		}
	})
}
