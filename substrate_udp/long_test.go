package udp

import (
	"encoding/binary"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/internal/sys"
)

// TestRowsAreNoRuns: a row has more datagrams than the kernel ever joins, no more than it cuts, and each is shorter than any MTU and any
// INIT, whatever the length of the packet.
func TestRowsAreNoRuns(t *testing.T) {
	for n := minDatagram + 1; n <= longSize; n++ {
		segment := segmentOf(n)
		if !whole(&sys.UDPMessage{N: n, Segment: segment}) || (n+segment-1)/segment > 2*mostJoined || segment >= minDatagram || segment >= initLen {
			t.Errorf("%d bytes in datagrams of %d", n, segment)
		}
	}
}

// nearLink is the receiving end of a link between processes of one host that has received what comes before off.
func nearLink(s *socket, id, off uint64) *link {
	l := &link{sub: s.sub, sock: s, id: id, peer: 9, state: open, remote: mustAddr("10.0.0.1:9")}
	l.sameHost, l.cc, l.threshold = true, NewCubic(1000), minThreshold
	l.window, l.next, l.taken, l.advertised = 1<<20, off, off, off+1<<20
	l.got.add(0, off+1)
	s.links[id] = l
	return l
}

// longPacket makes a long packet of link id that carries data at off.
func longPacket(id, num, off uint64, data []byte) []byte {
	h := binary.LittleEndian.AppendUint64(putHeader(nil, kindPacket, flagData, id), num)
	h = binary.LittleEndian.AppendUint64(h, off)
	uncover(h)
	lengthen(h, len(h)+len(data))
	seal(h, [][]byte{data})
	return append(h, data...)
}

// TestLongPacket gives a link a long packet in all shapes: it is taken when its row is whole, by either way in, and else not a byte of it is,
// and it counts as what it is.
func TestLongPacket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &socket{sub: New(Options{}), links: make(map[uint64]*link), peers: make(map[uint64]*link)}
		s.tr = &port{net: &memory{dark: true}}
		s.msgs, s.mem = make([]sys.UDPMessage, 1), []*block{newBlock()}
		l := nearLink(s, 7, uint64(rapid.IntRange(0, 1<<20).Draw(t, "offset")))
		l.timer.t = time.AfterFunc(time.Hour, func() {})
		defer l.timer.t.Stop()
		data := simStream(1, 1, rapid.IntRange(minDatagram, longSize-trainHead).Draw(t, "size"))
		p := longPacket(7, l.next+1, l.next, data)
		m := &s.msgs[0]
		m.Segment, m.From, m.Buf = segmentOf(len(p)), l.remote, s.mem[0].buf[:]
		counter := &s.sub.count.split
		fault := rapid.IntRange(0, 9).Draw(t, "fault")
		switch fault {
		case 0: // a part is missing
			at := rapid.IntRange(0, mostJoined).Draw(t, "part") * m.Segment
			p = slices.Delete(slices.Clone(p), at, min(at+m.Segment, len(p)))
			if at < trainHead {
				counter = nil // just noise
			} else if whole(&sys.UDPMessage{N: len(p), Segment: m.Segment}) { // no kernel joins as many
				counter = &s.sub.count.malformed
			}
		case 1: // joined from longer datagrams
			m.Segment = rapid.IntRange((len(p)+mostJoined-1)/mostJoined, 2*len(p)).Draw(t, "segment")
		case 2: // alone
			p = p[:m.Segment]
			m.Segment = len(p)
		case 3: // with a part of another one
			if p = append(p, p[:min(m.Segment, blockSize-len(p))]...); !whole(&sys.UDPMessage{N: len(p), Segment: m.Segment}) {
				t.Skip()
			}
			counter = &s.sub.count.malformed
		case 4: // another length
			binary.LittleEndian.PutUint16(p[22:], binary.LittleEndian.Uint16(p[22:])^uint16(1<<rapid.IntRange(0, 15).Draw(t, "bit")))
			counter = &s.sub.count.corrupt
			if rapid.Bool().Draw(t, "sealed") {
				clear(p[4:8])
				seal(p[:trainHead], [][]byte{nil})
				counter = &s.sub.count.malformed
			}
		case 5: // a whole checksum
			p[coverAt] = 0
			sealed(p)
			counter = &s.sub.count.malformed
		case 6: // from elsewhere
			m.From = mustAddr("10.0.0.1:8")
			counter = &s.sub.count.corrupt
		case 7: // from another host
			l.sameHost = false
			counter = &s.sub.count.corrupt
		default:
			counter = nil
			l.posted = make([]byte, rapid.IntRange(0, 2*len(data)).Draw(t, "posted"))
			defer func() {
				n := l.placed
				got := append(l.posted[:n:n], make([]byte, len(data)-n)...)
				n += l.receiver.take(got[n:])
				require.Equal(t, data, got[:n])
				require.True(t, l.bare)
				require.Zero(t, l.pinned)
			}()
		}
		before := l.next
		if rapid.Bool().Draw(t, "lands") {
			l.lastHead = trainHead
			if l.posted == nil {
				l.posted = make([]byte, blockSize)
			}
			s.aim(l)
		}
		m.N = copy(m.Head, p)
		m.N += copy(m.Body, p[m.N:])
		m.N += copy(m.Buf, p[m.N:])
		if len(m.Body) > 0 {
			s.landed(m, 1)
		} else {
			s.datagrams(m, s.mem[0], 1)
		}
		s.unaim()
		if s.mem[0].refs.Load() == 1 {
			s.mem[0].drop()
		}
		if counter != nil {
			require.EqualValues(t, 1, counter.Load())
		}
		if fault < 8 {
			require.Equal(t, before, l.next)
			require.Zero(t, l.placed)
			require.False(t, l.bare)
		}
	})
}

