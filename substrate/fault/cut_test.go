package fault

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

func TestCutUnblocksBothEnds(t *testing.T) {
	linked(t, Config{Buffer: 10}, func(t *testing.T, n *Network, a, b substrate.Link) {
		errs := make(chan error, 4)
		for _, l := range []substrate.Link{a, b} {
			n.On(l).Stall(Both, true)
			go func() {
				_, err := l.Send(0, [][]byte{make([]byte, 20)})
				errs <- err
			}()
			go func() {
				_, err := l.Recv(make([]byte, 1))
				errs <- err
			}()
		}
		synctest.Wait()
		require.Empty(t, errs)
		n.CutAll()
		for range 4 {
			require.ErrorIs(t, <-errs, ErrReset)
		}
		reset(t, a)
		reset(t, b)
		require.EqualValues(t, 1, n.Stats().Cuts)
	})
}

// TestCutLosesByChance looks at all a cut may do: 100 bytes have arrived, 200 more are in flight, and a prefix of them can
// be received whose length depends on the seed and on nothing else.
func TestCutLosesByChance(t *testing.T) {
	lengths := func() (got []int) {
		for seed := range uint64(60) {
			linked(t, Config{Seed: seed}, func(t *testing.T, n *Network, a, b substrate.Link) {
				all := strings.Repeat("0123456789", 30)
				send(t, a, all[:100])
				n.On(a).Shape(Forward, Shape{Delay: time.Second})
				send(t, a, all[100:])
				n.On(b).Cut()
				p, err := io.ReadAll(reader{b})
				require.ErrorIs(t, err, ErrReset)
				require.True(t, strings.HasPrefix(all, string(p)))
				got = append(got, len(p))
			})
		}
		return got
	}
	first := lengths()
	require.Equal(t, first, lengths(), "the same seeds, the same losses")
	var lost, partly int
	for _, n := range first {
		if n < 100 {
			lost++
		} else if n > 100 && n < 300 {
			partly++
		}
	}
	require.Positive(t, lost, "sometimes bytes that had arrived are lost")
	require.Positive(t, partly, "sometimes a part of what was in flight arrives")
}

func TestCutOnlyWhatIsMeant(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, n *Network, ln substrate.Listener) {
		a1, b1 := connect(t, n, ln)
		a2, b2 := connect(t, n, ln)
		c, err := n.Host("c").Dial(t.Context(), "b:1")
		require.NoError(t, err)
		cb := accept(t, ln)
		n.Cut(b1)
		reset(t, a1)
		send(t, a2, "x")
		recv(t, b2, "x")
		n.Between("b", "a").Cut()
		reset(t, a2)
		send(t, c, "x")
		recv(t, cb, "x")
		n.Between("c", "").Cut()
		reset(t, cb)
	})
}

func TestResetAfterIsExact(t *testing.T) {
	for _, shape := range []Shape{{}, {Delay: time.Second}, {SendPiece: 7, RecvPiece: 3}, {Rate: 1000}} {
		linked(t, Config{Buffer: 100}, func(t *testing.T, n *Network, a, b substrate.Link) {
			n.All().Shape(Both, shape)
			n.On(a).ResetAfter(250, Forward)
			done := make(chan int)
			go func() {
				k, err := a.Send(0, [][]byte{make([]byte, 1000)})
				require.ErrorIs(t, err, ErrReset)
				done <- k
			}()
			p, err := io.ReadAll(reader{b})
			require.ErrorIs(t, err, ErrReset)
			require.Lenf(t, p, 250, "%+v", shape)
			require.GreaterOrEqual(t, <-done, 250)
			reset(t, a)
		})
	}
}

func TestResetAfterTheOtherWay(t *testing.T) {
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		n.Between("a", "b").ResetAfter(3, Backward)
		send(t, a, "this way is not meant")
		send(t, b, "12")
		recv(t, b, "this way")
		b.Send(0, [][]byte{[]byte("34")})
		p, err := io.ReadAll(reader{a})
		require.ErrorIs(t, err, ErrReset)
		require.Equal(t, "123", string(p))
		// What had arrived at the other end is still there.
		recv(t, b, " is not meant")
		reset(t, b)
	})
}

// TestResetAfterTheLastByte: the reset comes with byte n, it doesn't wait for another.
func TestResetAfterTheLastByte(t *testing.T) {
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		n.On(a).ResetAfter(5, Forward)
		send(t, a, "1234")
		recv(t, b, "1234")
		nothing(t, b)
		a.Send(0, [][]byte{[]byte("5")})
		recv(t, b, "5")
		reset(t, b)
	})
}

func TestResetAfterWhatHasPassed(t *testing.T) {
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		send(t, a, "12345")
		n.On(a).ResetAfter(3, Forward)
		recv(t, b, "12345")
		reset(t, b)
	})
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		n.On(a).ResetAfter(0, Both)
		reset(t, a)
		reset(t, b)
	})
}

// TestCutAfterTheEnd: a cut may lose bytes that had arrived, so what follows them must not look like the end any more.
func TestCutAfterTheEnd(t *testing.T) {
	for seed := range uint64(20) {
		linked(t, Config{Seed: seed}, func(t *testing.T, n *Network, a, b substrate.Link) {
			send(t, a, "12345")
			require.NoError(t, a.Close())
			n.CutAll()
			reset(t, b)
		})
	}
}
