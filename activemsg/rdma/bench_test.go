package rdma

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/internal/look"
	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
)

// BenchmarkCarrier is the cost of a segment from Send to Done, both ends in one goroutine. What the sim itself costs is
// BenchmarkSend of package sim.
func BenchmarkCarrier(b *testing.B) {
	s := simulated(b, sim.Config{})
	x, y := s.connect(b, ConnConfig{}, ConnConfig{})
	lent := x.Lend(16 << 10)
	posted, err := y.Alloc(16 << 10)
	require.NoError(b, err)
	key, err := y.Expose(posted)
	require.NoError(b, err)
	var batch [1]activemsg.Segment
	vec := make([][]byte, 1)
	h := head(1)
	take := func() {
		if n, err := y.Recv(batch[:]); n != 1 || err != nil {
			b.Fatal(n, err)
		}
		y.Done(&batch[0])
	}
	for _, n := range []int{32, 1024, 16 << 10} {
		n = min(n, x.Limits().Payload)
		for name, from := range map[string][]byte{"Copied": make([]byte, n), "Lent": lent[:n]} {
			if name == "Lent" && n < x.Thresholds().Keep {
				continue
			}
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(n))
				for b.Loop() {
					vec[0] = from
					if err := x.Send(h, vec); err != nil {
						b.Fatal(err)
					}
					take()
				}
			})
		}
	}
	for name, from := range map[string][]byte{"PlaceCopied": make([]byte, 16<<10), "PlaceLent": lent} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(16 << 10)
			for b.Loop() {
				vec[0] = from
				if err := x.Place(key, vec); err != nil {
					b.Fatal(err)
				}
				if err := x.Send(h, nil); err != nil {
					b.Fatal(err)
				}
				take()
			}
		})
	}
}

// BenchmarkShort is the cost of a short message between two endpoints, credits and goroutines included: as fast as they go.
func BenchmarkShort(b *testing.B) {
	s := simulated(b, sim.Config{})
	x, y := s.connect(b, ConnConfig{}, ConnConfig{})
	var none, h activemsg.Handlers
	done := make(chan struct{})
	var handled, want uint64
	h.Quick(1, func(m *activemsg.Msg) {
		handled++
		if m.Args()[0] == 1 && handled == want {
			done <- struct{}{}
		}
	})
	h.Quick(2, func(m *activemsg.Msg) { want = m.Args()[0]; handled = 0 })
	ex, err := activemsg.New(x, &none, activemsg.Config{})
	require.NoError(b, err)
	defer ex.Close()
	ey, err := activemsg.New(y, &h, activemsg.Config{})
	require.NoError(b, err)
	defer ey.Close()
	b.ReportAllocs()
	ctx := b.Context()
	require.NoError(b, ex.Short(ctx, 2, [4]uint64{uint64(b.N)}))
	b.ResetTimer()
	for i := range b.N {
		var last uint64
		if i == b.N-1 {
			last = 1
		}
		if err := ex.Short(ctx, 1, [4]uint64{last}); err != nil {
			b.Fatal(err)
		}
	}
	<-done
}

// BenchmarkDevice is the round trip of a message on the device that SOCKEMU_TEST_RDMA_DEVICE names, between two goroutines: of a queue pair
// alone, of a carrier, of endpoints. They look for completions in the same way.
//
//	SOCKEMU_TEST_RDMA_DEVICE=rxe0 go test ./activemsg/rdma -run xxx -bench Device -benchtime 1000x
func BenchmarkDevice(b *testing.B) {
	s := onDevice(b)
	for _, n := range []int{160, 1024, 4096, 16000} {
		b.Run(fmt.Sprintf("QueuePair/%d", n), func(b *testing.B) { pingQueuePair(b, s, n) })
		b.Run(fmt.Sprintf("Carrier/%d", n), func(b *testing.B) { pingCarrier(b, s, n) })
		b.Run(fmt.Sprintf("Endpoint/%d", n), func(b *testing.B) { pingEndpoint(b, s, n) })
	}
}

