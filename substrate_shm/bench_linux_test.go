package shm

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// placements are where the two processes run.
var placements = []struct{ name, here, there string }{
	{"same", "0", "0"},
	{"two", "0", "1"},
	{"free", "", ""},
}

// BenchmarkPingPong bounces a message between two processes, over shared memory and what the kernel has, and reports the median
// round trip beside the mean. GOMAXPROCS=1 and processes that keep the processors busy are the caller's to add.
func BenchmarkPingPong(b *testing.B) {
	beside(b, []int{128, 8 << 10, 32 << 10}, func(b *testing.B, s stream, size int) {
		p := make([]byte, size)
		ask(b, s, task{Count: uint32(b.N), Size: uint32(size), Echo: true})
		rtts := make([]time.Duration, 0, b.N)
		b.ResetTimer()
		last := time.Now()
		for range b.N {
			if _, err := s.Write(p); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(s, p); err != nil {
				b.Fatal(err)
			}
			now := time.Now()
			rtts = append(rtts, now.Sub(last))
			last = now
		}
		b.StopTimer()
		slices.Sort(rtts)
		b.ReportMetric(float64(rtts[len(rtts)/2]), "ns/p50")
		b.ReportMetric(float64(rtts[len(rtts)*9/10]), "ns/p90")
		b.ReportMetric(float64(rtts[len(rtts)*99/100]), "ns/p99")
	})
}

// BenchmarkBandwidth sends messages to another process as fast as it takes them.
func BenchmarkBandwidth(b *testing.B) {
	beside(b, []int{1 << 10, 32 << 10, 1 << 20}, func(b *testing.B, s stream, size int) {
		p := make([]byte, size)
		b.SetBytes(int64(size))
		ask(b, s, task{Count: uint32(b.N), Size: uint32(size)})
		b.ResetTimer()
		for range b.N {
			if _, err := s.Write(p); err != nil {
				b.Fatal(err)
			}
		}
		_, err := io.ReadFull(s, p[:1])
		require.NoError(b, err)
	})
}

// beside runs a benchmark for each placement, transport and size.
func beside(b *testing.B, sizes []int, run func(b *testing.B, s stream, size int)) {
	for _, at := range placements {
		if at.there == "1" && runtime.NumCPU() < 2 {
			continue
		}
		for _, size := range sizes {
			for _, network := range []string{"tcp", "unix", name} {
				b.Run(fmt.Sprintf("%s/%dB/%s", at.name, size, network), func(b *testing.B) {
					s, _ := start(b, "serve", network, at.there, nil)
					pin(at.here)
					defer pin("")
					b.ReportAllocs()
					run(b, s, size)
				})
			}
		}
	}
}

func ask(b *testing.B, s stream, t task) {
	require.NoError(b, binary.Write(s, binary.LittleEndian, t))
}

// BenchmarkSendRecv sends one message and receives it, in one goroutine: what the copies and the cursors cost, and that nothing is
// allocated.
func BenchmarkSendRecv(b *testing.B) {
	for _, size := range []int{128, 4096, 32 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			from, to := pair(b, Options{})
			p := make([]byte, size)
			bufs := [][]byte{p}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := from.Send(0, bufs); err != nil {
					b.Fatal(err)
				}
				if n, err := to.Recv(p); n != size || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// BenchmarkInProcess bounces a message between two goroutines.
func BenchmarkInProcess(b *testing.B) {
	for _, size := range []int{128, 32 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			near, far := pair(b, Options{})
			done := make(chan error)
			go func() { done <- serve(&linkStream{Link: far}) }()
			s := &linkStream{Link: near}
			ask(b, s, task{Count: uint32(b.N), Size: uint32(size), Echo: true})
			p := make([]byte, size)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if _, err := s.Write(p); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(s, p); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			near.Close()
			require.NoError(b, <-done)
		})
	}
}
