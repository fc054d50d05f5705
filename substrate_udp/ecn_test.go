package udp

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/netem"
	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

// A crossing is what one transfer through a bottleneck came to, in virtual time.
type crossing struct {
	Stats
	queue netem.Stats
	rate  float64 // Mb/s
}

// cross sends size bytes over a network in memory, through a bottleneck if spec says one, else through tr.
func cross(t *testing.T, size int, spec string, tr trouble, o Options) (c crossing) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, 1, tr)
		o.open = m.open
		s := newTest(t, o)
		ln, err := s.Listen(t.Context(), "10.0.0.1:7")
		require.NoError(t, err)
		a, err := s.Dial(t.Context(), "10.0.0.1:7")
		require.NoError(t, err)
		b, err := ln.Accept()
		require.NoError(t, err)
		pipe := netem.NewPipe(netem.MustParse(spec), 1)
		if spec != "" {
			m.mu.Lock()
			m.pipes = map[netip.AddrPort]*netem.Pipe{netip.MustParseAddrPort("10.0.0.1:7"): pipe}
			m.mu.Unlock()
		}
		start := time.Now()
		go func() {
			for p := make([]byte, 64<<10); ; {
				if _, err := a.Send(substrate.Unkept, [][]byte{p}); err != nil {
					return
				}
			}
		}()
		for p := make([]byte, 256<<10); size > 0; {
			n, err := b.Recv(p)
			require.NoError(t, err)
			size -= n
			c.rate += float64(n) * 8 / 1e6
		}
		c.rate /= time.Since(start).Seconds()
		require.NoError(t, a.Close())
		m.mu.Lock()
		c.queue = pipe.Stats()
		m.mu.Unlock()
		c.Stats = s.Stats()
	})
	return c
}

// TestMarkingBottleneck: where the router marks, nothing is lost, the queue stays short, and the path is used as well as without.
func TestMarkingBottleneck(t *testing.T) {
	for _, spec := range []string{
		"rate=50mbit,delay=20ms,queue=500k,ecn=40k", "rate=50mbit,delay=4ms,queue=500k,ecn=30k", "rate=50mbit,delay=1ms,queue=500k,ecn=60k",
		"rate=10mbit,delay=20ms,queue=256k,ecn=30k",
	} {
		back := trouble{delay: netem.MustParse(spec).Delay}
		with := cross(t, 12<<20, spec, back, Options{})
		without := cross(t, 12<<20, spec, back, Options{NoECN: true})
		t.Logf("%s: %.1f Mb/s, %v in the queue, %d lost; without ECN %.1f Mb/s, %v, %d lost", spec,
			with.rate, with.queue.MeanWait(), with.Lost, without.rate, without.queue.MeanWait(), without.Lost)
		require.EqualValues(t, 1, with.ECNPaths)
		require.NotZero(t, with.ECNMarks)
		require.LessOrEqual(t, with.ECNMarks, with.queue.Marked)
		require.Zero(t, with.queue.QueueFull)
		require.Zero(t, with.Lost)
		require.Less(t, with.queue.MeanWait(), without.queue.MeanWait()/3)
		require.Greater(t, with.rate, .9*without.rate)
		require.Zero(t, without.queue.Marked)
		require.Zero(t, without.ECNPaths)
	}
}

