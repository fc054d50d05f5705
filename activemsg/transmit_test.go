package activemsg

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate/fault"
)

// A gate is a carrier whose calls wait for permission, and are noted.
type gate struct {
	Carrier
	waits int
	open  chan struct{} // one token lets one call through

	mu    sync.Mutex
	calls []int // segments in each
}

func (g *gate) Limits() Limits {
	l := g.Carrier.Limits()
	l.Waits = g.waits
	return l
}

func (g *gate) note(n int) {
	g.mu.Lock()
	g.calls = append(g.calls, n)
	g.mu.Unlock()
	<-g.open
}

func (g *gate) Send(head *[HeaderLen]byte, payload [][]byte) error {
	g.note(1)
	return g.Carrier.Send(head, payload)
}

func (g *gate) SendBatch(batch []Segment) error {
	g.note(len(batch))
	for i := range batch {
		if err := g.Carrier.Send(&batch[i].Head, [][]byte{batch[i].Payload}); err != nil {
			return err
		}
	}
	return nil
}

func (g *gate) Close() error {
	close(g.open)
	return g.Carrier.Close()
}

// gated returns an endpoint behind a gate, and what arrives at the other end: the first number of each message.
func gated(t *testing.T, waits int) (e *Endpoint, g *gate, got chan uint64) {
	got = make(chan uint64, 1000)
	var h Handlers
	h.Quick(idShort, func(m *Msg) { got <- binary.LittleEndian.Uint64(m.Payload) })
	e, _ = endpoints(t, func(testing.TB) (Carrier, Carrier) {
		x, y := Pipe(PipeConfig{})
		g = &gate{Carrier: x, waits: waits, open: make(chan struct{})}
		return g, y
	}, &h, &h, Config{Death: time.Hour}, Config{Death: time.Hour})
	return e, g, got
}

// TestCork: what is sent while the carrier is busy goes in one call, in order, and its senders don't wait.
func TestCork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, g, got := gated(t, 0)
		first := make(chan error, 1)
		go func() { first <- e.Short(t.Context(), idShort, [4]uint64{0}) }()
		synctest.Wait()
		var b [8]byte
		for i := range uint64(30) {
			binary.LittleEndian.PutUint64(b[:], i+1)
			switch i % 3 {
			case 0:
				require.NoError(t, e.Short(t.Context(), idShort, [4]uint64{i + 1}))
			case 1:
				require.NoError(t, e.TrySend(idShort, [][]byte{b[:4], b[4:]}))
			case 2:
				out, err := e.Begin(t.Context(), idShort, 8)
				require.NoError(t, err)
				require.NoError(t, out.Piece(b[:]))
				require.NoError(t, out.End())
			}
			clear(b[:]) // it was copied
		}
		require.Empty(t, first)
		g.open <- struct{}{}
		g.open <- struct{}{}
		require.NoError(t, <-first)
		for i := range uint64(31) {
			require.Equal(t, i, <-got)
		}
		require.Equal(t, []int{1, 30}, g.calls)
		close(g.open)
		g.open = make(chan struct{}, 10) // for the end
		g.open <- struct{}{}
	})
}

// TestCorkIsBounded: beyond it who can wait does, and who can't is told, and told when it is worth to try again.
func TestCorkIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		credit := 0
		var h Handlers
		h.Quick(idShort, func(m *Msg) {})
		var g *gate
		e, _ := endpoints(t, func(testing.TB) (Carrier, Carrier) {
			x, y := Pipe(PipeConfig{Slots: ControlSlots + 512})
			g = &gate{Carrier: x, open: make(chan struct{})}
			return g, y
		}, &h, &h, Config{Death: time.Hour, OnCredit: func() { credit++ }}, Config{Death: time.Hour})
		var all sync.WaitGroup
		all.Go(func() { e.Short(t.Context(), idShort, [4]uint64{}) })
		synctest.Wait()
		for range corkMost {
			require.NoError(t, e.TryShort(idShort, [4]uint64{}))
		}
		require.ErrorIs(t, e.TryShort(idShort, [4]uint64{}), ErrNoCredit)
		var after atomic.Bool
		all.Go(func() { e.Short(t.Context(), idShort, [4]uint64{}); after.Store(true) })
		synctest.Wait()
		require.False(t, after.Load())
		require.Zero(t, credit)
		close(g.open)
		synctest.Wait()
		all.Wait()
		require.Equal(t, 1, credit)
		require.EqualValues(t, corkMost+2, e.out.sent.Load(), "the credit of the refused one isn't lost")
		require.EqualValues(t, corkMost+2, e.out.taken)
		g.open = make(chan struct{}, 10)
		g.open <- struct{}{}
	})
}

