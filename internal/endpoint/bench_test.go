package endpoint

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/sockemu/sockemu/internal/session"
	tcp "github.com/sockemu/sockemu/substrate_tcp"
)

// pair returns the two ends of a connection over loopback TCP, its links in bare mode.
func pair(b *testing.B, cfg session.Config) (net.Conn, net.Conn) {
	sub := tcp.New(tcp.Options{})
	x, y := New(Config{Substrate: sub, Session: cfg}), New(Config{Substrate: sub, Session: cfg})
	b.Cleanup(func() { x.Close(); y.Close() })
	l, err := y.Listen(context.Background(), "127.0.0.1:0", Plain{})
	if err != nil {
		b.Fatal(err)
	}
	c, err := x.Dial(context.Background(), l.Addr().String(), 0)
	if err != nil {
		b.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return c, a.Session
}

var sizes = []int{128, 4 << 10, 32 << 10, 1 << 20}

// BenchmarkRoundTrip bounces a message of each size between two goroutines.
func BenchmarkRoundTrip(b *testing.B) {
	for _, seal := range []bool{false, true} {
		for _, n := range sizes {
			b.Run(fmt.Sprintf("sealed=%v/%d", seal, n), func(b *testing.B) {
				x, y := pair(b, session.Config{Seal: seal})
				go func() {
					buf := make([]byte, n)
					for {
						if _, err := io.ReadFull(y, buf); err != nil {
							return
						}
						y.Write(buf)
					}
				}()
				buf := make([]byte, n)
				b.ReportAllocs()
				b.SetBytes(int64(2 * n))
				for b.Loop() {
					x.Write(buf)
					if _, err := io.ReadFull(x, buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkStream sends one way.
func BenchmarkStream(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			x, y := pair(b, session.Config{})
			done := make(chan struct{})
			go func() {
				defer close(done)
				buf := make([]byte, max(n, 64<<10))
				for {
					if _, err := y.Read(buf); err != nil {
						return
					}
				}
			}()
			buf := make([]byte, n)
			b.ReportAllocs()
			b.SetBytes(int64(n))
			for b.Loop() {
				if _, err := x.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			x.(*session.Session).CloseWrite()
			<-done
		})
	}
}
