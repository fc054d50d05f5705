package activemsg

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

const (
	idEcho = iota + 1
	idReply
	idShort
	idBlob
)

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func TestShort(t *testing.T) {
	each(t, func(t *testing.T, m maker) {
		got := make(chan [4]uint64, 1000)
		var h Handlers
		h.Quick(idShort, func(m *Msg) { got <- m.Args() })
		a, _ := endpoints(t, m, &h, &h, calm, calm)
		for i := range uint64(1000) {
			require.NoError(t, a.Short(within(t), idShort, [4]uint64{i, 1 << 63, 0, ^i}))
		}
		for i := range uint64(1000) {
			require.Equal(t, [4]uint64{i, 1 << 63, 0, ^i}, await(t, got))
		}
	})
}

// TestEcho sends messages of many sizes both ways at once, each in random pieces, to handlers that read them in random pieces and
// send them back.
func TestEcho(t *testing.T) {
	each(t, func(t *testing.T, m maker) {
		var mu sync.Mutex
		waiting := map[uint64]chan []byte{}
		var h Handlers
		h.Stream(idEcho, func(in *In) {
			b, err := io.ReadAll(in)
			if err != nil {
				t.Errorf("reading: %v", err)
			}
			if err := send(in.Endpoint(), idReply, b, 1000); err != nil {
				t.Errorf("replying: %v", err)
			}
		})
		h.Stream(idReply, func(in *In) {
			var head [8]byte
			_, err := io.ReadFull(in, head[:])
			if err != nil {
				t.Errorf("reading the head: %v", err)
				return
			}
			n := binary.LittleEndian.Uint64(head[:])
			mu.Lock()
			c := waiting[n]
			mu.Unlock()
			body := make([]byte, in.MaxLen()-8) // the place depends on what was read
			if _, err := io.ReadFull(in, body); err != nil {
				t.Errorf("reading the body: %v", err)
			}
			if k, err := in.Read(head[:]); k != 0 || err != io.EOF {
				t.Errorf("at the end: %d, %v", k, err)
			}
			c <- body
		})
		a, b := endpoints(t, m, &h, &h, calm, calm)
		var all sync.WaitGroup
		for i, ep := range []*Endpoint{a, b, a, b} {
			all.Go(func() {
				for k, n := range []int{0, 1, 31, 32, 33, 40, 64, 4000, 16 << 10, 16<<10 + 1, 100_000} {
					number := uint64(i*1000 + k)
					c := make(chan []byte, 1)
					mu.Lock()
					waiting[number] = c
					mu.Unlock()
					msg := append(binary.LittleEndian.AppendUint64(nil, number), noise(n, number)...)
					if err := send(ep, idEcho, msg, 1+n/3); err != nil {
						t.Errorf("sending: %v", err)
						return
					}
					if got := await(t, c); !bytes.Equal(got, msg[8:]) {
						t.Errorf("%d bytes came back as %d others", n, len(got))
					}
				}
			})
		}
		all.Wait()
	})
}

// send sends a message in pieces.
func send(ep *Endpoint, id uint8, b []byte, piece int) error {
	out, err := ep.Begin(context.Background(), id, len(b))
	if err != nil {
		return err
	}
	for len(b) > 0 {
		n := min(piece, len(b))
		if err := out.Piece(b[:n]); err != nil {
			break // End says it again
		}
		b = b[n:]
	}
	return out.End()
}

// TestHandlerStartsEarly: the handler runs while the message is still being sent, and decides how it goes on.
func TestHandlerStartsEarly(t *testing.T) {
	each(t, func(t *testing.T, m maker) {
		started := make(chan byte)
		var h Handlers
		h.Stream(idBlob, func(in *In) {
			var b [1]byte
			io.ReadFull(in, b[:])
			started <- b[0]
			io.Copy(io.Discard, in)
			started <- 0
		})
		a, _ := endpoints(t, m, &h, &h, calm, calm)
		big := noise(a.Payload()+1, 3)
		out, err := a.Begin(within(t), idBlob, 2*len(big))
		require.NoError(t, err)
		require.NoError(t, out.Piece(big))
		require.Equal(t, big[0], await(t, started))
		require.NoError(t, out.Piece(big))
		require.NoError(t, out.End())
		require.Zero(t, await(t, started))
	})
}

