package endpoint

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flynn/noise"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
	tcp "github.com/sockemu/sockemu/substrate_tcp"
	"github.com/sockemu/sockemu/wire"
)

// What strangers can do to a live listener: be told why not. In every test host "a" has a connection to host "b", and it goes
// on transferring through whatever host "x" sends.

// siege is a couple with somebody else on the network.
type siege struct {
	*couple
	x substrate.Substrate
}

// besiege runs f in a bubble, then checks that the connection works and nothing of the attack is left.
func besiege(t *testing.T, cfg Config, f func(t *testing.T, s *siege)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &siege{couple: newCouple(t, fault.Config{Seed: 1}, cfg)}
		s.x = s.n.Host("x")
		s.alive(t)
		time.Sleep(time.Second) // the control channel is up
		f(t, s)
		s.alive(t)
		time.Sleep(s.eb.cfg.HandshakeTimeout + time.Second)
		s.alive(t)
		s.clean(t)
		require.Len(t, s.eb.Sessions(), 1)
		require.Empty(t, s.l.queue)
	})
}

// clean checks that no handshake is in progress.
func (s *siege) clean(t *testing.T) {
	t.Helper()
	require.Empty(t, s.eb.slots)
	s.eb.mu.Lock()
	defer s.eb.mu.Unlock()
	require.Empty(t, s.eb.links)
}

// alive moves bytes both ways over the connection.
func (c *couple) alive(t *testing.T) {
	t.Helper()
	exchange(t, c.a, c.b)
	exchange(t, c.b, c.a)
}

func exchange(t *testing.T, from, to *session.Session) {
	t.Helper()
	want := bytes.Repeat([]byte("it goes on "), 1000)
	errs := make(chan error, 1)
	go func() {
		_, err := from.Write(want)
		errs <- err
	}()
	to.SetReadDeadline(time.Now().Add(time.Minute))
	got := make([]byte, len(want))
	_, err := io.ReadFull(to, got)
	require.NoError(t, err)
	require.NoError(t, <-errs)
	require.True(t, bytes.Equal(want, got))
	to.SetReadDeadline(time.Time{})
}

