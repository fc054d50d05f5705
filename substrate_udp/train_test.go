package udp

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/internal/sys"
)

// trainLink is the sending end of a link between processes of one host, with a stream to send that consists of pieces.
func trainLink(size, mtu int, cut func() int) (*link, []byte) {
	stream := simStream(1, 1, size)
	l := &link{sub: New(Options{}), state: open, peer: 9, remote: mustAddr("127.0.0.1:7")}
	l.sameHost, l.bare = true, true
	l.cc = NewCubic(mtu)
	l.mtu.size, l.mtu.wire, l.mtu.most = mtu, mtu, mtu
	l.limit = uint64(size)
	for at := 0; at < size; {
		n := min(max(cut(), 1), size-at)
		l.end += uint64(n)
		l.push(piece{l.end, stream[at : at+n], l.end, nil})
		at += n
	}
	return l, stream
}

// TestTrain: what a train has in one piece are packets like others, of the next bytes of the stream, and the link keeps account of each. It
// keeps to both windows.
func TestTrain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size, mtu := rapid.IntRange(1, 300_000).Draw(t, "stream"), rapid.IntRange(300, 9000).Draw(t, "MTU")/4*4
		l, stream := trainLink(size, mtu, func() int { return rapid.IntRange(1, 100_000).Draw(t, "piece") })
		l.limit = uint64(rapid.IntRange(0, size).Draw(t, "limit"))
		l.inflight = rapid.IntRange(0, l.cc.Window()).Draw(t, "in flight")
		l.num = rapid.Uint64Range(0, 1<<40).Draw(t, "number")
		if rapid.Bool().Draw(t, "long") {
			l.mtu.long, l.mtu.size = longSize, longSize
		}
		if rapid.Bool().Draw(t, "ECN") {
			l.ecn.state, l.ecn.round = ecnCapable, 3
		}
		first, inflight := l.num, l.inflight
		for more := true; more; {
			b := newBatch()
			l.beginBatch()
			at, num := l.sent, l.num
			more = l.fill(b, 1)
			ecn := l.endBatch(len(b.packets))
			b.seal()
			require.Equal(t, l.ecn.state == ecnCapable && len(b.packets) > 0, ecn == sys.ECT0)
			for i, o := range b.packets {
				raw := slices.Concat(b.vec[b.start(i):o.end]...)
				require.Len(t, raw, o.size)
				k, id, err := unseal(raw)
				require.NoError(t, err)
				require.EqualValues(t, 9, id)
				if o.size > mtu {
					require.Equal(t, kindLong, k)
					require.LessOrEqual(t, o.size, l.mtu.size)
					require.Equal(t, segmentOf(o.size), o.segment)
				} else {
					require.Equal(t, kindPacket, k)
					require.Zero(t, o.segment)
				}
				var p packet
				require.NoError(t, parsePacket(raw, &p))
				require.Equal(t, byte(flagData), p.flags&^flagAckNow)
				over := !more || l.inflight >= l.flight() || l.sent == l.limit
				require.True(t, p.flags == flagData || over && i == len(b.packets)-1, "only the last one asks")
				require.Equal(t, num+uint64(i), p.num)
				require.Equal(t, at, p.off)
				require.Equal(t, stream[at:at+uint64(len(p.data))], p.data)
				s := l.packets.at(p.num)
				want := sentPacket{at: 1, off: at, n: uint32(len(p.data)), size: uint32(o.size), flags: flagData, state: inFlight}
				if ecn == sys.ECT0 {
					want.mark = 3
				}
				require.Equal(t, want, *s)
				require.Less(t, inflight, l.cc.Window())
				inflight += o.size
				at += uint64(len(p.data))
			}
			require.Equal(t, at, l.sent)
			require.LessOrEqual(t, at, l.limit)
			require.EqualValues(t, len(b.packets), l.num-num)
			b.free()
		}
		require.Equal(t, inflight, l.inflight)
		require.True(t, inflight >= l.cc.Window() || l.sent == l.limit)
		require.EqualValues(t, l.packets.len(), l.num-first)
	})
}