// onOneHost runs f in a bubble with a link between ends that know that they are on one host.
func onOneHost(t *testing.T, f func(t *testing.T, m *memory, s *Substrate, a, b *link)) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, 1, trouble{})
		m.host = 1
		s, a, b := linked(t, m, Options{})
		f(t, m, s, a, b)
	})
}

func (l *link) sizes() (full, datagram int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mtu.size, l.mtu.wire
}

// proveLong lets the path from a to b prove that it carries long packets.
func proveLong(t *testing.T, a, b *link) {
	transfer(t, a, b, 100_000)
	<-time.After(mtuSettle)
	transfer(t, a, b, 100_000)
	<-time.After(2 * maxAckDelay)
	full, datagram := a.sizes()
	require.Equal(t, longSize, full)
	require.Less(t, datagram, 2000)
}

// TestLongPath: a path that carries long packets is found, and they are few. When something begins to take rows apart the link is back to
// short packets within one probe timeout, and blames no congestion; it tries again, less and less often.
func TestLongPath(t *testing.T) {
	onOneHost(t, func(t *testing.T, m *memory, s *Substrate, a, b *link) {
		proveLong(t, a, b)
		before := s.Stats()
		require.EqualValues(t, 1, before.LongPaths)
		transfer(t, a, b, 10<<20)
		require.Less(t, s.Stats().PacketsSent-before.PacketsSent, uint64(400))
		require.Zero(t, s.Stats().Lost)

		splits := func(yes bool) {
			m.mu.Lock()
			m.trouble.splits = yes
			m.mu.Unlock()
		}
		splits(true)
		a.mu.Lock()
		window := a.cc.Window()
		a.mu.Unlock()
		start := time.Now()
		transfer(t, a, b, 10<<20)
		require.Less(t, time.Since(start), 2*localTimeout)
		full, datagram := a.sizes()
		require.Equal(t, datagram, full)
		after := s.Stats()
		require.EqualValues(t, 1, after.LongLost)
		require.EqualValues(t, 1, after.Timeouts)
		require.NotZero(t, after.Split)
		a.mu.Lock()
		narrowed, lastLoss := a.cc.Window(), a.lastLoss
		a.mu.Unlock()
		require.GreaterOrEqual(t, narrowed, min(window, nearWindow/4))
		require.Zero(t, lastLoss)

		for range 600 { // ten minutes
			transfer(t, a, b, 1000)
			<-time.After(time.Second)
		}
		probes := s.Stats().Split - after.Split
		require.NotZero(t, probes)
		require.LessOrEqual(t, probes, uint64(2*20*mtuTries), "both ends probe, 20 times at most")
		require.EqualValues(t, 1, s.Stats().LongPaths)

		splits(false)
		for range 100 {
			transfer(t, a, b, 1000)
			<-time.After(time.Second)
		}
		full, _ = a.sizes()
		require.Equal(t, longSize, full)
	})
}

// TestLongPathsEnd: when either end has another address, or packets without a whole checksum are doubted, there are no long packets any more;
// nor are there with a peer that doesn't take them, or where the path is long.
func TestLongPathsEnd(t *testing.T) {
	onOneHost(t, func(t *testing.T, m *memory, s *Substrate, a, b *link) {
		proveLong(t, a, b)
		proveLong(t, b, a)
		m.mu.Lock()
		m.translate[a.sock.tr.local()] = mustAddr("10.0.0.1:20001")
		m.mu.Unlock()
		transfer(t, a, b, 100_000)
		transfer(t, b, a, 100_000)
		<-time.After(2 * longPauseMost)
		transfer(t, a, b, 100_000)
		transfer(t, b, a, 100_000)
		synctest.Wait()
		for _, l := range []*link{a, b} {
			full, datagram := l.sizes()
			require.Equal(t, datagram, full)
		}
		require.EqualValues(t, 2, s.Stats().LongPaths)
	})
	onOneHost(t, func(t *testing.T, m *memory, s *Substrate, a, b *link) {
		proveLong(t, a, b)
		a.mu.Lock()
		require.Equal(t, longSize, a.full())
		a.bare = false
		require.Equal(t, a.mtu.wire, a.full())
		a.mu.Unlock()
		transfer(t, a, b, 100_000)
	})
	for name, change := range map[string]func(m *memory, l *link){
		"an old peer":  func(_ *memory, l *link) { l.agree(capECN) },
		"a long path":  func(m *memory, l *link) { m.trouble.delay = paceAboveRTT; l.agree(capLong) },
		"another host": func(_ *memory, l *link) { l.sameHost = false; l.agree(capLong) },
	} {
		t.Run(name, func(t *testing.T) {
			onOneHost(t, func(t *testing.T, m *memory, s *Substrate, a, b *link) {
				for _, l := range []*link{a, b} {
					l.mu.Lock()
					m.mu.Lock()
					l.rtt = rtt{}
					l.mtu.start(1200, 1472, l.now())
					change(m, l)
					m.mu.Unlock()
					l.mu.Unlock()
				}
				transfer(t, a, b, 100_000)
				<-time.After(time.Second)
				transfer(t, a, b, 100_000)
				require.Zero(t, s.Stats().LongPaths)
				require.Zero(t, s.Stats().Split)
			})
		})
	}
}