func (s *siege) dial(t *testing.T) substrate.Link {
	t.Helper()
	l, err := s.x.Dial(t.Context(), "b:1")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// answer reads all that the listener says until it ends the link, within a minute.
func answer(t *testing.T, l substrate.Link) []byte {
	t.Helper()
	l.SetRecvDeadline(time.Now().Add(time.Minute))
	var all []byte
	for p := make([]byte, 4096); ; {
		n, err := l.Recv(p)
		all = append(all, p[:n]...)
		if err != nil {
			require.False(t, errors.Is(err, context.DeadlineExceeded) || err.Error() == "i/o timeout", "the listener waits for ever")
			return all
		}
	}
}

// refused checks that in gets the given status and the end of the link.
func (s *siege) refused(t *testing.T, in []byte, want wire.Status, name string) {
	t.Helper()
	l := s.dial(t)
	require.NoError(t, sendAll(l, in))
	got := answer(t, l)
	r, err := wire.ParseReply(got)
	require.NoError(t, err, "%s: %q", name, got)
	require.Equal(t, want, r.Status, name)
	require.Equal(t, s.eb.proc, r.Proc, name)
}

// handshake performs a dialer's side as host "x".
func (s *siege) handshake(t *testing.T, q request) (substrate.Link, wire.Setup, agreed, error) {
	t.Helper()
	l := s.dial(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	q.addr = "b:1"
	peer, a, err := dialHandshake(ctx, l, q)
	return l, peer, a, err
}

func (s *siege) handshakeRefused(t *testing.T, q request, want wire.Status, name string) {
	t.Helper()
	_, _, _, err := s.handshake(t, q)
	var r *session.RefusedError
	require.ErrorAs(t, err, &r, name)
	require.Equal(t, want, r.Status, name)
}

// opening returns the first message of an OPEN and what is needed to go on.
func opening(t *testing.T, psk [32]byte, payload []byte, change func(h *wire.Hello)) ([]byte, *noise.HandshakeState) {
	h := wire.Hello{Version: wire.Version, MinVersion: wire.MinVersion, Kind: wire.KindOpen, GID: gid.New(), NoiseLen: 32 + len(payload) + wire.TagSize}
	if change != nil {
		change(&h)
	}
	fixed := h.Append(nil)
	hs, err := newHandshake(true, psk, fixed)
	require.NoError(t, err)
	msg, _, _, err := hs.WriteMessage(fixed, payload)
	require.NoError(t, err)
	return msg, hs
}

func fresh() wire.Setup {
	return wire.Setup{Proc: gid.NewProcessID(), Epoch: 1, LinkNo: 1, Limit: 1 << 20}
}

func TestGarbage(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		for name, in := range map[string]string{
			"http": "GET / HTTP/1.1\r\n\r\n", "tls": "\x16\x03\x01\x02\x00\x01", "zeros": "\x00\x00", "one wrong byte": wire.Magic[:7] + "x",
		} {
			s.refused(t, []byte(in), wire.StatusFormat, name)
		}
		pad := func(b ...byte) []byte { return append(append([]byte(wire.Magic), b...), make([]byte, 200)...) }
		for name, c := range map[string]struct {
			in   []byte
			want wire.Status
		}{
			"magic, then zeros":        {pad(), wire.StatusVersion},
			"magic, then 255":          {append([]byte(wire.Magic), bytes.Repeat([]byte{255}, 100)...), wire.StatusVersion},
			"unknown kind":             {pad(1, 1, 9, 0, 0, 100), wire.StatusFormat},
			"unknown flags":            {pad(1, 1, 1, 0xf0, 0, 100), wire.StatusFormat},
			"open without GID":         {pad(1, 1, 1, 0, 0, 100), wire.StatusFormat},
			"noise of 65535 bytes":     {pad(1, 1, 3, 0, 255, 255), wire.StatusFormat},
			"noise of 1025 bytes":      {pad(1, 1, 3, 0, 4, 1), wire.StatusFormat},
			"noise of 31 bytes":        {pad(1, 1, 3, 0, 0, 31), wire.StatusFormat},
			"noise that is no noise":   {pad(1, 1, 3, 0, 0, 100), wire.StatusKey},
			"seal where nobody seals":  {pad(1, 1, 1, 2, 0, 100, 0, 0, 7), wire.StatusFormat}, // GID is at 16
			"key where nobody has one": {pad(1, 1, 3, 1, 0, 100), wire.StatusKey},
		} {
			if name == "seal where nobody seals" {
				c.in[16], c.want = 7, wire.StatusPolicy
			}
			s.refused(t, c.in, c.want, name)
		}
	})
}

// TestGarbageBesidePlain: where plain clients are served, garbage is a plain client's; but not behind the magic.
func TestGarbageBesidePlain(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		l, err := s.eb.Listen(t.Context(), "b:2", Plain{Accept: true})
		require.NoError(t, err)
		for _, in := range []string{"GET / HTTP/1.1\r\n\r\n", wire.Magic[:5] + "?"} {
			x, err := s.x.Dial(t.Context(), "b:2")
			require.NoError(t, err)
			require.NoError(t, sendAll(x, []byte(in)))
			acc, err := l.Accept()
			require.NoError(t, err)
			require.Nil(t, acc.Session)
			require.NotEmpty(t, acc.Head)
			require.True(t, bytes.HasPrefix([]byte(in), acc.Head))
			acc.Link.Close()
			x.Close()
		}
		x, err := s.x.Dial(t.Context(), "b:2")
		require.NoError(t, err)
		defer x.Close()
		require.NoError(t, sendAll(x, append([]byte(wire.Magic), bytes.Repeat([]byte{255}, 100)...)))
		r, err := wire.ParseReply(answer(t, x))
		require.NoError(t, err)
		require.Equal(t, wire.StatusVersion, r.Status)
		require.Empty(t, l.queue)
	})
}

