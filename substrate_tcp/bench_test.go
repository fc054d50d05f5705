package tcp

import (
	"fmt"
	"io"
	"testing"
)

// BenchmarkSendRecv sends one message and receives it, in one goroutine: what a system call each way costs, and that nothing
// is allocated.
func BenchmarkSendRecv(b *testing.B) {
	for _, size := range []int{128, 4096, 32 << 10} {
		for _, slices := range []int{1, 3} {
			b.Run(fmt.Sprintf("%dB/%d", size, slices), func(b *testing.B) {
				from, to := pair(b, Options{})
				p := make([]byte, size)
				bufs := [][]byte{p}
				if slices == 3 {
					bufs = [][]byte{p[:10], p[10 : size/2], p[size/2:]}
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := from.Send(0, bufs); err != nil {
						b.Fatal(err)
					}
					for got := 0; got < size; {
						n, err := to.Recv(p)
						if err != nil {
							b.Fatal(err)
						}
						got += n
					}
				}
			})
		}
	}
}

// BenchmarkRaw is BenchmarkSendRecv on the bare connections, for comparison.
func BenchmarkRaw(b *testing.B) {
	for _, size := range []int{128, 4096, 32 << 10} {
		b.Run(fmt.Sprintf("%dB/1", size), func(b *testing.B) {
			from, to := pair(b, Options{})
			w, r := from.(*link).NetConn(), to.(*link).NetConn()
			p := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.Write(p); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(r, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