// TestNoTrain: what is more than payload goes in packets of their own.
func TestNoTrain(t *testing.T) {
	for name, change := range map[string]func(l *link){
		"nothing":               func(*link) {},
		"whole checksums":       func(l *link) { l.bare = false },
		"something lost":        func(l *link) { l.lost.add(0, 1) },
		"a probe":               func(l *link) { l.probes = 1 },
		"the end":               func(l *link) { l.finDue = true },
		"an acknowledgement":    func(l *link) { l.got.add(0, 1); l.fresh, l.unacked = true, 1 },
		"the window is full":    func(l *link) { l.inflight = l.cc.Window() },
		"the peer's window is":  func(l *link) { l.limit = 3000 },
		"pacing":                func(l *link) { l.rtt.add(time.Second, 0, 1) },
		"a new path":            func(l *link) { l.ecn.state = ecnTesting },
		"a longer packet's due": func(l *link) { l.mtu.at, l.mtu.high, l.mtu.most, l.inflight = 1, 3001, 3000, 1 },
		"it was released":       func(l *link) { l.pieces[1].data = nil },
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := trainLink(50_000, 1472, func() int { return 3000 })
			change(l)
			sent, num, inflight := l.sent, l.num, l.inflight
			b := newBatch()
			defer b.free()
			l.beginBatch()
			require.Equal(t, name == "nothing", l.train(b, 2))
			if name != "nothing" {
				require.Empty(t, b.packets)
				require.Equal(t, sent, l.sent)
				require.Equal(t, num, l.num)
				require.Equal(t, inflight, l.inflight)
			}
		})
	}
}

// TestRow gives two links the same packets, one each by itself, the other joined as the kernel joins them, with all that may be wrong with
// them: they end alike.
func TestRow(t *testing.T) { rapid.Check(t, row) }

