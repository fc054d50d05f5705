package udp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/internal/sys"
)

// TestSameHost: two ends on one host leave the payload out of the checksum; not if a relay lies between them, which has a port of its
// own, nor if the host isn't known.
func TestSameHost(t *testing.T) {
	s := newTest(t, Options{})
	for _, at := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0"} {
		ln, err := s.Listen(t.Context(), at)
		require.NoError(t, err)
		defer ln.Close()
		a, err := s.Dial(t.Context(), ln.Addr().String())
		require.NoError(t, err)
		defer a.Close()
		b, err := ln.Accept()
		require.NoError(t, err)
		defer b.Close()
		transfer(t, a, b, 1<<20)
		for _, l := range []*link{a.(*link), b.(*link)} {
			l.mu.Lock()
			require.Equal(t, bootID() != 0, l.sameHost, at)
			require.Equal(t, bootID() != 0, l.bare, at)
			l.mu.Unlock()
		}
	}

	here := &socket{tr: &port{net: &memory{host: 5}}}
	there := &socket{tr: &port{net: &memory{host: 6}}}
	unknown := &socket{tr: &port{net: &memory{}}}
	for _, at := range []string{"127.0.0.1:7", "[::1]:7", "10.0.0.1:7", "[fe80::1%1]:7"} {
		from := mustAddr(at)
		require.True(t, here.isHere(here.hostToken(from), from))
		require.False(t, here.isHere(here.hostToken(netip.AddrPortFrom(from.Addr(), 8)), from), "a relay")
		require.False(t, here.isHere(here.hostToken(mustAddr("10.0.0.2:7")), from), "a translator")
		require.False(t, here.isHere(there.hostToken(from), from), "another host")
		require.False(t, unknown.isHere(unknown.hostToken(from), from))
		require.False(t, here.isHere(0, from))
	}
	require.Zero(t, here.hostToken(netip.AddrPort{}))
}

// TestUncovered: a packet without a checksum over its payload is taken only from the peer, and only on the same host.
func TestUncovered(t *testing.T) {
	h := binary.LittleEndian.AppendUint64(putHeader(nil, kindPacket, flagData, 1), 0)
	h = binary.LittleEndian.AppendUint64(h, 0)
	uncover(h)
	seal(h, [][]byte{[]byte("payload")})
	b := append(slices.Clone(h), "damaged"...)
	_, _, err := unseal(b)
	require.NoError(t, err)
	b[1] ^= flagAck
	_, _, err = unseal(b)
	require.ErrorIs(t, err, errChecksum, "the header is covered")
	for _, n := range []byte{1, packetLen/coverUnit - 1, 200} {
		b[coverAt] = n
		_, _, err = unseal(b)
		require.ErrorIs(t, err, errFormat)
	}
	var p packet
	require.NoError(t, parsePacket(append(slices.Clone(h), 1), &p))
	h[coverAt]++
	require.ErrorIs(t, parsePacket(append(slices.Clone(h), 1, 2, 3, 4), &p), errFormat, "the payload begins later than covered")

	l := &link{sub: New(Options{}), remote: mustAddr("127.0.0.1:7")}
	p = packet{bare: true, data: []byte{1}, cpu: 3}
	require.False(t, l.trusts(&p, l.remote))
	l.sameHost = true
	require.False(t, l.trusts(&p, mustAddr("127.0.0.1:8")))
	require.EqualValues(t, 2, l.sub.Stats().Corrupt)
	require.False(t, l.bare)
	require.True(t, l.trusts(&p, l.remote))
	require.True(t, l.bare)
	require.EqualValues(t, 3, l.peerCPU.Load())
}

// TestCoveredAgain: when the peer's address changes both ends go back to whole checksums, and nothing is lost.
func TestCoveredAgain(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, _ *tap) {
		for _, l := range []*link{a, b} { // as if they had proved it
			l.mu.Lock()
			l.sameHost, l.bare = true, true
			l.mu.Unlock()
		}
		transfer(t, a, b, 100_000)
		m.mu.Lock()
		from := a.sock.tr.local()
		m.translate[from] = mustAddr("10.0.0.1:20001")
		m.mu.Unlock()
		transfer(t, a, b, 100_000)
		transfer(t, b, a, 100_000)
		synctest.Wait()
		for _, l := range []*link{a, b} {
			l.mu.Lock()
			require.False(t, l.bare)
			l.mu.Unlock()
		}
		require.Positive(t, s.Stats().Corrupt, "what came without a checksum from the new address")
	})
}

