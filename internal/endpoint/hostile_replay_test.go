package endpoint

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
	"github.com/sockemu/sockemu/wire"
)

// recorder is a substrate that keeps what is sent on the links it dials.
type recorder struct {
	substrate.Substrate
	mu    sync.Mutex
	tapes []*tape
}

type tape struct {
	substrate.Link
	r    *recorder
	sent []byte
}

func (r *recorder) Dial(ctx context.Context, a string) (substrate.Link, error) {
	l, err := r.Substrate.Dial(ctx, a)
	if err != nil {
		return nil, err
	}
	t := &tape{Link: l, r: r}
	r.mu.Lock()
	r.tapes = append(r.tapes, t)
	r.mu.Unlock()
	return t, nil
}

func (t *tape) Send(off uint64, bufs [][]byte) (int, error) {
	t.r.mu.Lock()
	for _, b := range bufs {
		t.sent = append(t.sent, b...)
	}
	t.r.mu.Unlock()
	return t.Link.Send(off, bufs)
}

// of returns what was sent on the links of a kind, oldest first.
func (r *recorder) of(k wire.Kind) (list [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tapes {
		if h, err := wire.ParseHello(t.sent[:min(len(t.sent), wire.HelloSize)]); err == nil && h.Kind == k {
			list = append(list, bytes.Clone(t.sent))
		}
	}
	return list
}

// taped adds a client on host "c" whose bytes are recorded.
func (s *siege) taped(t *testing.T) (*recorder, *Endpoint, *couple) {
	r := &recorder{Substrate: s.n.Host("c")}
	e := New(Config{Substrate: r, NoSharing: true})
	t.Cleanup(func() { e.Close() })
	c := &couple{n: s.n, ea: e, eb: s.eb, l: s.l}
	c.a, c.b = c.connect(t)
	c.alive(t)
	return r, e, c
}

func TestReplayedOpen(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		r, e, c := s.taped(t)
		open := r.of(wire.KindOpen)[0]
		s.refused(t, open, wire.StatusStale, "while the connection lives")
		c.alive(t)
		require.NoError(t, c.a.Close())
		require.NoError(t, c.b.Close())
		time.Sleep(2 * s.eb.cfg.Remember)
		require.Nil(t, s.eb.lookup(c.a.GID(), false), "forgotten")

		for range 3 {
			l := s.dial(t)
			require.NoError(t, sendAll(l, open)) // the Confirm and data included
			got := answer(t, l)
			reply, err := wire.ParseReply(got[:wire.ReplySize])
			require.NoError(t, err)
			require.Equal(t, wire.StatusOK, reply.Status, "a recording is found out by its third message")
			require.Len(t, got, wire.ReplySize+reply.NoiseLen, "and told nothing")
		}
		require.Nil(t, s.eb.lookup(c.a.GID(), false))
		require.Empty(t, s.l.queue, "nothing to accept")
		for _, ctl := range r.of(wire.KindControl) {
			before := len(s.eb.openChannels())
			l := s.dial(t)
			require.NoError(t, sendAll(l, ctl))
			answer(t, l)
			require.LessOrEqual(t, len(s.eb.openChannels()), before)
		}
		e.Close()
	})
}

func TestReplayedResume(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		r, e, c := s.taped(t)
		for range 2 {
			s.n.Between("c", "b").Cut()
			c.alive(t)
		}
		tapes := r.of(wire.KindResume)
		require.GreaterOrEqual(t, len(tapes), 2)
		before := c.b.Snapshot()
		for range 3 {
			for _, resume := range tapes {
				s.refused(t, resume, wire.StatusOvertaken, "verbatim")
			}
		}
		after := c.b.Snapshot()
		require.Equal(t, before.Links, after.Links)
		require.Equal(t, before.Lost, after.Lost)
		require.Equal(t, before.LinkNo, after.LinkNo)
		c.alive(t)
		c.a.Close()
		c.b.Close()
		e.Close()
	})
}

// TestStolenResume: a RESUME that was recorded on its way and never arrived can be played once. It costs a link and nothing else.
func TestStolenResume(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		r, e, c := s.taped(t)
		s.n.Between("c", "b").Blackhole(fault.Forward, true)
		c.a.Switch(errors.New("look for another path"))
		time.Sleep(time.Second)
		s.n.Between("c", "b").Blackhole(fault.Forward, false)
		_, err := c.a.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadFull(c.b, make([]byte, 1))
		require.NoError(t, err)
		links := c.b.Snapshot().Links
		for range 3 {
			for _, resume := range r.of(wire.KindResume) {
				l := s.dial(t)
				require.NoError(t, sendAll(l, resume))
				answer(t, l)
			}
		}
		c.alive(t)
		require.LessOrEqual(t, c.b.Snapshot().Links, links+1)
		c.a.Close()
		c.b.Close()
		e.Close()
	})
}

// TestHijack: what somebody can't do who knows a connection's GID, or even its secret but not its place in time.
func TestHijack(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		id, secret := s.a.GID(), s.a.Secret()
		before := s.b.Snapshot()
		next := wire.Setup{Proc: s.ea.proc, Epoch: 1, LinkNo: 100}
		try := func(q request, want wire.Status, name string) {
			t.Helper()
			s.handshakeRefused(t, q, want, name)
			after := s.b.Snapshot()
			require.Equal(t, before.Links, after.Links, name)
			require.Equal(t, before.Lost, after.Lost, name)
		}
		try(request{kind: wire.KindOpen, gid: id, psk: s.eb.psk, my: fresh()}, wire.StatusStale, "opened again")
		try(request{kind: wire.KindResume, gid: id, psk: s.eb.psk, my: next}, wire.StatusKey, "without the secret")
		try(request{kind: wire.KindResume, gid: id, psk: resumePSK([32]byte{1}), my: next}, wire.StatusKey, "with a wrong one")
		try(request{kind: wire.KindResume, gid: id, psk: secret, my: next}, wire.StatusKey, "with the secret itself as key")
		try(request{kind: wire.KindResume, gid: gid.New(), psk: resumePSK(secret), my: next}, wire.StatusUnknown, "another connection")

		good := resumePSK(secret)
		stale := next
		stale.Epoch = 0
		try(request{kind: wire.KindResume, gid: id, psk: good, my: stale}, wire.StatusStale, "an epoch that is over")
		stranger := next
		stranger.Proc = gid.NewProcessID()
		try(request{kind: wire.KindResume, gid: id, psk: good, my: stranger}, wire.StatusStale, "another process in the same epoch")
		old := next
		old.LinkNo = 1
		try(request{kind: wire.KindResume, gid: id, psk: good, my: old}, wire.StatusOvertaken, "a link number that was used")
		try(request{kind: wire.KindResume, gid: id, psk: good, my: next, seal: true}, wire.StatusPolicy, "sealed")
	})
}

// TestHijackConfirm: the right secret, but no proof of life: the connection loses a link at most.
func TestHijackConfirm(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		next := wire.Setup{Proc: s.ea.proc, Epoch: 1, LinkNo: 5}
		m, _ := opening(t, resumePSK(s.a.Secret()), next.Append(nil), func(h *wire.Hello) { h.Kind, h.GID = wire.KindResume, s.a.GID() })
		l := s.dial(t)
		require.NoError(t, sendAll(l, append(m, make([]byte, wire.ConfirmSize)...)))
		answer(t, l)
		s.alive(t)
	})
}
