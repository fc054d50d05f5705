package udp

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/netem"
	"github.com/sockemu/sockemu/substrate"
)

var simSeeds = flag.Int("udp.seeds", 300, "how many networks TestSimulator tries")
var simFirst = flag.Uint64("udp.first", 1, "the first seed of TestSimulator")

// TestSimulator moves bytes both ways over networks that lose, double, change, delay and reorder datagrams, go dark for a while and
// give ends other addresses, in virtual time, half of them on one host, where rows of datagrams are taken apart or are not. Every byte must
// arrive, once and in order.
func TestSimulator(t *testing.T) {
	for i := range *simSeeds {
		seed := *simFirst + uint64(i)
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { simulate(t, seed) }) }) {
			t.Fatalf("seed %d: go test ./substrate_udp -run TestSimulator -udp.first=%d -udp.seeds=1", seed, seed)
		}
	}
}

func simulate(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	part := func(most float64) float64 { return most * rng.Float64() * float64(rng.IntN(2)) }
	tr := trouble{
		loss: part(.2), double: part(.2), corrupt: part(.1), swap: part(.3),
		delay: time.Duration(rng.IntN(30)) * time.Millisecond / 2, jitter: time.Duration(1+rng.IntN(3000)) * time.Microsecond,
	}
	if rng.IntN(4) == 0 {
		tr.mtu = 1200 + rng.IntN(300)
	}
	var host uint64
	if rng.IntN(2) == 0 { // on one host, where nothing but the headers is guarded against damage
		host, tr.corrupt = 1, 0
		if rng.IntN(2) == 0 {
			tr.delay, tr.jitter = tr.delay/20, 0
		}
		tr.splits = rng.IntN(3) == 0
	}
	honest := codepoints(&tr, rand.New(rand.NewPCG(seed, 3)))
	m := newMemory(t, seed, tr)
	m.host = host
	s := newTest(t, Options{open: m.open, PathDown: time.Minute, Window: minWindow << rng.IntN(6)})
	ctx := t.Context()
	ln, err := s.Listen(ctx, "10.0.0.1:7")
	require.NoError(t, err)
	a, err := s.Dial(ctx, "10.0.0.1:7")
	require.NoError(t, err)
	b, err := ln.Accept()
	require.NoError(t, err)

	sizes := [2]int{rng.IntN(400_000), rng.IntN(400_000)}
	over := func(ok bool) {
		if !ok { // nothing waits in vain
			a.Close()
			b.Close()
		}
	}
	var work sync.WaitGroup
	var got [2]atomic.Int64 // by each end
	for i, l := range []substrate.Link{a, b} {
		out, in := simStream(seed, i, sizes[i]), simStream(seed, 1-i, sizes[1-i])
		work.Go(func() { over(simSend(t, l, out, &got[1-i], rand.New(rand.NewPCG(seed, uint64(10+i))))) })
		work.Go(func() { over(simRecv(t, l, in, &got[i], rand.New(rand.NewPCG(seed, uint64(20+i))))) })
	}
	// Meanwhile.
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	dialer := a.LocalAddr()
	addr := netip.MustParseAddrPort(dialer.String())
	for n := 0; ; n++ {
		select {
		case <-done:
			if t.Failed() {
				return
			}
			m.mu.Lock()
			m.dark, m.trouble.loss = false, 0
			m.mu.Unlock()
			if c := s.Stats(); honest {
				require.Zero(t, c.ECNBleached+c.ECNMangled+c.ECNFalse, "%+v", c)
			}
			require.NoError(t, a.Close())
			_, err := b.Recv(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			require.NoError(t, b.Close())
			require.NoError(t, ln.Close())
			return
		case <-time.After(time.Duration(1+rng.IntN(400)) * time.Millisecond):
		}
		if n > 5000 {
			t.Error("no end")
			over(false)
		}
		m.mu.Lock()
		switch {
		case n > 20: // the rest in peace
			m.dark = false
		case rng.IntN(4) == 0:
			m.dark = !m.dark
		case rng.IntN(5) == 0:
			m.trouble.splits = !m.trouble.splits
		case rng.IntN(6) == 0:
			m.translate[addr] = netip.AddrPortFrom(memHost, uint16(translated+n))
		}
		m.mu.Unlock()
	}
}

// codepoints adds to tr what the network does to codepoints of ECN, and reports whether that is what it should: nothing, but for marks.
func codepoints(tr *trouble, rng *rand.Rand) (honest bool) {
	often := rng.Float64() * rng.Float64()
	becomes := func(to netem.ECN) { // only packets that know of it, each now and then
		tr.codepoint = func(e netem.ECN) netem.ECN {
			if e != netem.NotECT && rng.Float64() < often {
				return to
			}
			return e
		}
	}
	switch rng.IntN(8) {
	case 0:
		tr.codepoint = func(netem.ECN) netem.ECN { return netem.NotECT }
		return false
	case 1:
		tr.codepoint = func(netem.ECN) netem.ECN { return netem.CE }
		return false
	case 2:
		becomes(netem.ECT1)
		return false
	case 3:
		becomes(netem.NotECT)
		return false
	case 4:
		becomes(vanishes)
	case 5, 6:
		often /= 10 // round trips of nothing but marks would look like a fault
		becomes(netem.CE)
	}
	return true
}

func simStream(seed uint64, i, n int) []byte {
	b := make([]byte, n)
	c := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(i)})
	c.Read(b)
	return b
}

// simSend sends b in pieces, some of them unkept, some borrowed, and destroys what it may. The other end has got so many bytes.
func simSend(t *testing.T, l substrate.Link, b []byte, got *atomic.Int64, rng *rand.Rand) bool {
	off, total := uint64(0), len(b)
	for len(b) > 0 {
		p := bytes.Clone(b[:min(len(b), 1+rng.IntN(1<<rng.IntN(18)))])
		var n int
		var err error
		switch rng.IntN(5) {
		case 0:
			n, err = l.Send(substrate.Unkept, [][]byte{p})
			clear(p)
		case 1, 2:
			borrower := l.(substrate.Borrower)
			n, err = borrower.Borrow(off, p)
			acked := min(max(0, int(got.Load())-(total-len(b))), n)
			rest := bytes.Clone(p[acked:n])
			borrower.Return(off+uint64(acked), [][]byte{rest[:len(rest)/3], rest[len(rest)/3:]})
			clear(p)
			off += uint64(n)
		default:
			n, err = l.Send(off, [][]byte{p})
			off += uint64(n)
		}
		if err != nil {
			t.Errorf("Send: %v", err)
			return false
		}
		b = b[n:]
		if rng.IntN(10) == 0 {
			<-time.After(time.Duration(rng.IntN(20)) * time.Millisecond)
		}
	}
	return true
}

func simRecv(t *testing.T, l substrate.Link, want []byte, got *atomic.Int64, rng *rand.Rand) bool {
	for len(want) > 0 {
		p := make([]byte, 1+rng.IntN(1<<rng.IntN(18)))
		n, err := l.Recv(p[:min(len(p), len(want))])
		if err != nil {
			t.Errorf("Recv, %d bytes before the end: %v", len(want), err)
			return false
		}
		if !bytes.Equal(p[:n], want[:n]) {
			t.Errorf("wrong bytes, %d before the end", len(want))
			return false
		}
		got.Add(int64(n))
		want = want[n:]
		if rng.IntN(20) == 0 {
			<-time.After(time.Duration(rng.IntN(50)) * time.Millisecond)
		}
	}
	return true
}