// TestBadPaths: paths that do anything else to codepoints than they should are found out; then ECN is off, and doesn't slow them down.
func TestBadPaths(t *testing.T) {
	const size = 12 << 20
	becomes := func(to netem.ECN) func(netem.ECN) netem.ECN {
		return func(e netem.ECN) netem.ECN {
			if e == netem.NotECT {
				return e
			}
			return to
		}
	}
	tr := trouble{delay: 10 * time.Millisecond}
	without := cross(t, size, "", tr, Options{NoECN: true})
	// Without ECN this takes 12 round trips: in which order goroutines run decides whether it is one more, here as there.
	const same = .8
	for _, c := range []struct {
		name      string
		codepoint func(netem.ECN) netem.ECN
		told      func(Stats) uint64
		rate      float64 // of that without
	}{
		{"bleached", becomes(netem.NotECT), func(s Stats) uint64 { return s.ECNBleached }, same},
		{"changed", becomes(netem.ECT1), func(s Stats) uint64 { return s.ECNMangled }, same},
		{"all marked", becomes(netem.CE), func(s Stats) uint64 { return s.ECNMangled }, .5},
		{"everything marked", func(netem.ECN) netem.ECN { return netem.CE }, func(s Stats) uint64 { return s.ECNFalse + s.ECNMangled }, .5},
		{"dropped", becomes(vanishes), func(s Stats) uint64 { return s.ECNLost }, .08}, // the first packets are lost, and slow start ends early
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := tr
			tr.codepoint = c.codepoint
			with := cross(t, size, "", tr, Options{})
			t.Logf("%.1f Mb/s, without ECN %.1f", with.rate, without.rate)
			require.NotZero(t, c.told(with.Stats), "%+v", with.Stats)
			require.Greater(t, with.rate, c.rate*without.rate)
		})
	}
}

// TestECNGoodPath: where nothing is wrong, ECN is there and changes nothing.
func TestECNGoodPath(t *testing.T) {
	tr := trouble{delay: 10 * time.Millisecond, loss: .01, double: .01, swap: .01}
	c := cross(t, 10<<20, "", tr, Options{})
	require.EqualValues(t, 1, c.ECNPaths)
	require.Zero(t, c.ECNMarks+c.ECNBleached+c.ECNFalse+c.ECNLost+c.ECNMangled)
}

// TestECNOfNewPath: a path that the link moves to is looked at anew, whatever the old one was.
func TestECNOfNewPath(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		say := func() {
			for range 30 {
				_, err := a.Send(substrate.Unkept, [][]byte{make([]byte, 3000)})
				require.NoError(t, err)
				_, err = readAll(b, make([]byte, 3000))
				require.NoError(t, err)
				_, err = b.Send(substrate.Unkept, [][]byte{make([]byte, 3000)})
				require.NoError(t, err)
				_, err = readAll(a, make([]byte, 3000))
				require.NoError(t, err)
			}
			<-time.After(100 * time.Millisecond)
		}
		move := func(port uint16, codepoint func(netem.ECN) netem.ECN) {
			m.mu.Lock()
			m.translate[a.sock.tr.local()] = netip.AddrPortFrom(memHost, port)
			m.trouble.codepoint = codepoint
			m.mu.Unlock()
			say()
			require.Equal(t, port, b.remoteOf().Port())
		}
		states := func() [2]ecnState {
			var got [2]ecnState
			for i, l := range []*link{a, b} {
				l.mu.Lock()
				got[i] = l.ecn.state
				l.mu.Unlock()
			}
			return got
		}
		say()
		require.Equal(t, [2]ecnState{ecnCapable, ecnCapable}, states())
		move(translated+1, func(netem.ECN) netem.ECN { return netem.NotECT })
		require.Equal(t, [2]ecnState{}, states())
		require.EqualValues(t, 2, s.Stats().ECNBleached)
		move(translated+2, nil)
		require.Equal(t, [2]ecnState{ecnCapable, ecnCapable}, states())
		require.EqualValues(t, 4, s.Stats().ECNPaths)
		move(translated+3, func(e netem.ECN) netem.ECN { return e })
		require.Equal(t, [2]ecnState{ecnCapable, ecnCapable}, states())
		require.Zero(t, s.Stats().ECNFalse+s.Stats().ECNLost+s.Stats().ECNMangled)
	})
}

