package verbs

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg/verbs/sim"
)

// BenchmarkPingPong is the round trip of a message over a link, between two goroutines, on a simulated device without any delay: what
// active messages and the link cost outside the wire, four times.
//
//	go test ./substrate_verbs -run '^$' -bench PingPong -benchmem
func BenchmarkPingPong(b *testing.B) {
	pingPong(b, func(*testing.B) setting { return onSim(sim.Config{}) })
}

// BenchmarkDevicePingPong is the same on the device that SOCKEMU_TEST_RDMA_DEVICE names.
func BenchmarkDevicePingPong(b *testing.B) {
	pingPong(b, func(b *testing.B) setting { return onDevice(b) })
}

func pingPong(b *testing.B, where func(*testing.B) setting) {
	for _, n := range []int{128, 1024, 16 << 10, 64 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := where(b)
			to := newTest(b, Options{Fabric: s.b, Death: emulated})
			at, err := to.Listen(b.Context(), s.listen)
			require.NoError(b, err)
			defer at.Close()
			x, y := joinTo(b, newTest(b, Options{Fabric: s.a, Death: emulated}), at)
			b.ReportAllocs()
			b.ResetTimer()
			require.NoError(b, dialogue(x, y, n, b.N))
		})
	}
}

// BenchmarkMessage is what a message costs outside the wire, both ends in one goroutine: Send, and a Recv that waits for it.
func BenchmarkMessage(b *testing.B) {
	for _, n := range []int{128, 1024, 4096, 16 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := onSim(sim.Config{})
			to := newTest(b, Options{Fabric: s.b, Death: emulated})
			at, err := to.Listen(b.Context(), s.listen)
			require.NoError(b, err)
			defer at.Close()
			x, y := joinTo(b, newTest(b, Options{Fabric: s.a, Death: emulated}), at)
			<-x.p.trial.over
			<-y.p.trial.over
			p := make([]byte, n)
			bufs := [][]byte{p}
			b.ReportAllocs()
			b.SetBytes(int64(n))
			for b.Loop() {
				if _, err := x.Send(0, bufs); err != nil {
					b.Fatal(err)
				}
				for got := 0; got < n; {
					k, err := y.Recv(p[got:])
					if err != nil {
						b.Fatal(err)
					}
					got += k
				}
			}
		})
	}
}