func TestVersionSkew(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		newer, _ := opening(t, s.eb.psk, fresh().Append(nil), func(h *wire.Hello) { h.Version, h.MinVersion = 9, wire.Version+1 })
		s.refused(t, newer, wire.StatusVersion, "too new")
		older, _ := opening(t, s.eb.psk, fresh().Append(nil), func(h *wire.Hello) { h.Version, h.MinVersion = 0, 0 })
		s.refused(t, older, wire.StatusVersion, "too old")

		// A newer peer that still speaks our version is welcome.
		both, _ := opening(t, s.eb.psk, fresh().Append(nil), func(h *wire.Hello) { h.Version = 9 })
		l := s.dial(t)
		require.NoError(t, sendAll(l, both))
		b := make([]byte, wire.ReplySize)
		require.NoError(t, recvFull(l, b))
		r, err := wire.ParseReply(b)
		require.NoError(t, err)
		require.Equal(t, wire.StatusOK, r.Status)
		require.EqualValues(t, wire.Version, r.Version)

		// And now we dial.
		for name, c := range map[string]struct {
			reply wire.Reply
			check func(err error)
		}{
			"another version chosen": {wire.Reply{Version: 2, NoiseLen: 100}, func(err error) { require.ErrorIs(t, err, wire.ErrVersion) }},
			"no common version": {wire.Reply{Version: 7, Status: wire.StatusVersion}, func(err error) {
				var r *session.RefusedError
				require.ErrorAs(t, err, &r)
				require.Equal(t, wire.StatusVersion, r.Status)
			}},
			"oversized answer":        {wire.Reply{Version: 1, NoiseLen: math.MaxUint16}, func(err error) { require.ErrorIs(t, err, wire.ErrFormat) }},
			"an answer not authentic": {wire.Reply{Version: 1, NoiseLen: 100}, func(err error) { require.ErrorIs(t, err, substrate.ErrProtocol) }},
		} {
			c.check(dialFake(t, s, append(c.reply.Append(nil), make([]byte, 100)...)))
			_ = name
		}
		require.ErrorIs(t, dialFake(t, s, []byte("220 mail.example.org ESMTP\r\n")), ErrNotSockemu)
		require.ErrorIs(t, dialFake(t, s, nil), ErrNotSockemu)
		require.Error(t, dialFake(t, s, []byte(wire.Magic)))
		require.Len(t, s.ea.Sessions(), 1)
	})
}

// dialFake has endpoint a dial a server that answers with the given bytes and closes.
func dialFake(t *testing.T, s *siege, says []byte) error {
	ln, err := s.x.Listen(t.Context(), "x:0")
	require.NoError(t, err)
	defer ln.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		l, err := ln.Accept()
		if err != nil {
			return
		}
		l.Recv(make([]byte, 1000))
		sendAll(l, says)
		l.Close()
	})
	_, err = s.ea.Dial(t.Context(), ln.Addr().String(), time.Second)
	return err
}

// TestTruncatedHandshake: a dialer that stops, or leaves, after each byte of a good handshake.
func TestTruncatedHandshake(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		besiege(t, Config{}, func(t *testing.T, s *siege) {
			msg, _ := opening(t, s.eb.psk, fresh().Append(nil), nil)
			start := time.Now()
			var links []substrate.Link
			for n := range len(msg) + wire.ConfirmSize {
				m, _ := opening(t, s.eb.psk, fresh().Append(nil), nil)
				l := s.dial(t)
				require.NoError(t, sendAll(l, append(m, make([]byte, wire.ConfirmSize)...)[:n]))
				if leaves {
					l.Close()
				} else {
					links = append(links, l)
				}
			}
			synctest.Wait()
			if leaves {
				s.clean(t)
				return
			}
			require.Len(t, s.eb.slots, len(links))
			s.alive(t)
			for _, l := range links {
				answer(t, l)
			}
			require.LessOrEqual(t, time.Since(start), s.eb.cfg.HandshakeTimeout+time.Second)
			s.clean(t)
		})
	}
}