// BenchmarkDeviceRegister is what it costs to let the peer write into a buffer and to take that back, without asking the peer, beside one
// copy of as much.
//
//	SOCKEMU_TEST_RDMA_DEVICE=rxe0 go test ./activemsg/rdma -run xxx -bench DeviceRegister
func BenchmarkDeviceRegister(b *testing.B) {
	s := onDevice(b)
	c, _ := s.connect(b, ConnConfig{Strict: true}, ConnConfig{})
	for _, n := range []int{32 << 10, 256 << 10, 1 << 20} {
		buf, err := c.Alloc(n)
		require.NoError(b, err)
		to := make([]byte, n)
		b.Run(fmt.Sprintf("Register/%d", n), func(b *testing.B) {
			for b.Loop() {
				k, err := c.Expose(buf)
				require.NoError(b, err)
				c.Hide(k)
			}
		})
		b.Run(fmt.Sprintf("Copy/%d", n), func(b *testing.B) {
			for b.Loop() {
				copy(to, buf)
			}
		})
	}
}

// pingQueuePair uses the queue pairs of two carriers, past them.
func pingQueuePair(b *testing.B, s *setup, n int) {
	x, y := s.connect(b, ConnConfig{}, ConnConfig{})
	send := func(c *Carrier) error {
		wr := verbs.SendWR{Flags: verbs.FlagSignaled, NumSGE: 1}
		if n <= c.inline {
			wr.Flags |= verbs.FlagInline
		}
		wr.SGE[0] = c.at(c.tx.mem, n)
		if err := c.qp.Post(nil, []verbs.SendWR{wr}); err != nil {
			return err
		}
		return nil
	}
	poll := func(cq verbs.CQ) (verbs.Completion, error) {
		var wc [1]verbs.Completion
		for {
			k, err := cq.Spin(wc[:], look.Burst, x.yield)
			if k == 1 || err != nil {
				return wc[0], err
			}
			runtime.Gosched()
		}
	}
	half := func(c *Carrier, first bool) error {
		for range b.N {
			if first {
				if err := send(c); err != nil {
					return err
				}
			}
			w, err := poll(c.recvs)
			if err != nil || w.Status != verbs.StatusOK {
				return fmt.Errorf("%v, %w", w.Status, err)
			}
			if err := c.qp.Post([]verbs.RecvWR{c.recvWR(w.ID)}, nil); err != nil {
				return err
			}
			if !first {
				if err := send(c); err != nil {
					return err
				}
			}
			if _, err := poll(c.sends); err != nil {
				return err
			}
		}
		return nil
	}
	pingPong(b, func() error { return half(x, true) }, func() error { return half(y, false) })
}

func pingPong(b *testing.B, first, second func() error) {
	ended := make(chan error, 1)
	b.ResetTimer()
	go func() { ended <- second() }()
	require.NoError(b, first())
	require.NoError(b, <-ended)
	b.StopTimer()
}

func pingCarrier(b *testing.B, s *setup, n int) {
	x, y := s.connect(b, ConnConfig{}, ConnConfig{})
	half := func(c *Carrier, first bool) error {
		payload := [][]byte{make([]byte, n-activemsg.HeaderLen)}
		var batch [1]activemsg.Segment
		h := head(1)
		for range b.N {
			if first {
				if err := c.Send(h, payload); err != nil {
					return err
				}
			}
			if _, err := c.Recv(batch[:]); err != nil {
				return err
			}
			c.Done(&batch[0])
			if !first {
				if err := c.Send(h, payload); err != nil {
					return err
				}
			}
		}
		return nil
	}
	pingPong(b, func() error { return half(x, true) }, func() error { return half(y, false) })
}

func pingEndpoint(b *testing.B, s *setup, n int) {
	x, y := s.connect(b, ConnConfig{}, ConnConfig{})
	payload := [][]byte{make([]byte, n-activemsg.HeaderLen)}
	var here, there activemsg.Handlers
	back := activemsg.NewWaiter()
	here.Quick(1, func(*activemsg.Msg) { back.Wake() })
	there.Quick(1, func(m *activemsg.Msg) { m.Endpoint.TrySend(1, [][]byte{m.Payload}) })
	ex, err := activemsg.New(x, &here, activemsg.Config{})
	require.NoError(b, err)
	defer ex.Close()
	ey, err := activemsg.New(y, &there, activemsg.Config{})
	require.NoError(b, err)
	defer ey.Close()
	b.ResetTimer()
	for range b.N {
		if err := ex.TrySend(1, payload); err != nil {
			b.Fatal(err)
		}
		ex.Wait(back, nil)
	}
	b.StopTimer()
}
