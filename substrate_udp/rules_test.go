package udp

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestLossRule compares what is declared lost with the rule of RFC 9002, section 6.1, for any acknowledgement.
func TestLossRule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const packets = 40
		l := &link{sub: New(Options{}), state: open}
		l.sub.count = counters{}
		l.cc = NewCubic(1000)
		l.threshold = uint64(rapid.IntRange(minThreshold, 8).Draw(t, "threshold"))
		rtt := time.Duration(rapid.IntRange(1, 100).Draw(t, "rtt")) * time.Millisecond
		l.rtt.add(rtt, 0, 1)
		now := int64(time.Second)
		for i := range uint64(packets) {
			now += int64(rapid.IntRange(0, 20).Draw(t, "gap")) * int64(time.Millisecond)
			l.noteSent(sentPacket{at: now, off: i * 10, n: 10, size: 100, flags: flagData}, now)
		}
		l.sent, l.end = 10*packets, 10*packets
		l.pieces = []piece{{end: l.end, data: make([]byte, l.end)}}
		var got spans
		acked := rapid.SliceOfNDistinct(rapid.Uint64Range(0, packets-1), 1, packets, rapid.ID).Draw(t, "acked")
		for _, n := range acked {
			got.add(n, n+1)
		}
		largest := got[len(got)-1].hi - 1
		sent := make([]int64, packets)
		for i := range sent {
			sent[i] = l.packets.at(uint64(i)).at
		}
		var a ack
		_, err := parseAck(putAck(nil, got, 0, 1000, 0, 10_000), &a)
		require.NoError(t, err)
		now += int64(rtt)
		threshold := l.threshold
		l.onAck(&a, now)
		delay := int64(max(l.rtt.smooth, l.rtt.latest) * 9 / 8)
		var want spans
		next := int64(0)
		for n := range largest {
			switch {
			case got.contains(n):
			case n+threshold <= largest || sent[n]+delay <= now:
				want.add(10*n, 10*n+10)
			case next == 0:
				next = sent[n] + delay
			}
		}
		require.Equal(t, want, l.lost)
		require.Equal(t, next, l.lossAt)
		require.Equal(t, 100*(packets-len(acked)-int(l.lostCount)), l.inflight)
	})
}

// TestDuplicates: a packet number is taken once, in whatever order, and never again, not even after its gap was forgotten.
func TestDuplicates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &link{sub: New(Options{}), state: open}
		seen := make(map[uint64]bool)
		for _, n := range rapid.SliceOfN(rapid.Uint64Range(0, 3000), 1, 2000).Draw(t, "numbers") {
			p := packet{num: n}
			ok := l.accepts(&p)
			require.False(t, ok && seen[n], "%d again", n)
			if !ok && !seen[n] {
				require.Less(t, n, l.floor, "%d is new", n)
			}
			if ok {
				seen[n] = true
				l.receiver.note(&p, 1)
			}
			require.LessOrEqual(t, len(l.got), maxGot)
		}
	})
}

// TestReassembly gives a link pieces of a stream in any order, again and again, overlapping: its user gets the stream.
func TestReassembly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &link{sub: New(Options{}), state: open}
		l.window, l.advertised = 1<<20, 1<<20
		const size = 5000
		stream := simStream(1, 1, size)
		var got []byte
		buf := make([]byte, 700)
		give := func(lo, n int) {
			mem := newBlock()
			defer mem.drop()
			k := copy(mem.buf[:], stream[lo:min(lo+n, size)])
			used := k
			if rapid.Bool().Draw(t, "by reference") {
				used = blockSize
			}
			l.deliver(&packet{flags: flagData, off: uint64(lo), data: mem.buf[:k]}, mem, used)
			for i, c := range l.early {
				require.Greater(t, c.off, l.receiver.next)
				require.True(t, i == 0 || l.early[i-1].end() <= c.off)
			}
		}
		for range rapid.IntRange(0, 60).Draw(t, "pieces") {
			give(rapid.IntRange(0, size-1).Draw(t, "at"), rapid.IntRange(1, 600).Draw(t, "size"))
			if rapid.Bool().Draw(t, "read") {
				got = append(got, buf[:l.receiver.take(buf)]...)
			}
		}
		for lo := 0; lo < size; lo += 100 {
			give(lo, 100)
		}
		for {
			n := l.receiver.take(buf)
			if n == 0 {
				break
			}
			got = append(got, buf[:n]...)
		}
		require.Equal(t, stream, got)
		require.Zero(t, l.pinned)
		require.Nil(t, l.receiver.copies)
	})
}

// TestIdleIsSilent: a link with nothing to say sends nothing, has no timer, and keeps no buffer.
func TestIdleIsSilent(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		for range 50 {
			_, err := a.Send(0, [][]byte{make([]byte, 3000)})
			require.NoError(t, err)
			_, err = readAll(b, make([]byte, 3000))
			require.NoError(t, err)
		}
		<-time.After(time.Minute)
		before := s.Stats()
		<-time.After(time.Hour)
		synctest.Wait()
		require.Equal(t, before, s.Stats())
		for _, l := range []*link{a, b} {
			l.mu.Lock()
			require.Zero(t, l.timer.at)
			require.Empty(t, l.pieces)
			require.Nil(t, l.sender.copies)
			require.Nil(t, l.receiver.copies)
			l.mu.Unlock()
			require.Nil(t, l.sock.lent.Load())
		}
		require.Zero(t, before.Lost)
		require.Zero(t, before.Timeouts)
	})
}

// TestSmallSendsAreJoined: a row of them takes far fewer packets.
func TestSmallSendsAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, 1, trouble{delay: 100 * time.Microsecond})
		s := newTest(t, Options{open: m.open})
		ln, err := s.Listen(t.Context(), "10.0.0.1:7")
		require.NoError(t, err)
		a, err := s.Dial(t.Context(), "10.0.0.1:7")
		require.NoError(t, err)
		b, err := ln.Accept()
		require.NoError(t, err)
		before := s.Stats().PacketsSent
		const sends = 1000
		for range sends {
			_, err := a.Send(0, [][]byte{make([]byte, 20)})
			require.NoError(t, err)
		}
		_, err = readAll(b, make([]byte, 20*sends))
		require.NoError(t, err)
		require.Less(t, s.Stats().PacketsSent-before, uint64(sends/10))
	})
}