// TestBadConfirm: the right length, but nobody alive.
func TestBadConfirm(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		for _, confirm := range [][]byte{make([]byte, wire.ConfirmSize), append([]byte{0, 16}, make([]byte, 16)...), bytes.Repeat([]byte{0xff}, 500)} {
			m, _ := opening(t, s.eb.psk, fresh().Append(nil), nil)
			l := s.dial(t)
			require.NoError(t, sendAll(l, append(m, confirm...)))
			answer(t, l)
		}
	})
}

func TestSlowLoris(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		start := time.Now()
		msg, _ := opening(t, s.eb.psk, fresh().Append(nil), nil)
		l := s.dial(t)
		var err error
		for i := 0; err == nil && i < len(msg); i++ {
			err = sendAll(l, msg[i:i+1])
			time.Sleep(s.eb.cfg.HandshakeTimeout / 10)
		}
		require.Error(t, err, "one byte now and then doesn't prolong the time")
		require.Less(t, time.Since(start), 2*s.eb.cfg.HandshakeTimeout)
	})
}

// TestBadSetup: authentic requests that make no sense.
func TestBadSetup(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		good := fresh()
		for name, payload := range map[string][]byte{
			"empty":         {},
			"nobody":        wire.Setup{Epoch: 1, LinkNo: 1}.Append(nil),
			"255 addresses": append(good.Append(nil)[:48], 255),
			"link 2":        func() []byte { x := good; x.LinkNo = 2; return x.Append(nil) }(),
			"epoch 0":       func() []byte { x := good; x.Epoch = 0; return x.Append(nil) }(),
			"half-way":      func() []byte { x := good; x.Got = 1; return x.Append(nil) }(),
		} {
			m, _ := opening(t, s.eb.psk, payload, nil)
			s.refused(t, m, wire.StatusFormat, name)
		}
		m, _ := opening(t, [32]byte{1}, good.Append(nil), nil)
		s.refused(t, m, wire.StatusKey, "another cluster's key")
	})
}

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

// control opens a control channel as a process called proc.
func (s *siege) control(t *testing.T, proc gid.ProcessID) (substrate.Link, agreed) {
	t.Helper()
	l, peer, a, err := s.handshake(t, request{kind: wire.KindControl, psk: s.eb.psk, my: wire.Setup{Proc: proc}})
	require.NoError(t, err)
	require.Equal(t, s.eb.proc, peer.Proc)
	synctest.Wait() // the other side has it, too
	return l, a
}

// nextRecord reads a record that is no Ping.
func nextRecord(t *testing.T, l substrate.Link, have *[]byte) (r wire.Record) {
	t.Helper()
	l.SetRecvDeadline(time.Now().Add(time.Minute))
	for {
		n, err := wire.ParseRecord(*have, &r)
		require.NoError(t, err)
		*have = (*have)[n:]
		if n > 0 && r.Type != wire.TypePing {
			return r
		}
		if n == 0 {
			p := make([]byte, 4096)
			k, err := l.Recv(p)
			require.NoError(t, err)
			*have = append(*have, p[:k]...)
		}
	}
}

