package netem

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// inBubble runs fn in virtual time with a pair of endpoints.
func inBubble(t *testing.T, up, down string, fn func(t *testing.T, a, b *Conn)) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := Pair(1, MustParse(up), MustParse(down))
		defer n.Close()
		fn(t, a, b)
	})
}

func TestNetworkDelays(t *testing.T) {
	inBubble(t, "rate=8mbit,delay=10ms", "delay=30ms", func(t *testing.T, a, b *Conn) {
		start := time.Now()
		p := make([]byte, 2000)
		n, err := a.WriteTo(make([]byte, 1000), b.LocalAddr())
		require.NoError(t, err)
		require.Equal(t, 1000, n)
		n, from, err := b.ReadFrom(p)
		require.NoError(t, err)
		require.Equal(t, 1000, n)
		require.Equal(t, a.LocalAddr(), from)
		require.Equal(t, 11*time.Millisecond, time.Since(start), "1 ms of sending, 10 of travel")
		_, err = b.WriteTo([]byte("answer"), from)
		require.NoError(t, err)
		n, from, err = a.ReadFrom(p)
		require.NoError(t, err)
		require.Equal(t, "answer", string(p[:n]))
		require.Equal(t, b.LocalAddr(), from)
		require.Equal(t, 41*time.Millisecond, time.Since(start))
	})
}

// TestNetworkAccountsForEverything: what b reads is what the pipe says it delivered; damage is one bit.
func TestNetworkAccountsForEverything(t *testing.T) {
	inBubble(t, "rate=10mbit,queue=20k,delay=20ms,jitter=5ms,loss=5%,burst=3,dup=5%,corrupt=5%,reorder=5%", "none", func(t *testing.T, a, b *Conn) {
		const n, size = 3000, 1000
		p := make([]byte, size)
		for i := range n {
			binary.BigEndian.PutUint32(p, uint32(i))
			_, err := a.WriteToUDPAddrPort(p, b.AddrPort())
			require.NoError(t, err)
			time.Sleep(700 * time.Microsecond) // virtual: somewhat more than the rate
		}
		time.Sleep(time.Second)
		up, _ := a.Stats()
		var got, corrupt, late uint64
		var newest uint32
		require.NoError(t, b.SetReadDeadline(time.Now().Add(time.Second)))
		for {
			k, _, err := b.ReadFrom(p)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			require.NoError(t, err)
			require.Equal(t, size, k)
			got++
			i, bad := binary.BigEndian.Uint32(p), false
			for _, c := range p[4:] {
				bad = bad || c != 0
			}
			switch {
			case bad || i >= n: // a hit of the number's low bits goes unseen: 12 of 8000
				corrupt++
			case i < newest:
				late++
			default:
				newest = i
			}
		}
		require.Equal(t, up.Delivered, got)
		require.EqualValues(t, n, up.Admitted)
		require.Equal(t, up.Admitted+up.Duplicated, up.Delivered+up.Dropped())
		require.InDelta(t, up.Corrupted, corrupt, 3)
		require.InDelta(t, up.Reordered, late, 0.3*float64(up.Reordered), "a packet may be held back with those behind it")
		require.NotZero(t, up.QueueFull)
		require.Zero(t, b.Unread())
	})
}

func TestNetworkRebind(t *testing.T) {
	inBubble(t, "none", "delay=10ms", func(t *testing.T, a, b *Conn) {
		p := make([]byte, 100)
		before := a.AddrPort()
		require.NoError(t, a.Rebind("192.168.7.7:99"))
		_, err := a.WriteTo([]byte("it's still me"), b.LocalAddr())
		require.NoError(t, err)
		_, from, err := b.ReadFromUDPAddrPort(p)
		require.NoError(t, err)
		require.Equal(t, "192.168.7.7:99", from.String())
		_, err = b.WriteToUDPAddrPort([]byte("lost"), before)
		require.NoError(t, err)
		_, err = b.WriteToUDPAddrPort([]byte("found"), from)
		require.NoError(t, err)
		n, _, err := a.ReadFrom(p)
		require.NoError(t, err)
		require.Equal(t, "found", string(p[:n]))
		require.EqualValues(t, 1, a.network.Nobody())
		require.ErrorContains(t, a.Rebind(b.AddrPort().String()), "taken")
		require.Error(t, a.Rebind("nowhere"))
		require.NoError(t, a.Rebind(from.String()), "the address it has")
		c, err := a.network.Listen(before.String(), Link{})
		require.NoError(t, err, "the old address is free")
		require.NoError(t, c.Close())
		require.ErrorIs(t, c.Rebind("1.1.1.1:1"), net.ErrClosed)
	})
}

