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
	"github.com/sockemu/sockemu/substrate/fault"
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

// late is a listener of a process that isn't run for a while at every deadline for its sends that it sets.
type late struct{ substrate.Listener }

func (l late) Accept() (substrate.Link, error) {
	link, err := l.Listener.Accept()
	return lateLink{link}, err
}

type lateLink struct{ substrate.Link }

func (l lateLink) SetSendDeadline(t time.Time) error {
	err := l.Link.SetSendDeadline(t)
	time.Sleep(200 * time.Millisecond)
	return err
}

// TestBusyLate: a listener on a machine that has too much to do says so, late; it doesn't hang up without a word.
func TestBusyLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := fault.New(fault.Config{HardClose: true})
		defer n.Close()
		b := n.Host("b")
		raw, err := b.Listen(t.Context(), "b:1")
		require.NoError(t, err)
		eb := New(Config{Substrate: b, MaxHandshakes: 1, NoSharing: true})
		defer eb.Close()
		_, err = eb.Serve(late{raw}, Plain{}, false)
		require.NoError(t, err)
		x := n.Host("x")
		silent, err := x.Dial(t.Context(), "b:1")
		require.NoError(t, err)
		defer silent.Close()
		synctest.Wait()
		link, err := x.Dial(t.Context(), "b:1")
		require.NoError(t, err)
		defer link.Close()
		_, _, err = dialHandshake(t.Context(), link, request{kind: wire.KindOpen, gid: gid.New(), my: fresh()})
		var r *session.RefusedError
		require.ErrorAs(t, err, &r)
		require.Equal(t, wire.StatusBusy, r.Status)
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

// TestManyFloods: who has a connection may have many control channels, ask on each, and never read the answers: together they are bounded.
func TestManyFloods(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		const most, channels = 1 << 20, 8
		s.eb.queueMost.Store(most)
		proc, id := gid.NewProcessID(), gid.New()
		data, _, a, err := s.handshake(t, request{kind: wire.KindOpen, gid: id, psk: s.eb.psk, my: wire.Setup{Proc: proc, Epoch: 1, LinkNo: 1, Limit: 1 << 20}})
		require.NoError(t, err)
		acc, err := s.l.Accept()
		require.NoError(t, err)
		mine := session.New(id, true, a.secret(true), session.Config{}, s.ea, s.ea.pool)
		var batch []byte
		for range 1000 {
			batch = (&wire.Record{Type: wire.TypePing}).Append(batch)
		}
		var links []substrate.Link
		for range channels {
			l, a := s.control(t, proc)
			c := &channel{binding: a.binding}
			require.NoError(t, sendAll(l, (&wire.Record{Type: wire.TypeAttach, GID: id, MAC: c.proof(mine, true)}).Append(nil)))
			var have []byte
			require.Equal(t, wire.TypeAttach, nextRecord(t, l, &have).Type)
			links = append(links, l)
		}
		peak := int64(0)
		for range 2 * most / len(batch) {
			for _, l := range links {
				l.SetSendDeadline(time.Now().Add(time.Second))
				sendAll(l, batch)
			}
			synctest.Wait()
			waiting := int64(0)
			for _, c := range s.eb.openChannels() {
				c.mu.Lock()
				waiting += int64(len(c.queue))
				c.mu.Unlock()
			}
			peak = max(peak, waiting)
		}
		require.Greater(t, peak, int64(most/2), "one that is slow isn't given up at once")
		require.LessOrEqual(t, peak, int64(most+channels*(len(batch)+maxStranger)))
		s.alive(t)
		for _, l := range append(links, data) {
			l.Close()
		}
		acc.Session.SetLinger(0)
		acc.Session.Close()
		time.Sleep(time.Minute)
		require.Zero(t, s.eb.queued.Load())
	})
}

// TestProbesFlood: strangers who begin as if they would probe, and then say nothing, take no place from those who do.
func TestProbesFlood(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		for range 2 * probesServed {
			m, _ := opening(t, s.eb.psk, fresh().Append(nil), func(h *wire.Hello) { h.Kind, h.GID = wire.KindProbe, gid.GID{} })
			require.NoError(t, sendAll(s.dial(t), m[:len(m)-1]))
		}
		synctest.Wait()
		require.Len(t, s.eb.slots, 2*probesServed)
		require.Empty(t, s.eb.probing)
		link, _, _, err := s.handshake(t, request{kind: wire.KindProbe, psk: s.eb.psk, my: wire.Setup{Proc: gid.NewProcessID()}})
		require.NoError(t, err)
		_, err = ask(link, nil, wire.ProbeEcho, probePing, probePing)
		require.NoError(t, err)
		for len(s.eb.probing) < cap(s.eb.probing) {
			s.eb.probing <- struct{}{}
		}
		s.handshakeRefused(t, request{kind: wire.KindProbe, psk: s.eb.psk, my: wire.Setup{Proc: gid.NewProcessID()}}, wire.StatusBusy, "probe")
		for range probesServed - 1 { // but the first one's
			<-s.eb.probing
		}
	})
}
