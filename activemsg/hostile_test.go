package activemsg

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
)

func FuzzHeader(f *testing.F) {
	for _, h := range []header{{}, {id: 3, flags: flagFirst | flagLast, length: 32, seq: 7, released: 9, arg: 32}, {id: controlPost, flags: flagControl, length: advertLen}} {
		var b [HeaderLen]byte
		h.put(&b)
		f.Add(b[:], int(h.length))
	}
	f.Fuzz(func(t *testing.T, in []byte, payload int) {
		var b, again [HeaderLen]byte
		copy(b[:], in)
		var h header
		if h.parse(&b, payload) != nil {
			return
		}
		h.put(&again)
		require.Equal(t, b, again, "no bit is without a meaning")
		require.Less(t, int(h.message), maxOpen)
		if h.flags&flagControl != 0 {
			require.Less(t, h.id, uint8(controlKinds))
		}
	})
}

func FuzzAdvert(f *testing.F) {
	f.Add(make([]byte, advertLen))
	f.Add([]byte("01234567890123456789012345678901"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var args [4]uint64
		getArgs(&args, b)
		var a advert
		if a.parse(args) != nil {
			return
		}
		require.Equal(t, args, a.args())
		require.NotZero(t, a.key.Len)
	})
}

func FuzzPreamble(f *testing.F) {
	f.Add([]byte(magic + "\x00\x40\x00\x00\x80\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var b [preambleLen]byte
		copy(b[:], in)
		payload, slots, err := parsePreamble(&b)
		if err != nil {
			return
		}
		require.True(t, argsLen <= payload && payload <= maxFramedPayload)
		require.True(t, ControlSlots < slots && slots <= maxSlots)
	})
}

// TestHeaderRefused: each rule of the header.
func TestHeaderRefused(t *testing.T) {
	for name, c := range map[string]struct {
		h       header
		payload int
	}{
		"unknown flags":       {header{flags: 0x80}, 0},
		"length":              {header{length: 5}, 4},
		"control with flags":  {header{flags: flagControl | flagFirst}, 0},
		"control kind":        {header{flags: flagControl, id: controlKinds}, 0},
		"control with number": {header{flags: flagControl, message: 1}, 0},
		"control with seq":    {header{flags: flagControl, seq: 1}, 0},
		"short advert":        {header{flags: flagControl, id: controlPost, length: 31}, 31},
		"ping with payload":   {header{flags: flagControl, id: controlPing, length: 1}, 1},
		"abort alone":         {header{flags: flagAbort}, 0},
		"abort of the first":  {header{flags: flagAbort | flagLast | flagFirst}, 0},
		"number of a whole":   {header{flags: flagFirst | flagLast, message: 3}, 0},
		"number":              {header{flags: flagFirst, message: maxOpen}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var b [HeaderLen]byte
			c.h.put(&b)
			var h header
			require.Error(t, h.parse(&b, c.payload))
		})
	}
}

// TestProtocolErrors: what a peer may not do ends the endpoint, with class Protocol.
func TestProtocolErrors(t *testing.T) {
	whole := header{id: idShort, flags: flagFirst | flagLast}
	with := func(h header, f func(*header)) header { f(&h); return h }
	control := func(kind uint8, arg uint64) header { return header{id: kind, flags: flagControl, arg: arg} }
	ad := advert{id: 1, key: Key{Len: 1}}
	type segment struct {
		header
		body
	}
	post := func(at uint64, a advert) segment {
		return segment{with(control(controlPost, at), func(h *header) { h.length = advertLen }), numbers(a.args())}
	}
	plain := func(h ...header) (all []segment) {
		for _, h := range h {
			all = append(all, segment{header: h})
		}
		return all
	}
	for name, segments := range map[string][]segment{
		"no handler":            plain(with(whole, func(h *header) { h.id = 200 })),
		"pieces to quick":       plain(header{id: idShort, flags: flagFirst, message: 1}),
		"seq":                   plain(with(whole, func(h *header) { h.seq = 1 })),
		"released":              plain(with(whole, func(h *header) { h.released = 1 })),
		"no beginning":          plain(header{id: idBlob, flags: flagLast, message: 1}),
		"two beginnings":        plain(header{id: idBlob, flags: flagFirst, message: 1}, header{id: idBlob, flags: flagFirst, message: 1, seq: 1}),
		"longer than announced": {{header{id: idBlob, flags: flagFirst, message: 1, length: 2, arg: 1}, body{pieces: [][]byte{{1, 2}}}}},
		"pong":                  plain(control(controlPong, 0)),
		"advert place":          {post(maxPosts, ad)},
		"advert twice":          {post(1, ad), post(1, ad)},
		"empty advert":          {post(1, advert{})},
		"advert beyond memory":  {post(1, advert{key: Key{Addr: 1<<64 - 1, Len: 2}})},
		"cancel place":          plain(control(controlCancel, maxPosts)),
		"placed what isn't out": plain(control(controlPlaced, 0)),
		"placed at a far place": plain(control(controlPlaced, 1<<32-1)),
		"more than was granted": plain(over(idBlob)...),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var h Handlers
				h.Quick(idShort, func(m *Msg) {})
				h.Stream(idBlob, func(in *In) { <-in.Endpoint().Done() })
				x, y := Pipe(PipeConfig{Slots: ControlSlots + 8})
				defer y.Close()
				e, err := New(x, &h, Config{Buffer: -1})
				require.NoError(t, err)
				defer e.Close()
				for _, s := range segments {
					sendRaw(t, y, s.header, s.body)
				}
				synctest.Wait()
				require.ErrorIs(t, e.Err(), substrate.ErrProtocol)
			})
		})
	}
}

