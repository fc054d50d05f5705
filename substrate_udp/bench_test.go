package udp

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/netem"
	"github.com/sockemu/sockemu/substrate"
	tcp "github.com/sockemu/sockemu/substrate_tcp"
)

var benchSizes = []int{128, 1 << 10, 4 << 10, 32 << 10, 1 << 20}

// substrates are measured in the same run: the machine's mood changes between runs.
func substrates(b *testing.B) map[string]substrate.Substrate {
	return map[string]substrate.Substrate{"udp": newTest(b, Options{}), "tcp": tcp.New(tcp.Options{})}
}

func eachSubstrate(b *testing.B, f func(b *testing.B, x, y substrate.Link, size int)) {
	for _, size := range benchSizes {
		for _, kind := range []string{"tcp", "udp"} {
			b.Run(fmt.Sprintf("%d/%s", size, kind), func(b *testing.B) {
				s := substrates(b)[kind]
				x, y := pair(b, s, s)
				f(b, x, y, size)
			})
		}
	}
}

// BenchmarkPingPong sends a message there and back.
func BenchmarkPingPong(b *testing.B) {
	eachSubstrate(b, func(b *testing.B, x, y substrate.Link, size int) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			p := make([]byte, size)
			in, bufs := io.Reader(reader{y}), [][]byte{p}
			for off := uint64(0); ; off += uint64(size) {
				if _, err := io.ReadFull(in, p); err != nil {
					return
				}
				if _, err := y.Send(off, bufs); err != nil {
					return
				}
			}
		}()
		p, q := make([]byte, size), make([]byte, size)
		bufs := [][]byte{p}
		in := io.Reader(reader{x})
		b.ReportAllocs()
		off := uint64(0)
		for b.Loop() {
			_, err := x.Send(off, bufs)
			require.NoError(b, err)
			off += uint64(size)
			_, err = io.ReadFull(in, q)
			require.NoError(b, err)
		}
		x.Close()
		y.Close()
		<-done
	})
}

// BenchmarkStream sends one way.
func BenchmarkStream(b *testing.B) {
	eachSubstrate(b, func(b *testing.B, x, y substrate.Link, size int) {
		done := make(chan struct{})
		got := 0
		go func() {
			defer close(done)
			p := make([]byte, 256<<10)
			for {
				n, err := y.Recv(p)
				if err != nil {
					return
				}
				got += n
			}
		}()
		p := make([]byte, size)
		bufs := [][]byte{p}
		b.ReportAllocs()
		b.SetBytes(int64(size))
		off := uint64(0)
		for b.Loop() {
			_, err := x.Send(off, bufs)
			require.NoError(b, err)
			off += uint64(size)
		}
		x.Close()
		<-done
		require.EqualValues(b, off, got)
	})
}

type reader struct{ substrate.Link }

func (r reader) Read(p []byte) (int, error) { return r.Recv(p) }

// pair makes a link between two substrates, both ends of which are closed with the test.
func pair(t testing.TB, from, to substrate.Substrate) (dialed, accepted substrate.Link) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ln, err := to.Listen(ctx, "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	dialed, err = from.Dial(ctx, ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { dialed.Close() })
	accepted, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { accepted.Close() })
	return dialed, accepted
}

// BenchmarkPath moves 5 MiB over emulated paths.
func BenchmarkPath(b *testing.B) {
	for _, spec := range []string{
		"rate=100mbit,delay=10ms", "rate=100mbit,delay=10ms,loss=1%", "rate=1gbit,delay=1ms", "rate=1gbit,delay=1ms,loss=1%",
		"rate=100mbit,delay=5ms,jitter=3ms,unordered",
	} {
		b.Run(spec, func(b *testing.B) {
			s := newTest(b, Options{MTU: 1472})
			ln, err := s.Listen(b.Context(), "127.0.0.1:0")
			require.NoError(b, err)
			defer ln.Close()
			im := netem.MustParse(spec)
			f := forward(b, netem.UDPConfig{To: ln.Addr().String(), Up: im, Down: im})
			const size = 5 << 20
			b.SetBytes(size)
			for b.Loop() {
				x, err := s.Dial(b.Context(), f.Addr().String())
				require.NoError(b, err)
				y, err := ln.Accept()
				require.NoError(b, err)
				transfer(b, x, y, size)
				require.NoError(b, x.Close())
				require.NoError(b, y.Close())
			}
		})
	}
}