// TestHandlerThatLeaves: what a handler doesn't read is discarded and its slots come back.
func TestHandlerThatLeaves(t *testing.T) {
	each(t, func(t *testing.T, m maker) {
		var h Handlers
		left := make(chan bool, 100)
		h.Stream(idBlob, func(in *In) { left <- true })
		a, _ := endpoints(t, m, &h, &h, calm, calm)
		blob := noise(20_000, 5)
		for range 100 {
			require.NoError(t, send(a, idBlob, blob, 777))
		}
		for range 100 {
			await(t, left)
		}
	})
}

// TestUnreadMessage: a handler that doesn't read doesn't stop messages for others, within Config.Buffer.
func TestUnreadMessage(t *testing.T) {
	each(t, func(t *testing.T, m maker) {
		var h Handlers
		release, read := make(chan bool), make(chan []byte, 2)
		h.Stream(idBlob, func(in *In) {
			select {
			case <-release:
			case <-in.Endpoint().Done():
			}
			b, err := io.ReadAll(in)
			if err != nil {
				t.Errorf("reading: %v", err)
			}
			read <- b
		})
		got := make(chan [4]uint64, 1)
		h.Quick(idShort, func(m *Msg) { got <- m.Args() })
		a, _ := endpoints(t, m, &h, &h, calm, Config{Buffer: 4 << 20, Death: patience})
		blob := noise(100_000, 9)
		require.NoError(t, send(a, idBlob, blob, len(blob)))
		for i := range uint64(100) {
			require.NoError(t, a.Short(within(t), idShort, [4]uint64{i}))
			require.Equal(t, i, await(t, got)[0])
		}
		close(release)
		require.True(t, bytes.Equal(blob, await(t, read)))
	})
}

// TestBufferIsBounded: beyond Config.Buffer the sender waits, and its context ends the wait; the handler sees a cut message.
func TestGivenUp(t *testing.T) {
	each(t, func(t *testing.T, m maker) {
		var h Handlers
		started, release, read := make(chan bool), make(chan bool), make(chan error, 1)
		h.Stream(idBlob, func(in *In) {
			started <- true
			<-release
			_, err := io.Copy(io.Discard, in)
			read <- err
		})
		got := make(chan [4]uint64, 1)
		h.Quick(idShort, func(m *Msg) { got <- m.Args() })
		a, b := endpoints(t, m, &h, &h, calm, Config{Buffer: 1000, Death: patience})
		ctx, cancel := context.WithCancel(t.Context())
		out, err := a.Begin(ctx, idBlob, 1<<30)
		require.NoError(t, err)
		blob := noise(1<<20, 9)
		ended := make(chan error)
		go func() {
			for out.Piece(blob) == nil {
			}
			ended <- out.End()
		}()
		await(t, started)
		cancel()
		require.ErrorIs(t, await(t, ended), context.Canceled)
		b.arrives.mu.Lock()
		require.LessOrEqual(t, b.arrives.buffered, 1000)
		b.arrives.mu.Unlock()
		close(release)
		require.ErrorIs(t, await(t, read), io.ErrUnexpectedEOF)
		// And all is as before.
		require.NoError(t, a.Short(within(t), idShort, [4]uint64{7}))
		require.Equal(t, [4]uint64{7}, await(t, got))
		for range maxOpen - 1 {
			await(t, a.opens.numbers)
		}
	})
}

