package fault

import (
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

func TestDelayIsPerDirection(t *testing.T) {
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		n.Between("a", "b").Shape(Forward, Shape{Delay: 30 * time.Millisecond})
		n.Between("a", "b").Shape(Backward, Shape{Delay: 5 * time.Millisecond})
		send(t, a, "there")
		require.Equal(t, 30*time.Millisecond, elapsed(func() { recv(t, b, "there") }))
		send(t, b, "back")
		require.Equal(t, 5*time.Millisecond, elapsed(func() { recv(t, a, "back") }))
		require.Equal(t, 35*time.Millisecond, a.Cost().RTT)
	})
}

func TestJitterKeepsOrder(t *testing.T) {
	linked(t, Config{Seed: 3}, func(t *testing.T, n *Network, a, b substrate.Link) {
		n.On(a).Shape(Forward, Shape{Delay: time.Millisecond, Jitter: 10 * time.Millisecond})
		var want strings.Builder
		for i := range 100 {
			piece := strings.Repeat(string(rune('a'+i%26)), 1+i%7)
			want.WriteString(piece)
			send(t, a, piece)
		}
		took := elapsed(func() { recv(t, b, want.String()) })
		require.Greater(t, took, time.Millisecond)
		require.LessOrEqual(t, took, 11*time.Millisecond)
	})
}

// TestShorterDelayDoesNotOvertake: what was sent under a long delay comes first, also when the delay is gone.
func TestShorterDelayDoesNotOvertake(t *testing.T) {
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		n.On(a).Shape(Forward, Shape{Delay: time.Second})
		send(t, a, "slow ")
		n.On(a).Shape(Forward, Shape{})
		send(t, a, "fast")
		nothing(t, b)
		require.Equal(t, time.Second, elapsed(func() { recv(t, b, "slow fast") }))
	})
}

func TestRate(t *testing.T) {
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		n.All().Shape(Both, Shape{Rate: 1000, Delay: time.Second})
		go a.Send(0, [][]byte{make([]byte, 200_000)}) // more than the buffer holds
		require.Equal(t, 11*time.Second, elapsed(func() { recv(t, b, strings.Repeat("\x00", 10_000)) }).Round(time.Millisecond))
		require.Equal(t, 190*time.Second, elapsed(func() { recv(t, b, strings.Repeat("\x00", 190_000)) }).Round(time.Second))
		require.InDelta(t, 1e6, a.Cost().PerByte, 0)
	})
}

func TestPieces(t *testing.T) {
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		n.On(a).Shape(Forward, Shape{RecvPiece: 10})
		send(t, a, strings.Repeat("x", 1000))
		sizes := map[int]int{}
		for got := 0; got < 1000; {
			k, err := b.Recv(make([]byte, 100))
			require.NoError(t, err)
			require.LessOrEqual(t, k, 10)
			sizes[k]++
			got += k
		}
		require.Greater(t, len(sizes), 5, "short reads of all sizes")

		// Pieces travel by themselves: jitter spreads them.
		n.On(a).Shape(Forward, Shape{SendPiece: 100, Jitter: time.Second})
		send(t, a, strings.Repeat("x", 1000))
		k, err := b.Recv(make([]byte, 1000))
		require.NoError(t, err)
		require.Less(t, k, 1000)
	})
}

func TestStallResumes(t *testing.T) {
	linked(t, Config{Buffer: 10}, func(t *testing.T, n *Network, a, b substrate.Link) {
		n.On(a).Stall(Forward, true)
		send(t, a, "12345")
		nothing(t, b)
		// The other direction goes on.
		send(t, b, "back")
		recv(t, a, "back")
		// The buffer fills, and no more.
		require.NoError(t, a.SetSendDeadline(time.Now().Add(time.Hour)))
		k, err := a.Send(0, [][]byte{[]byte("67890abc")})
		require.Equal(t, 5, k)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		n.On(a).Stall(Forward, false)
		recv(t, b, "1234567890")
	})
}