func TestNetworkBlackhole(t *testing.T) {
	inBubble(t, "none", "none", func(t *testing.T, a, b *Conn) {
		p := make([]byte, 10)
		say := func(what string) {
			_, err := a.WriteTo([]byte(what), b.LocalAddr())
			require.NoError(t, err)
		}
		require.NoError(t, a.SetLink(Link{Up: Impairment{Blackhole: true}}))
		say("1")
		require.NoError(t, a.SetLink(Link{}))
		say("2")
		n, _, err := b.ReadFrom(p)
		require.NoError(t, err)
		require.Equal(t, "2", string(p[:n]))
		require.ErrorContains(t, a.SetLink(Link{Down: Impairment{Loss: 2}}), "down: loss=2")
	})
}

func TestNetworkReceiveBuffer(t *testing.T) {
	inBubble(t, "none", "none", func(t *testing.T, a, b *Conn) {
		for range receiveBuffer + 10 {
			_, err := a.WriteTo([]byte{1}, b.LocalAddr())
			require.NoError(t, err)
		}
		synctest.Wait()
		require.EqualValues(t, 10, b.Unread())
	})
}

func TestNetworkDeadlinesAndClose(t *testing.T) {
	inBubble(t, "none", "none", func(t *testing.T, a, b *Conn) {
		p := make([]byte, 10)
		start := time.Now()
		require.NoError(t, b.SetDeadline(start.Add(time.Second)))
		_, _, err := b.ReadFrom(p)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		_, err = a.WriteTo([]byte("x"), b.LocalAddr())
		require.NoError(t, err)
		synctest.Wait()
		_, _, err = b.ReadFrom(p)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "it has passed, whatever has arrived")
		require.NoError(t, b.SetReadDeadline(time.Time{}))
		n, _, err := b.ReadFrom(p)
		require.NoError(t, err)
		require.Equal(t, 1, n)

		go func() {
			time.Sleep(time.Minute)
			b.SetReadDeadline(time.Now()) // wakes who waits already
			time.Sleep(time.Minute)
			b.Close()
		}()
		_, _, err = b.ReadFrom(p)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Minute+time.Second, time.Since(start))
		require.NoError(t, b.SetReadDeadline(time.Now().Add(time.Hour)))
		_, _, err = b.ReadFrom(p)
		require.ErrorIs(t, err, net.ErrClosed)
		require.Equal(t, 2*time.Minute+time.Second, time.Since(start))
		require.ErrorIs(t, b.SetReadDeadline(time.Now()), net.ErrClosed)
		_, err = b.WriteTo(p, a.LocalAddr())
		require.ErrorIs(t, err, net.ErrClosed)
		require.NoError(t, b.Close())
		require.NoError(t, b.SetWriteDeadline(time.Now()))
	})
}

func TestNetworkRefusesNonsense(t *testing.T) {
	n := NewNetwork(1)
	_, err := n.Listen("localhost:80", Link{})
	require.Error(t, err)
	_, err = n.Listen("10.0.0.1:80", Link{Up: Impairment{Rate: 3}})
	require.ErrorContains(t, err, "up: rate=3bit")
	a, err := n.Listen("10.0.0.1:80", Link{})
	require.NoError(t, err)
	_, err = n.Listen("10.0.0.1:80", Link{})
	require.ErrorContains(t, err, "taken")
	_, err = a.WriteTo(make([]byte, maxDatagram+1), a.LocalAddr())
	require.ErrorContains(t, err, "too long")
	_, err = a.WriteTo(nil, &net.UnixAddr{Name: "x"})
	require.Error(t, err)
	require.NoError(t, n.Close())
	_, err = n.Listen("10.0.0.1:81", Link{})
	require.ErrorIs(t, err, net.ErrClosed)
	require.Panics(t, func() { Pair(1, Impairment{Loss: 2}, Impairment{}) })
}

// TestOverflow: a path with much delay and no rate holds only so much.
func TestOverflow(t *testing.T) {
	inBubble(t, "delay=1h", "none", func(t *testing.T, a, b *Conn) {
		p := make([]byte, 60000)
		for range 2 * maxInFlight / len(p) {
			_, err := a.WriteTo(p, b.LocalAddr())
			require.NoError(t, err)
		}
		up, _ := a.Stats()
		require.InDelta(t, maxInFlight/len(p), up.Delivered, 4)
		require.Equal(t, up.Admitted, up.Delivered+up.Overflow)
	})
}

func ExamplePair() {
	// In a test, inside synctest.Test: 30 ms there, 30 ms back, and every hundredth datagram lost.
	n, a, b := Pair(1, MustParse("delay=30ms,loss=1%"), MustParse("delay=30ms,loss=1%"))
	defer n.Close()
	a.WriteTo([]byte("hello"), b.LocalAddr())
}