// over is one message more than there are slots for.
func over(id uint8) (all []header) {
	for i := range uint32(9) {
		all = append(all, header{id: id, flags: flagFirst | flagLast, seq: i})
	}
	return all
}

// TestFlood: a peer that asks for answers and takes none costs no memory.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := Pipe(PipeConfig{})
		defer y.Close()
		e, err := New(&wall{x, make(chan struct{})}, new(Handlers), Config{})
		require.NoError(t, err)
		defer e.Close()
		go e.Post(1, 1, make([]byte, 1)) // stands before the wall
		ad := advert{id: 1, key: Key{Len: 1}}
		for e.Err() == nil {
			sendRaw(t, y, header{id: controlPost, flags: flagControl, length: advertLen}, numbers(ad.args()))
			sendRaw(t, y, header{id: controlCancel, flags: flagControl}, body{})
			synctest.Wait()
			require.LessOrEqual(t, len(e.cork.now.heads), ControlSlots+1)
		}
		require.ErrorIs(t, e.Err(), substrate.ErrProtocol)
	})
}

// victim returns handlers that do what they can with whatever comes.
func victim() *Handlers {
	var h Handlers
	h.Quick(0, func(m *Msg) { m.Endpoint.TryShort(0, m.Args()) })
	h.Quick(1, func(m *Msg) { m.Endpoint.Post(m.Args()[0], 0, make([]byte, 10)) })
	h.Quick(2, func(m *Msg) { m.Endpoint.Cancel(m.Args()[0]) })
	h.Stream(3, func(in *In) { io.Copy(io.Discard, in) })
	h.Stream(4, func(in *In) { <-in.Endpoint().Done() })
	h.Stream(5, func(in *In) {
		var b [3]byte
		io.ReadFull(in, b[:])
		in.Endpoint().Place(uint64(b[0]), uint64(b[1]), [][]byte{b[:]})
	})
	return &h
}

// end closes a victim and looks at what the peer has made it keep.
func endVictim(t *testing.T, e *Endpoint) {
	synctest.Wait()
	e.arrives.mu.Lock()
	require.LessOrEqual(t, e.arrives.buffered, e.cfg.Buffer)
	require.LessOrEqual(t, e.arrives.running, e.cfg.Handlers)
	e.arrives.mu.Unlock()
	e.cork.mu.Lock()
	require.LessOrEqual(t, e.cork.data, corkMost)
	require.LessOrEqual(t, e.cork.control, ControlSlots+1)
	e.cork.mu.Unlock()
	if err := e.Err(); err != nil {
		var classified *substrate.Error
		require.True(t, errors.As(err, &classified) || errors.Is(err, net.ErrClosed), "%v", err)
	}
	require.NoError(t, e.Close())
}