func TestTooLong(t *testing.T) {
	var h Handlers
	a, _ := endpoints(t, pipes, &h, &h, calm, calm)
	require.ErrorIs(t, a.TrySend(1, [][]byte{make([]byte, a.Payload()), {1}}), ErrTooLong)
	out, err := a.Begin(within(t), 1, 10)
	require.NoError(t, err)
	require.NoError(t, out.Piece(make([]byte, 10)))
	require.ErrorIs(t, out.Piece(make([]byte, 1)), ErrTooLong)
	require.ErrorIs(t, out.End(), ErrTooLong)
	require.NoError(t, a.Err())
}

// TestExtract: nothing is handled before Extract, and no more than asked for; the sender is held back by it.
func TestExtract(t *testing.T) {
	each(t, func(t *testing.T, m maker) {
		var h Handlers
		handled := 0
		h.Quick(idShort, func(m *Msg) { handled++ })
		credit := make(chan bool, 1)
		a, b := endpoints(t, m, &h, &h, Config{Death: patience, OnCredit: func() { credit <- true }}, Config{Manual: true, Death: patience})
		sent := 0
		for {
			err := a.TryShort(idShort, [4]uint64{})
			if err != nil {
				require.ErrorIs(t, err, ErrNoCredit)
				break
			}
			sent++
		}
		require.EqualValues(t, a.out.size, sent)
		for range sent {
			for {
				n, _ := b.Extract(1) // a segment is handled whole
				if n > 0 {
					require.Equal(t, argsLen, n)
					break
				}
				await(t, b.Arrived())
			}
		}
		require.Equal(t, sent, handled)
		n, more := b.Extract(1)
		require.Zero(t, n)
		require.False(t, more)
		await(t, credit)
		require.NoError(t, a.TryShort(idShort, [4]uint64{}))
	})
}

func TestQuickReplies(t *testing.T) {
	each(t, func(t *testing.T, m maker) {
		var ping, pong Handlers
		got := make(chan uint64, 1)
		// The slot of the last reply may not be released yet: its handler has told of it before.
		var mu sync.Mutex
		var again func() error
		reply := func() {
			if err := again(); err == nil || !errors.Is(err, ErrNoCredit) {
				again = nil
			}
		}
		ping.Quick(idShort, func(m *Msg) {
			ep, args := m.Endpoint, m.Args()
			mu.Lock()
			defer mu.Unlock()
			again = func() error { return ep.TryShort(idReply, args) }
			reply()
		})
		cfg := calm
		cfg.OnCredit = func() {
			mu.Lock()
			defer mu.Unlock()
			if again != nil {
				reply()
			}
		}
		pong.Quick(idReply, func(m *Msg) { got <- m.Args()[0] })
		a, _ := endpoints(t, m, &pong, &ping, calm, cfg)
		for i := range uint64(1000) {
			require.NoError(t, a.Short(within(t), idShort, [4]uint64{i}))
			require.Equal(t, i, await(t, got))
		}
	})
}

func TestClose(t *testing.T) {
	each(t, func(t *testing.T, m maker) {
		var h Handlers
		read := make(chan error, 2)
		h.Stream(idBlob, func(in *In) {
			_, err := io.Copy(io.Discard, in)
			read <- err
		})
		a, b := endpoints(t, m, &h, &h, calm, calm)
		out, err := a.Begin(within(t), idBlob, 1<<20)
		require.NoError(t, err)
		require.NoError(t, out.Piece(make([]byte, a.Payload()+1)))
		out2, err := b.Begin(within(t), idBlob, 1<<20)
		require.NoError(t, err)
		require.NoError(t, out2.Piece(make([]byte, a.Payload()+1)))
		require.NoError(t, a.Close())
		await(t, b.Done())
		require.ErrorIs(t, b.Err(), substrate.ErrPeerGone)
		require.Error(t, await(t, read))
		require.Error(t, out.End())
		require.ErrorIs(t, out2.End(), substrate.ErrPeerGone)
		require.ErrorIs(t, b.Short(within(t), idShort, [4]uint64{}), substrate.ErrPeerGone)
		require.NoError(t, b.Close())
		require.NoError(t, a.Close())
	})
}