// TestLanding gives a link datagrams that were received in three parts, good and bad ones: its user gets the stream, as if they had
// come in one.
func TestLanding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 40_000
		stream := simStream(1, 1, size)
		s := &socket{sub: New(Options{}), tr: &port{net: &memory{}}, mem: []*block{newBlock()}}
		s.msgs = make([]sys.UDPMessage, 1)
		l := &link{sub: s.sub, sock: s, id: 7, state: open, remote: mustAddr("10.0.0.1:9")}
		s.links = map[uint64]*link{7: l}
		l.window, l.advertised, l.cc, l.threshold = 1<<20, 1<<20, NewCubic(1000), minThreshold
		l.sameHost = rapid.Bool().Draw(t, "same host")
		l.askAt = time.Hour.Nanoseconds()
		var got []byte
		num := uint64(0)
		p := make([]byte, rapid.IntRange(1, 9000).Draw(t, "buffer"))
		read := func() {
			if n := l.receiver.take(p); n > 0 {
				got = append(got, p[:n]...)
			}
		}
		land := func(off, n int, whole, damage bool) {
			if off >= size {
				return
			}
			data := stream[off:min(off+n, size)]
			h := binary.LittleEndian.AppendUint64(putHeader(nil, kindPacket, flagData, 7), num)
			num++
			h = binary.LittleEndian.AppendUint64(h, uint64(off))
			if l.sameHost && !whole {
				uncover(h)
			}
			seal(h, [][]byte{data})
			b := append(h, data...)
			if damage {
				b[rapid.IntRange(4, packetLen).Draw(t, "where")] ^= 1
			}
			l.posted, l.placed = p, 0
			l.lastHead = packetLen + dataLen
			if len(p) >= landAbove {
				s.aim(l)
			}
			m := &s.msgs[0]
			m.Buf = s.mem[0].buf[:]
			m.N = copy(m.Head, b)
			m.N += copy(m.Body, b[m.N:])
			m.N += copy(m.Buf, b[m.N:])
			m.Segment, m.From = m.N, l.remote
			l.state = open
			if len(m.Body) > 0 {
				s.landed(m, 1)
			} else {
				s.datagrams(m, s.mem[0], 1)
			}
			s.unaim()
			if s.mem[0].refs.Load() > 1 {
				s.mem[0].drop()
				s.mem[0] = newBlock()
			}
			got = append(got, p[:l.placed]...)
			l.posted, l.placed = nil, 0
		}
		for range rapid.IntRange(0, 30).Draw(t, "packets") {
			at := int(l.next)
			if rapid.IntRange(0, 3).Draw(t, "elsewhere") == 0 {
				at = rapid.IntRange(0, size-1).Draw(t, "at")
			}
			land(at, rapid.IntRange(1, 12_000).Draw(t, "size"), rapid.Bool().Draw(t, "covered"), rapid.IntRange(0, 4).Draw(t, "bad") == 0)
			read()
		}
		for int(l.next) < size {
			land(int(l.next), 10_000, false, false)
			read()
		}
		for len(got) < size {
			before := len(got)
			read()
			require.Greater(t, len(got), before)
		}
		require.True(t, bytes.Equal(stream, got))
		require.Zero(t, l.pinned)
	})
}

var mustAddr = netip.MustParseAddrPort

// TestGiveWay: only a user who receives a stream from a peer on his processor lets that go on, and not where it takes long.
func TestGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &socket{sub: New(Options{})} // that nobody reads
		b := &link{sub: s.sub, sock: s}
		yields, takes := 0, time.Duration(0)
		s.yield = func() {
			yields++
			time.Sleep(takes)
		}
		s.cpu = func() byte { return 3 }
		s.giveWay()
		require.Zero(t, yields, "nothing is a stream")
		s.stream = b
		s.giveWay()
		require.Zero(t, yields, "nobody knows where the peer is")
		b.peerCPU.Store(4)
		s.giveWay()
		require.Zero(t, yields, "the peer is elsewhere")
		b.peerCPU.Store(3)
		s.giveWay()
		s.giveWay()
		require.Equal(t, 2, yields)
		takes = giveFor
		for range 10 {
			s.giveWay()
		}
		require.Equal(t, 3, yields, "somebody else was there")
		time.Sleep(2 * giveAgain)
		s.giveWay()
		s.giveWay()
		require.Equal(t, 4, yields)
		time.Sleep(4*giveAgain - time.Nanosecond)
		s.giveWay()
		require.Equal(t, 4, yields, "the second time it waits longer")
		time.Sleep(time.Nanosecond)
		takes = 0
		s.giveWay()
		s.giveWay()
		require.Equal(t, 6, yields)
	})
}

// TestStreaming: a stream is what comes in large pieces while nothing goes the other way, and is as long as what has come since something did.
func TestStreaming(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memory, _ *Substrate, _, b *link, _ *tap) {
		batch := func(bytes int, sends bool) int {
			b.mu.Lock()
			b.batch = bytes
			b.receiver.next += uint64(bytes)
			if sends {
				b.end, b.sent, b.una = b.end+1, b.sent+1, b.una+1
			}
			b.mu.Unlock()
			_, stream := b.afterBatch(b.now())
			return int(stream)
		}
		require.Zero(t, batch(100, false))
		require.Equal(t, streamAbove+100, batch(streamAbove, false))
		require.Zero(t, batch(streamAbove, true), "a dialogue")
		require.Equal(t, streamAbove, batch(streamAbove, false))
		require.Zero(t, batch(streamAbove-1, false), "each batch counts alone")
		require.Zero(t, batch(0, false))
		require.Equal(t, 3*streamAbove-1, batch(streamAbove, false))
	})
}
