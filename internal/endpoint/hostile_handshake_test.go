package endpoint

import (
	"bytes"
	"math"
	"sync"
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

// TestPlainClientThatIsDone: a plain client that has said all it has to say, perhaps nothing, waits for the server's word: with TCP it would get
// it.
func TestPlainClientThatIsDone(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		l, err := s.eb.Listen(t.Context(), "b:2", Plain{Accept: true})
		require.NoError(t, err)
		for _, said := range []string{"", wire.Magic[:3], "x"} {
			x, err := s.x.Dial(t.Context(), "b:2")
			require.NoError(t, err)
			require.NoError(t, sendAll(x, []byte(said)))
			x.Close()
			time.Sleep(time.Second)
			require.Len(t, l.queue, 1, "%q", said)
			acc, err := l.Accept()
			require.NoError(t, err)
			require.Nil(t, acc.Session)
			require.Equal(t, said, string(acc.Head))
			acc.Link.Close()
		}
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

// TestRefusalIsRead: who is turned away learns why, also where a link that is closed with unread bytes takes what was sent before with it.
func TestRefusalIsRead(t *testing.T) {
	for name, busy := range map[string]bool{"unknown": false, "busy": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newCouple(t, fault.Config{Seed: 5, HardClose: true}, Config{MaxHandshakes: 8})
				p.n.All().Shape(fault.Both, fault.Shape{Delay: 5 * time.Millisecond})
				want := wire.StatusUnknown
				if busy {
					want = wire.StatusBusy
					for range cap(p.eb.slots) {
						p.eb.slots <- struct{}{}
					}
					defer func() {
						for range cap(p.eb.slots) {
							<-p.eb.slots
						}
					}()
				}
				for range 50 {
					_, _, _, err := p.ea.open(t.Context(), p.ea.basePath("b:1"), request{kind: wire.KindResume, gid: gid.New(), my: wire.Setup{Epoch: 1, LinkNo: 2}})
					var r *session.RefusedError
					require.ErrorAs(t, err, &r)
					require.Equal(t, want, r.Status)
				}
			})
		})
	}
}