// FuzzPeer gives an endpoint segments of any content: each is a header, whose numbers are made to fit if a bit says so, and up to 255 bytes.
func FuzzPeer(f *testing.F) {
	f.Add([]byte{0}, false)
	seed := func(hs ...header) (all []byte) {
		for _, h := range hs {
			var b [HeaderLen]byte
			h.put(&b)
			all = append(append(append(all, 1, byte(h.length)), b[:]...), make([]byte, h.length)...)
		}
		return all
	}
	f.Add(seed(header{id: 3, flags: flagFirst, message: 1, length: 40, arg: 100}, header{id: 3, flags: flagLast, message: 1, length: 40}), true)
	f.Add(seed(header{id: 4, flags: flagFirst | flagLast, length: 40, arg: 40}, header{id: controlPing, flags: flagControl}), false)
	f.Add(seed(header{id: 1, flags: flagFirst | flagLast, length: 32, arg: 32}, header{id: controlPlaced, flags: flagControl, arg: 5<<32 + maxPosts - 1}), false)
	f.Add(seed(header{id: controlPost, flags: flagControl, length: 32}, header{id: 5, flags: flagFirst | flagLast, length: 3, arg: 3}, header{id: controlCancel, flags: flagControl}), false)
	f.Fuzz(func(t *testing.T, in []byte, manual bool) {
		synctest.Test(t, func(t *testing.T) {
			x, y := Pipe(PipeConfig{Payload: 256, Slots: ControlSlots + 8})
			e, err := New(x, victim(), Config{Manual: manual, Buffer: 2000})
			require.NoError(t, err)
			var drain sync.WaitGroup
			drain.Go(func() {
				var batch [8]Segment
				for {
					n, err := y.Recv(batch[:])
					for i := range n {
						y.Done(&batch[i])
					}
					if err != nil {
						return
					}
				}
			})
			var seq uint32
			for len(in) >= 2+HeaderLen {
				fit, n := in[0]&1 != 0, int(in[1])
				var head [HeaderLen]byte
				copy(head[:], in[2:])
				in = in[2+HeaderLen:]
				n = min(n, len(in))
				if fit {
					binary.LittleEndian.PutUint32(head[4:], uint32(n))
					binary.LittleEndian.PutUint32(head[8:], 0)
					binary.LittleEndian.PutUint32(head[12:], e.out.sent.Load())
					if head[1]&flagControl == 0 {
						binary.LittleEndian.PutUint32(head[8:], seq)
						seq++
					}
				}
				if y.Send(&head, [][]byte{in[:n]}) != nil {
					break
				}
				in = in[n:]
				if manual {
					e.Extract(100)
				}
				synctest.Wait()
			}
			if manual {
				e.Extract(1000)
			}
			time.Sleep(time.Second) // the peer says nothing more
			endVictim(t, e)
			y.Close()
			drain.Wait()
		})
	})
}

// FuzzStream gives an endpoint over a link any bytes.
func FuzzStream(f *testing.F) {
	var b [HeaderLen]byte
	(&header{id: 3, flags: flagFirst | flagLast, length: 5, arg: 5}).put(&b)
	f.Add(append(b[:], "hello"...), 3)
	f.Add(make([]byte, 100), 100)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		synctest.Test(t, func(t *testing.T) {
			n := fault.New(fault.Config{Seed: 1})
			defer n.Close()
			l, err := n.Host("b").Listen(t.Context(), "b:1")
			require.NoError(t, err)
			peer, err := n.Host("a").Dial(t.Context(), "b:1")
			require.NoError(t, err)
			link, err := l.Accept()
			require.NoError(t, err)
			_, err = peer.Send(substrate.Unkept, [][]byte{[]byte(magic + "\x00\x01\x00\x00\x40\x00\x00\x00")})
			require.NoError(t, err)
			c, err := Framed(t.Context(), link, FramedConfig{})
			require.NoError(t, err)
			require.Equal(t, Limits{Payload: 256, Slots: 64, Waits: framedWaits}, c.Limits())
			e, err := New(c, victim(), Config{Buffer: 2000})
			require.NoError(t, err)
			var drain sync.WaitGroup
			drain.Go(func() {
				b := make([]byte, 1000)
				for {
					if _, err := peer.Recv(b); err != nil {
						return
					}
				}
			})
			cut = max(0, min(cut, len(in)))
			peer.Send(substrate.Unkept, [][]byte{in[:cut]})
			synctest.Wait()
			peer.Send(substrate.Unkept, [][]byte{in[cut:]})
			time.Sleep(time.Second)
			endVictim(t, e)
			peer.Interrupt()
			drain.Wait()
			peer.Close()
		})
	})
}