// TestStallsAddUp: a direction goes on when the last scope that stalls it has let go.
func TestStallsAddUp(t *testing.T) {
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		scopes := []Scope{n.All(), n.Between("b", "a"), n.Between("", "b"), n.On(b)}
		for _, s := range scopes {
			s.Stall(Both, true)
		}
		send(t, a, "x")
		for _, s := range scopes {
			nothing(t, b)
			s.Stall(Both, false)
		}
		recv(t, b, "x")
	})
}

func TestBlackholeSwallows(t *testing.T) {
	linked(t, Config{Buffer: 10}, func(t *testing.T, n *Network, a, b substrate.Link) {
		send(t, a, "12")
		n.On(b).Blackhole(Backward, true)
		send(t, a, "34")
		n.On(b).Blackhole(Backward, false)
		send(t, a, "56") // a stream that lost bytes must not go on with the next ones
		recv(t, b, "12")
		pass(time.Hour)
		nothing(t, b)
		send(t, b, "back")
		recv(t, a, "back")
		// Not even its end comes, nor does the sender learn anything but that the buffer is full.
		require.NoError(t, a.SetSendDeadline(time.Now().Add(time.Hour)))
		_, err := a.Send(0, [][]byte{make([]byte, 10)})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, a.Close())
		pass(time.Hour)
		nothing(t, b)
		n.Cut(b)
		reset(t, b)
	})
}

func TestBlackholeSwallowsWhatIsInFlight(t *testing.T) {
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		n.All().Shape(Both, Shape{Delay: time.Second})
		send(t, a, "x")
		n.All().Blackhole(Both, true)
		n.All().Blackhole(Both, false)
		pass(time.Hour)
		nothing(t, b)
	})
}

// TestBlackholeOverNothing: a hole through which nothing fell leaves no trace.
func TestBlackholeOverNothing(t *testing.T) {
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		send(t, a, "before ")
		n.Between("a", "b").Blackhole(Both, true)
		pass(time.Minute)
		n.Between("a", "b").Blackhole(Both, false)
		send(t, a, "after")
		recv(t, b, "before after")
	})
}

// TestNarrowShapeWins: a link's own shape goes before its hosts', that before the one for all; later links have it, too.
func TestNarrowShapeWins(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, n *Network, ln substrate.Listener) {
		delay := func(d time.Duration) Shape { return Shape{Delay: d} }
		a, b := connect(t, n, ln)
		takes := func(d time.Duration) {
			t.Helper()
			send(t, a, "x")
			require.Equal(t, d, elapsed(func() { recv(t, b, "x") }))
		}
		n.On(a).Shape(Forward, delay(1))
		n.Between("a", "b").Shape(Forward, delay(2))
		n.Between("a", "").Shape(Forward, delay(3))
		n.All().Shape(Forward, delay(4))
		takes(1)
		a, b = connect(t, n, ln)
		takes(2)
		n.Between("a", "b").Shape(Forward, delay(5))
		takes(5)
		c, err := n.Host("c").Dial(t.Context(), "b:1")
		require.NoError(t, err)
		a, b = c, accept(t, ln)
		takes(4)
	})
}

func TestEndArrivesAfterLastByte(t *testing.T) {
	linked(t, Config{}, func(t *testing.T, n *Network, a, b substrate.Link) {
		n.All().Shape(Both, Shape{Delay: time.Second})
		send(t, a, "last")
		require.NoError(t, a.Close())
		// Until it hears of the end, the peer can send into the void.
		send(t, b, "into the void")
		var all []byte
		require.Equal(t, time.Second, elapsed(func() { all, _ = io.ReadAll(reader{b}) }))
		require.Equal(t, "last", string(all))
		_, err := b.Send(0, [][]byte{{1}})
		require.ErrorIs(t, err, ErrEnded)
		require.ErrorIs(t, err, substrate.ErrPathDown)
	})
}

func TestHardClose(t *testing.T) {
	linked(t, Config{HardClose: true}, func(t *testing.T, n *Network, a, b substrate.Link) {
		send(t, b, "unread")
		synctest.Wait()
		require.NoError(t, a.Close())
		reset(t, b)
	})
}