// TestECNOfOlderPeers: who knows nothing of capabilities gets the old answer, no codepoints and no counts; and the other way round.
func TestECNOfOlderPeers(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		to := b.sock.tr.local()
		p.send(to, initFor(77, nil))
		retry := p.answers()
		require.Len(t, retry, 1)
		p.send(to, initFor(77, retry[0][headerLen:]))
		accept := p.answers()
		require.Len(t, accept, 1)
		require.Len(t, accept[0], acceptLen)
		l := b.sock.dialed[peerKey{p.addr, 77}]
		require.NotNil(t, l)
		h := binary.LittleEndian.AppendUint64(putHeader(nil, kindPacket, flagAckNow, l.id), 0)
		p.sendRow(to, sealed(h), 0, netem.CE)
		acks := p.answers()
		require.Len(t, acks, 1)
		var q packet
		require.NoError(t, parsePacket(acks[0], &q))
		require.Len(t, acks[0], packetLen+ackLen)
		_, err := l.Send(substrate.Unkept, [][]byte{{1}})
		require.NoError(t, err)
		require.Zero(t, l.ecn.sent)

		// The dialer: an answer without capabilities, and with such that nobody knows yet.
		for caps, want := range map[uint32]ecnState{0: ecnOff, capECN: ecnTesting, ^uint32(capECN): ecnOff, ^uint32(0): ecnTesting} {
			d := a.sock.newLink(p.addr)
			d.dial = &dial{again: make(chan struct{}, 1), result: make(chan error, 1)}
			require.True(t, a.sock.add(d))
			r := putHeader(nil, kindAccept, 0, d.id)
			r = append(r, make([]byte, acceptLen-headerLen)...)
			if caps != 0 {
				r = binary.LittleEndian.AppendUint32(r, caps)
			}
			p.send(a.sock.tr.local(), sealed(r))
			synctest.Wait()
			require.Equal(t, open, d.state)
			require.Equal(t, want, d.ecn.state)
			d.mu.Lock()
			d.leave()
			d.mu.Unlock()
		}
	})
}

// TestNoECN: one end that was told to leave it makes both do without.
func TestNoECN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, 1, trouble{})
		marked := 0
		m.trouble.codepoint = func(e netem.ECN) netem.ECN {
			if e != netem.NotECT {
				marked++
			}
			return e
		}
		x, y := newTest(t, Options{open: m.open}), newTest(t, Options{open: m.open, NoECN: true})
		for _, ends := range [][2]*Substrate{{x, y}, {y, x}} {
			ln, err := ends[0].Listen(t.Context(), "10.0.0.1:0")
			require.NoError(t, err)
			a, err := ends[1].Dial(t.Context(), ln.Addr().String())
			require.NoError(t, err)
			b, err := ln.Accept()
			require.NoError(t, err)
			_, err = a.Send(substrate.Unkept, [][]byte{make([]byte, 10_000)})
			require.NoError(t, err)
			_, err = readAll(b, make([]byte, 10_000))
			require.NoError(t, err)
			require.NoError(t, ln.Close())
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		require.Zero(t, marked)
	})
}

// TestPureAcksCarryNoCodepoint, and packets of one host don't either.
func TestPureAcksCarryNoCodepoint(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		var codepoints [2]map[netem.ECN]int
		for i := range codepoints {
			codepoints[i] = make(map[netem.ECN]int)
		}
		var data bool
		m.watch = func(d []byte) { data = d[1]&flagData != 0 }
		m.trouble.codepoint = func(e netem.ECN) netem.ECN { // in the same call as watch
			if data {
				codepoints[0][e]++
			} else {
				codepoints[1][e]++
			}
			return e
		}
		for range 100 {
			_, err := a.Send(substrate.Unkept, [][]byte{make([]byte, 10_000)})
			require.NoError(t, err)
			_, err = readAll(b, make([]byte, 10_000))
			require.NoError(t, err)
		}
		<-time.After(time.Second)
		m.mu.Lock()
		defer m.mu.Unlock()
		require.Zero(t, codepoints[0][netem.ECT1]+codepoints[0][netem.CE])
		require.Greater(t, codepoints[0][netem.ECT0], 100)
		require.LessOrEqual(t, codepoints[1][netem.ECT0], 5, "but for probes of longer packets")
		require.NotZero(t, codepoints[1][netem.NotECT])
	})
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, 1, trouble{})
		m.host = 5
		s := newTest(t, Options{open: m.open})
		l := &link{sub: s, sock: &socket{sub: s, tr: &port{net: m}}}
		l.sameHost, l.remote = true, netip.MustParseAddrPort("127.0.0.1:7")
		l.agree(capECN)
		require.True(t, l.ecn.peer)
		require.Equal(t, ecnOff, l.ecn.state)
		l.newPathECN()
		require.Equal(t, ecnTesting, l.ecn.state)
	})
}