// TestKeeperEmptiesTheCork: over a carrier whose Send may wait a Try leaves what others have corked to the keeper.
func TestKeeperEmptiesTheCork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, g, got := gated(t, 1<<20)
		first := make(chan error, 1)
		go func() { first <- e.TryShort(idShort, [4]uint64{0}) }()
		synctest.Wait()
		require.NoError(t, e.TryShort(idShort, [4]uint64{1}))
		g.open <- struct{}{}
		require.NoError(t, <-first, "without waiting for the second")
		synctest.Wait()
		require.Equal(t, []int{1, 1}, g.calls)
		g.open <- struct{}{}
		require.Equal(t, uint64(0), <-got)
		require.Equal(t, uint64(1), <-got)
		close(g.open)
		g.open = make(chan struct{}, 10)
		g.open <- struct{}{}
	})
}

// TestStorm: Quick handlers at both ends answer each message with one as long, over a link that holds far less than is under way. If the
// receiving goroutines sent by themselves each would wait for the other to receive.
func TestStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := fault.New(fault.Config{Seed: 1, Buffer: framedWaits + 2<<10})
		defer n.Close()
		l, err := n.Host("b").Listen(t.Context(), "b:1")
		require.NoError(t, err)
		la, err := n.Host("a").Dial(t.Context(), "b:1")
		require.NoError(t, err)
		lb, err := l.Accept()
		require.NoError(t, err)
		const volleys, length = 20, 4096
		var h Handlers
		var handled, dropped atomic.Int32
		over := make(chan struct{})
		end := func() {
			if handled.Add(1) == 2*volleys {
				close(over)
			}
		}
		h.Quick(idBlob, func(m *Msg) {
			left := m.Payload[0]
			if left == 0 {
				end()
				return
			}
			m.Payload[0]--
			if err := m.Endpoint.TrySend(idBlob, [][]byte{m.Payload}); err != nil {
				dropped.Add(1)
				end()
			}
		})
		a, b := endpoints(t, func(testing.TB) (Carrier, Carrier) {
			return framedOver(t, la, lb, FramedConfig{}, FramedConfig{})
		}, &h, &h, Config{}, Config{})
		blob := make([]byte, length)
		blob[0] = 50
		for _, e := range []*Endpoint{a, b} {
			go func() {
				for range volleys {
					if err := send(e, idBlob, blob, length); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		select {
		case <-over:
		case <-a.Done():
			t.Fatal(a.Err())
		case <-b.Done():
			t.Fatal(b.Err())
		}
		t.Logf("%d answers found no room", dropped.Load())
	})
}

// TestLastCredit: a sender that has used all credits it knows of is told of a single free slot at once, though handlers hold the others.
func TestLastCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Handlers
		got := make(chan uint64, 10)
		h.Quick(idShort, func(m *Msg) { got <- m.Args()[0] })
		h.Stream(idBlob, func(in *In) { <-in.Endpoint().Done() })
		a, _ := endpoints(t, func(testing.TB) (Carrier, Carrier) {
			return Pipe(PipeConfig{Payload: 64, Slots: ControlSlots + 4})
		}, &h, &h, Config{}, Config{Buffer: -1})
		require.NoError(t, a.Short(within(t), idShort, [4]uint64{1}))
		require.NoError(t, send(a, idBlob, make([]byte, 3*64), 64))
		require.NoError(t, a.Short(within(t), idShort, [4]uint64{2}))
		require.EqualValues(t, 1, <-got)
		require.EqualValues(t, 2, <-got)
	})
}