func TestAttachNeedsProof(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		id := s.a.GID()
		evil := gid.NewProcessID()
		l, a := s.control(t, evil)
		post := func(r wire.Record) { require.NoError(t, sendAll(l, r.Append(nil))) }
		mine := &channel{binding: a.binding}
		elsewhere := &channel{binding: make([]byte, len(a.binding))}
		var have []byte
		for name, c := range map[string]struct {
			mac  [wire.MACSize]byte
			want wire.Status
		}{
			"no proof":                            {[wire.MACSize]byte{}, wire.StatusKey},
			"of another channel":                  {elsewhere.proof(s.a, true), wire.StatusKey},
			"its own proof, reflected":            {mine.proof(s.a, false), wire.StatusKey},
			"a good proof, but another process's": {mine.proof(s.a, true), wire.StatusStale},
		} {
			post(wire.Record{Type: wire.TypeAttach, GID: id, MAC: c.mac})
			r := nextRecord(t, l, &have)
			require.Equal(t, wire.Record{Type: wire.TypeNak, GID: id, Code: c.want}, r, name)
		}
		require.EqualValues(t, 3, s.eb.count.badProofs.Load())
		post(wire.Record{Type: wire.TypeAttach, GID: gid.New()})
		require.Equal(t, wire.StatusUnknown, nextRecord(t, l, &have).Code)

		// What is said about a connection on a channel where it isn't attached counts nothing.
		before := s.b.Snapshot()
		post(wire.Record{Type: wire.TypeReset, GID: id, Code: wire.StatusStale})
		post(wire.Record{Type: wire.TypeState, GID: id, Ack: 1 << 60, Sent: 1, Flags: wire.StateFin | wire.StateClosed | wire.StateDone})
		post(wire.Record{Type: wire.TypeState, GID: id, LinkNo: 1 << 60, Flags: wire.StateLinkDown})
		post(wire.Record{Type: wire.TypeSlot, GID: id, Slot: math.MaxUint32, Gen: 1})
		for range 3 * maxRefusals {
			post(wire.Record{Type: wire.TypeNak, GID: id, Code: wire.StatusUnknown})
		}
		post(wire.Record{Type: 200})
		post(wire.Record{Type: wire.TypePing, Token: 77})
		require.Equal(t, wire.Record{Type: wire.TypePong, Token: 77}, nextRecord(t, l, &have))
		s.alive(t)
		time.Sleep(10 * time.Second)
		after := s.b.Snapshot()
		require.NoError(t, after.Err)
		require.Equal(t, before.Links, after.Links)
		require.Equal(t, before.Lost, after.Lost)
		require.Equal(t, "bare", after.Mode)
	})
}

// TestFalseProcess: a channel that claims to come from the very process that holds the other end. That is no secret; only the
// proof counts.
func TestFalseProcess(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		time.Sleep(time.Second)
		l, _ := s.control(t, s.ea.proc)
		var have []byte
		require.NoError(t, sendAll(l, (&wire.Record{Type: wire.TypeAttach, GID: s.a.GID(), MAC: [16]byte{1}}).Append(nil)))
		require.Equal(t, wire.StatusKey, nextRecord(t, l, &have).Code)
		require.NoError(t, sendAll(l, (&wire.Record{Type: wire.TypeReset, GID: s.a.GID()}).Append(nil)))
		s.alive(t)
		l.Close()
		time.Sleep(time.Second)
		require.True(t, s.b.Attached(), "the end of the false channel is not the end of the true one")
	})
}

// TestBrokenChannel: a control channel that breaks the protocol is closed, and nobody else's with it.
func TestBrokenChannel(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		n := len(s.eb.openChannels())
		for name, in := range map[string][]byte{
			"unknown mandatory": {99, 0, 0, 0}, "oversized": {200, 0, 255, 255}, "wrong length": {1, 0, 0, 1}, "wrong flags": {5, 1, 0, 8},
		} {
			l, _ := s.control(t, gid.NewProcessID())
			require.NoError(t, sendAll(l, in))
			answer(t, l)
			synctest.Wait()
			require.Len(t, s.eb.openChannels(), n, name)
		}
		// Half a record, then silence: keep-alive ends it.
		l, _ := s.control(t, gid.NewProcessID())
		require.NoError(t, sendAll(l, []byte{1, 0, 0}))
		time.Sleep(2 * s.eb.cfg.KeepAliveDead)
		require.Len(t, s.eb.openChannels(), n)
	})
}