// TestMarkIsAcknowledgedAtOnce: CE is acknowledged at once, ECT(0) with the others.
func TestMarkIsAcknowledgedAtOnce(t *testing.T) {
	var r receiver
	var m marks
	r.countMark(&packet{flags: flagData, ecn: sys.ECT0}, &m)
	require.False(t, r.ackNow)
	r.countMark(&packet{flags: flagAck, ecn: sys.CE}, &m)
	require.False(t, r.ackNow, "nobody acknowledges an acknowledgement")
	r.countMark(&packet{flags: flagData, ecn: sys.CE}, &m)
	require.True(t, r.ackNow)
	require.Equal(t, marks{2: 1, 3: 2}, m)
}

// TestFirstPacketDropped: who has little to say gets through where packets with codepoints don't, too.
func TestFirstPacketDropped(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		m.trouble.codepoint = func(e netem.ECN) netem.ECN {
			if e != netem.NotECT {
				return vanishes
			}
			return e
		}
		start := time.Now()
		for range 2 {
			_, err := a.Send(substrate.Unkept, [][]byte{{1}})
			require.NoError(t, err)
			_, err = b.Recv(make([]byte, 1))
			require.NoError(t, err)
		}
		<-time.After(100 * time.Millisecond)
		require.Less(t, time.Since(start), time.Second)
		require.EqualValues(t, 1, s.Stats().ECNLost)
	})
}

// TestMarksInCubic: a mark takes less than a loss, but in slow start; at most once a round trip; with a loss in the same one as much as
// that alone; and a loss that wasn't doesn't undo it. Also where losses are no sign.
func TestMarksInCubic(t *testing.T) {
	const rtt = 50 * time.Millisecond
	fresh := func() *cubic {
		w := NewCubic(testSegment).(*cubic)
		w.window, w.ssthresh = 100*testSegment, testSegment
		w.OnAck(time.Second, time.Second-rtt, testSegment, rtt, rtt, false)
		return w
	}
	now := 2 * time.Second
	w := fresh()
	w.OnLoss(now, now-rtt, testSegment)
	require.EqualValues(t, 100*testSegment, w.window, "a loss without a queue")
	w.OnMark(now, now-rtt, 3)
	require.InDelta(t, 85*testSegment, w.window, 1)
	w.OnMark(now+rtt/2, now-rtt/2, 3)
	require.InDelta(t, 85*testSegment, w.window, 1, "the same round trip")
	w.OnLoss(now+rtt/2, now-rtt/2, testSegment)
	require.InDelta(t, 85*testSegment, w.window, 1, "again no sign")
	w.OnMark(now+rtt, now+1, 1)
	require.InDelta(t, 85*.85*testSegment, w.window, 1)

	w = fresh()
	w.OnMark(now, now-rtt, 1)
	w.lost = w.got
	w.OnLoss(now+1, now-1, testSegment)
	require.InDelta(t, 70*testSegment, w.window, 1)
	w.OnLoss(now+2, now-1, testSegment)
	w.OnSpurious(now + 3)
	require.InDelta(t, 70*testSegment, w.window, 1)

	w = fresh()
	w.lost = w.got
	w.OnLoss(now, now-rtt, testSegment)
	w.OnMark(now+rtt, now+1, 1)
	w.OnSpurious(now + rtt + 1)
	require.InDelta(t, 70*.85*testSegment, w.window, 1)

	w = NewCubic(testSegment).(*cubic)
	w.OnMark(now, now-rtt, 1)
	require.InDelta(t, initialPackets*cubicBeta*testSegment, w.window, 1)
	require.False(t, w.SlowStart())
	for range 100 {
		now += rtt
		w.OnMark(now, now-1, 1)
	}
	require.EqualValues(t, minimumPackets*testSegment, w.window)
}