func row(t *rapid.T) {
	const id = 7
	payload := rapid.IntRange(1, 3000).Draw(t, "payload")
	segment := payload + trainHead
	count := rapid.IntRange(2, 40).Draw(t, "packets")
	stream := simStream(1, 1, count*payload)
	alone, joined := new(link), new(link)
	nowhere := &memory{rng: rand.New(rand.NewPCG(1, 1)), dark: true}
	limit := uint64(rapid.IntRange(1, count*payload).Draw(t, "window") + rapid.IntRange(0, 1).Draw(t, "all")*count*payload)
	posted := rapid.IntRange(0, count*payload).Draw(t, "posted")
	same := rapid.IntRange(0, 9).Draw(t, "host") > 0
	for _, l := range []*link{alone, joined} {
		l.sub = New(Options{})
		l.sock = &socket{sub: l.sub, tr: &port{net: nowhere}, links: map[uint64]*link{id: l}}
		l.id, l.peer, l.state, l.remote = id, 9, open, mustAddr("10.0.0.1:9")
		l.sameHost, l.window, l.advertised, l.cc, l.threshold = same, 1<<20, limit, NewCubic(1000), minThreshold
		l.posted = make([]byte, posted)
		l.timer.t = time.AfterFunc(time.Hour, func() {}) // of what is done later nothing happens here
		defer l.timer.t.Stop()
	}
	var run []byte // what arrives in one
	ecn := byte(rapid.IntRange(0, 3).Draw(t, "codepoint"))
	from := alone.remote
	if rapid.IntRange(0, 9).Draw(t, "elsewhere") == 0 {
		from = mustAddr("10.0.0.1:10")
	}
	mem := newBlock()
	defer mem.drop()
	give := func() {
		if len(run) == 0 {
			return
		}
		n := copy(mem.buf[:], run)
		joined.sock.datagrams(&sys.UDPMessage{Buf: mem.buf[:], N: n, Segment: segment, From: from, ECN: ecn}, mem, 5)
		single := newBlock()
		for b := run; len(b) > 0; b = b[min(len(b), segment):] {
			n := copy(single.buf[:], b[:min(len(b), segment)])
			alone.sock.datagrams(&sys.UDPMessage{Buf: single.buf[:], N: n, Segment: n, From: from, ECN: ecn}, single, 5)
			if single.refs.Load() > 1 {
				single.drop()
				single = newBlock()
			}
		}
		single.drop()
		if mem.refs.Load() > 1 {
			mem.drop()
			mem = newBlock()
		}
		run = nil
	}
	for i := range count {
		h := putHeader(nil, kindPacket, flagData, id)
		h = binary.LittleEndian.AppendUint64(h, uint64(i))
		h = binary.LittleEndian.AppendUint64(h, uint64(i*payload))
		h[cpuAt] = 3
		data := stream[i*payload : (i+1)*payload]
		uncover(h)
		change := rapid.IntRange(0, 30).Draw(t, "change")
		switch change {
		case 0:
			h[coverAt] = 0 // a whole checksum
		case 1:
			h[1] |= flagAckNow
		case 2:
			binary.LittleEndian.PutUint64(h[headerLen:], uint64(rapid.IntRange(0, 60).Draw(t, "number")))
		case 3:
			binary.LittleEndian.PutUint64(h[packetLen:], uint64(rapid.IntRange(0, count).Draw(t, "offset")*payload))
			data = data[:0]
			at := int(binary.LittleEndian.Uint64(h[packetLen:]))
			data = append(data, simStream(1, 1, at+payload)[at:]...)
		case 4:
			h[1] = byte(rapid.IntRange(0, 255).Draw(t, "flags")) &^ (flagChallenge | flagReset | flagAck) // those are answered with something random
		case 5:
			binary.LittleEndian.PutUint64(h[8:], 8)
		case 6:
			h[0] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
		p := append(slices.Clone(h), data...)
		seal(p[:trainHead], [][]byte{p[trainHead:]})
		if change == 7 {
			p[rapid.IntRange(0, trainHead-1).Draw(t, "where")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
		if isLong(p) {
			p[0] ^= 2 // a long packet would end the run
		}
		if change == 8 && payload > 1 {
			p = p[:len(p)-1] // shorter: the last of a run
			if h[coverAt] == 0 {
				continue
			}
		}
		if len(run)+len(p) > blockSize {
			give()
		}
		run = append(run, p...)
		if change == 8 || change == 9 {
			give()
		}
	}
	give()
	for _, l := range []*link{alone, joined} {
		l.lastHead, l.shorts = 0, 0 // guesses
	}
	require.Equal(t, alone.got, joined.got)
	require.Equal(t, alone.next, joined.next)
	require.Equal(t, alone.taken, joined.taken)
	require.Equal(t, alone.placed, joined.placed)
	require.Equal(t, alone.posted, joined.posted)
	require.Equal(t, [...]any{alone.unacked, alone.unackedBytes, alone.batch, alone.fresh, alone.ackNow, alone.askAt, alone.receivedAt},
		[...]any{joined.unacked, joined.unackedBytes, joined.batch, joined.fresh, joined.ackNow, joined.askAt, joined.receivedAt})
	require.Equal(t, alone.ecn.seen, joined.ecn.seen)
	require.Equal(t, alone.bare, joined.bare)
	require.Equal(t, alone.peerCPU.Load(), joined.peerCPU.Load())
	require.Equal(t, alone.finSeen, joined.finSeen)
	require.Equal(t, alone.sub.Stats(), joined.sub.Stats())
	rest := func(l *link) (all []byte) {
		for p := make([]byte, 1000); ; {
			n := l.receiver.take(p)
			if n == 0 {
				return all
			}
			all = append(all, p[:n]...)
		}
	}
	got := rest(joined)
	require.Equal(t, rest(alone), got)
	for _, l := range []*link{alone, joined} {
		l.dropReceived()
		require.Zero(t, l.pinned)
	}
}

// TestAskedOnce: a row of Sends asks for one acknowledgement at a time, but where a window holds it back, and a small rest doesn't wait for
// what nobody asked for.
func TestAskedOnce(t *testing.T) {
	l := &link{state: open}
	require.False(t, l.wishes(), "all is said, and no more to be expected")
	l.streak = streakLength
	l.inflight, l.sent, l.end, l.limit = 1000, 1000, 1000, 5000
	require.True(t, l.wishes())
	l.end = 2000
	require.False(t, l.held(1))
	l.num = 6
	require.EqualValues(t, flagAckNow, l.ackWish(flagData))
	require.Zero(t, l.ackWish(flagAck), "nobody acknowledges acknowledgements")
	require.True(t, l.held(1))
	require.False(t, l.wishes())
	l.limited = true
	require.True(t, l.wishes())
	l.limited, l.limit = false, 1000
	require.True(t, l.wishes())
	l.limit, l.largest = 5000, 5
	require.False(t, l.held(1), "the answer has come")
	require.True(t, l.wishes())
	l.largest, l.inflight = 4, 0
	require.False(t, l.held(1), "it was lost")
}

// TestNearWindow: between processes of one host the peer's window is what counts, which is no larger than is good for the cache; not after
// a loss, nor where the path is long.
func TestNearWindow(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memory, _ *Substrate, a, _ *link, _ *tap) {
		a.mu.Lock()
		defer a.mu.Unlock()
		flight := func(now int64) int {
			a.transmit(now)
			return a.flight()
		}
		now := a.now()
		window := a.cc.Window()
		require.Equal(t, window, flight(now))
		most := a.maxWindow()
		a.sub.opts.Window = 2 * nearWindow
		a.sameHost, a.rtt = true, rtt{}
		a.rtt.add(paceAboveRTT, 0, now)
		require.Equal(t, window, flight(now))
		a.rtt.add(paceAboveRTT/2, 0, now)
		require.Equal(t, nearWindow, flight(now))
		require.LessOrEqual(t, a.maxWindow(), min(most, nearWindow))
		a.lastLoss = now
		require.Equal(t, window, flight(now+int64(nearForgives)))
		require.Equal(t, nearWindow, flight(now+int64(nearForgives)+1))
		a.limit = a.una + nearWindow
		require.Equal(t, nearWindow+sendAhead, a.room())
		a.cpu = 3
		a.peerCPU.Store(4)
		require.Equal(t, nearWindow, flight(now+int64(nearForgives)+1))
		a.peerCPU.Store(3)
		require.Equal(t, besideWindow, flight(now+int64(nearForgives)+1), "on one processor no more than fits its cache")
		require.Equal(t, besideWindow+besideAhead, a.room())
		a.peerCPU.Store(4)
		a.collapsed = true
		require.Equal(t, window, flight(now+int64(nearForgives)+1))
	})
}

// TestAskedAtTheEndOfABatch: the last packet that a window lets go asks for an acknowledgement, also if the batch was full at the same time.
func TestAskedAtTheEndOfABatch(t *testing.T) {
	for _, fits := range []bool{false, true} {
		l, _ := trainLink(1<<20, 65_000, func() int { return 1 << 20 })
		packets := (batchBytes + l.mtu.size - 1) / l.mtu.size
		l.inflight = l.flight() - packets*l.mtu.size
		if fits {
			l.inflight--
		}
		b := newBatch()
		l.beginBatch()
		require.True(t, l.fill(b, 1))
		require.True(t, b.full())
		require.Len(t, b.packets, packets)
		require.Equal(t, fits, b.vec[b.start(packets-1)][1]&flagAckNow == 0)
		b.free()
	}
}