// TestAttachFlood: a peer that offers connections that nobody knows, and doesn't read the answers.
func TestAttachFlood(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		n := len(s.eb.openChannels())
		l, _ := s.control(t, gid.NewProcessID())
		var c *channel
		for _, x := range s.eb.openChannels() {
			if !x.dialed && x.proc != s.ea.proc {
				c = x
			}
		}
		require.NotNil(t, c)
		var batch []byte
		for range 2000 {
			batch = (&wire.Record{Type: wire.TypeAttach, GID: gid.New(), MAC: [16]byte{1}}).Append(batch)
		}
		var err error
		for i := 0; err == nil && i < 500; i++ {
			l.SetSendDeadline(time.Now().Add(time.Minute))
			err = sendAll(l, batch)
			c.mu.Lock()
			queued, known := len(c.queue), len(c.attached)+len(c.offered)+len(c.refusals)
			c.mu.Unlock()
			require.LessOrEqual(t, queued, maxQueue+wire.MaxRecord)
			require.Zero(t, known)
		}
		require.Error(t, err, "who doesn't read is cut off")
		synctest.Wait()
		require.Len(t, s.eb.openChannels(), n)
	})
}

// TestNakFlood: refusals of offers that were never made cost nothing.
func TestNakFlood(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		l, _ := s.control(t, gid.NewProcessID())
		var c *channel
		for _, x := range s.eb.openChannels() {
			if !x.dialed && x.proc != s.ea.proc {
				c = x
			}
		}
		for range 10 {
			var batch []byte
			for range 1000 {
				batch = (&wire.Record{Type: wire.TypeNak, GID: gid.New(), Code: wire.StatusUnknown}).Append(batch)
			}
			require.NoError(t, sendAll(l, batch))
		}
		synctest.Wait()
		c.mu.Lock()
		n := len(c.refusals)
		c.mu.Unlock()
		require.LessOrEqual(t, n, 100, "entries for connections that don't exist")
	})
}

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

// TestHostileTCP is a part of the above on real sockets, where closing with unread bytes resets.
func TestHostileTCP(t *testing.T) {
	sub := tcp.New(tcp.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	eb := New(Config{Substrate: sub, MaxHandshakes: 4, HandshakeTimeout: 2 * time.Second, NoSharing: true})
	defer eb.Close()
	ea := New(Config{Substrate: sub, NoSharing: true})
	defer ea.Close()
	l, err := eb.Listen(ctx, "127.0.0.1:0", Plain{})
	require.NoError(t, err)
	c := &couple{ea: ea, eb: eb, l: l}
	open := func() (a, b *session.Session) {
		a, err := ea.Dial(ctx, l.Addr().String(), 0)
		require.NoError(t, err)
		acc, err := l.Accept()
		require.NoError(t, err)
		return a, acc.Session
	}
	c.a, c.b = open()
	c.alive(t)
	for _, in := range []string{"GET / HTTP/1.1\r\n\r\n", wire.Magic + "garbage garbage garbage garbage garbage"} {
		x, err := sub.Dial(ctx, l.Addr().String())
		require.NoError(t, err)
		require.NoError(t, sendAll(x, []byte(in)))
		b := make([]byte, wire.ReplySize)
		require.NoError(t, recvFull(x, b))
		r, err := wire.ParseReply(b)
		require.NoError(t, err)
		require.NotEqual(t, wire.StatusOK, r.Status)
		x.Close()
	}
	var silent []substrate.Link
	for range 12 {
		x, err := sub.Dial(ctx, l.Addr().String())
		require.NoError(t, err)
		silent = append(silent, x)
	}
	a, b := open() // comes back until there is room
	exchange(t, a, b)
	c.alive(t)
	require.NotZero(t, eb.count.busy.Load())
	for _, x := range silent {
		x.Close()
	}
	a.Close()
	b.Close()
	c.a.Close()
	c.b.Close()
}
