package activemsg

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// benchOver are the carriers of the benchmarks.
var benchOver = []string{"pipe", "shm", "tcp"}

func overEach(b *testing.B, f func(b *testing.B, m maker)) {
	for _, name := range benchOver {
		if m := makers[name]; m != nil {
			b.Run(name, func(b *testing.B) { f(b, m) })
		}
	}
}

// BenchmarkShort is the rate of messages of four numbers.
func BenchmarkShort(b *testing.B) {
	overEach(b, func(b *testing.B, m maker) {
		var got atomic.Int64
		over := make(chan bool, 1)
		var h Handlers
		h.Quick(1, func(m *Msg) {
			if got.Add(1) == int64(b.N) {
				over <- true
			}
		})
		x, _ := endpoints(b, m, &h, &h, calm, calm)
		ctx := context.Background()
		b.ReportAllocs()
		got.Store(0)
		b.ResetTimer()
		for i := range b.N {
			if err := x.Short(ctx, 1, [4]uint64{uint64(i)}); err != nil {
				b.Fatal(err)
			}
		}
		<-over
	})
}

// BenchmarkPingPong is the time of a Short and its answer.
func BenchmarkPingPong(b *testing.B) {
	overEach(b, func(b *testing.B, m maker) {
		back := make(chan bool, 1)
		var h Handlers
		h.Quick(1, func(m *Msg) { m.Endpoint.TryShort(2, m.Args()) })
		h.Quick(2, func(m *Msg) { back <- true })
		x, _ := endpoints(b, m, &h, &h, calm, calm)
		ctx := context.Background()
		b.ReportAllocs()
		b.ResetTimer()
		for range b.N {
			if err := x.Short(ctx, 1, [4]uint64{}); err != nil {
				b.Fatal(err)
			}
			<-back
		}
	})
}

// BenchmarkEager is the rate of messages that are copied at both ends, to a Stream handler and to a Quick one.
func BenchmarkEager(b *testing.B) {
	overEach(b, func(b *testing.B, m maker) {
		for _, size := range []int{64, 1 << 10, 16 << 10, 256 << 10} {
			b.Run(fmt.Sprint(size), func(b *testing.B) {
				var n atomic.Int64
				over := make(chan bool, 1)
				var h Handlers
				done := func() {
					if n.Add(1) == int64(b.N) {
						over <- true
					}
				}
				h.Quick(1, func(m *Msg) { done() })
				h.Stream(2, func(in *In) {
					var buf [16 << 10]byte
					for {
						if _, err := in.Read(buf[:]); err != nil {
							done()
							return
						}
					}
				})
				x, _ := endpoints(b, m, &h, &h, calm, calm)
				id := uint8(1)
				if size > x.Payload() {
					id = 2
				}
				blob := make([]byte, size)
				ctx := context.Background()
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					out, err := x.Begin(ctx, id, size)
					if err != nil {
						b.Fatal(err)
					}
					out.Piece(blob)
					if err := out.End(); err != nil {
						b.Fatal(err)
					}
				}
				<-over
			})
		}
	})
}

// BenchmarkDirect posts a buffer, has it filled, and is told, one after the other.
func BenchmarkDirect(b *testing.B) {
	for _, size := range []int{16 << 10, 256 << 10} {
		b.Run(fmt.Sprint("pipe/", size), func(b *testing.B) {
			posted, placed := make(chan bool, 1), make(chan bool, 1)
			var h, none Handlers
			h.Quick(1, func(*Msg) { posted <- true })
			x, y := endpoints(b, pipes, &h, &none, calm, Config{Death: patience, OnPlaced: func(uint64, int) { placed <- true }})
			buf, blob := make([]byte, size), [][]byte{make([]byte, size)}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if err := y.Post(1, 1, buf); err != nil {
					b.Fatal(err)
				}
				if err := y.TryShort(1, [4]uint64{}); err != nil { // it comes after the advert
					b.Fatal(err)
				}
				<-posted
				if n, err := x.Place(1, 1, blob); n != size || err != nil {
					b.Fatal(n, err)
				}
				<-placed
			}
		})
	}
}

// BenchmarkContended has many goroutines send at a time: what finds the carrier busy is corked.
func BenchmarkContended(b *testing.B) {
	overEach(b, func(b *testing.B, m maker) {
		var h Handlers
		h.Quick(1, func(*Msg) {})
		x, _ := endpoints(b, m, &h, &h, calm, calm)
		ctx := context.Background()
		b.ReportAllocs()
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := x.Short(ctx, 1, [4]uint64{}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// TestAllocations: nothing is allocated for a message once all is warm.
func TestAllocations(t *testing.T) {
	if raceOn {
		t.Skip("the race detector allocates")
	}
	var h Handlers
	got := make(chan bool, 1)
	h.Quick(1, func(*Msg) { got <- true })
	h.Stream(2, func(in *In) {
		var buf [1 << 10]byte
		for {
			if _, err := in.Read(buf[:]); err != nil {
				got <- true
				return
			}
		}
	})
	placed := make(chan bool, 1)
	x, y := endpoints(t, pipes, &h, &h, calm, Config{Death: patience, OnPlaced: func(uint64, int) { placed <- true }})
	ctx := context.Background()
	pieces := [][]byte{make([]byte, 100), make([]byte, 3000)}
	buf := make([]byte, 4096)
	for name, f := range map[string]func() error{
		"Short":    func() error { return x.Short(ctx, 1, [4]uint64{1}) },
		"TryShort": func() error { return x.TryShort(1, [4]uint64{1}) },
		"TrySend":  func() error { return x.TrySend(1, pieces) },
		"eager": func() error {
			out, err := x.Begin(ctx, 2, 1<<20)
			if err != nil {
				return err
			}
			for range 20 {
				out.Piece(pieces[1])
			}
			return out.End()
		},
		"direct": func() error {
			if err := y.Post(1, 1, buf); err != nil {
				return err
			}
			if err := y.TryShort(1, [4]uint64{}); err != nil {
				return err
			}
			<-got
			if n, err := x.Place(1, 1, pieces); n != 3100 || err != nil {
				return fmt.Errorf("%d, %w", n, err)
			}
			<-placed
			got <- true
			return nil
		},
	} {
		one := func() {
			require.NoError(t, f())
			<-got
		}
		for range 100 {
			one()
		}
		require.Less(t, testing.AllocsPerRun(1000, one), 0.1, name)
	}
}
