package udp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

// A tap is a bare port of a memory: it sends what it likes, and keeps what it gets.
type tap struct {
	*port
	got chan []byte
}

func newTap(t *testing.T, m *memory) *tap {
	tr, err := m.open(t.Context(), "", "10.0.0.1:0")
	require.NoError(t, err)
	p := &tap{port: tr.(*port), got: make(chan []byte, 1000)}
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			msgs := []sys.UDPMessage{{Buf: make([]byte, blockSize)}}
			if _, err := p.read(msgs, nil); err != nil {
				return
			}
			p.got <- msgs[0].Buf[:msgs[0].N]
		}
	})
	t.Cleanup(func() { p.close(); reading.Wait() })
	return p
}

// answers returns what came, once nothing moves any more.
func (p *tap) answers() (all [][]byte) {
	synctest.Wait()
	for {
		select {
		case b := <-p.got:
			all = append(all, b)
		default:
			return all
		}
	}
}

func sealed(b []byte) []byte {
	clear(b[4:8])
	seal(b, nil)
	return b
}

// linked joins two links over m.
func linked(t *testing.T, m *memory, o Options) (s *Substrate, dialed, accepted *link) {
	o.open = m.open
	s = newTest(t, o)
	ln, err := s.Listen(t.Context(), "10.0.0.1:7")
	require.NoError(t, err)
	a, err := s.Dial(t.Context(), "10.0.0.1:7")
	require.NoError(t, err)
	b, err := ln.Accept()
	require.NoError(t, err)
	return s, a.(*link), b.(*link)
}

// inMemory runs f in a bubble with a link and a tap.
func inMemory(t *testing.T, f func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap)) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, 1, trouble{})
		s, a, b := linked(t, m, Options{})
		f(t, m, s, a, b, newTap(t, m))
	})
}

func initFor(id uint64, cookie []byte) []byte {
	b := putHeader(make([]byte, 0, initLen), kindInit, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, id)
	b = binary.LittleEndian.AppendUint32(b, 1<<20)
	b = append(append(b, 0, 0, 0, 0), cookie...)
	return sealed(b[:initLen])
}

// TestNoAmplification: who has not shown that it receives gets no more bytes than it sent, and costs no memory.
func TestNoAmplification(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		to := b.sock.tr.local()
		links := len(b.sock.links)
		short := initFor(1, nil)[:initLen-1]
		for _, q := range [][]byte{
			initFor(1, nil), sealed(short), {1}, {}, sealed(putHeader(nil, kindPacket, 0, 5)),
			sealed(binary.LittleEndian.AppendUint64(putHeader(nil, kindPacket, 0, 5), 1)), sealed(putHeader(nil, kindGone, 0, 5)),
			sealed(putHeader(nil, kindRefuse, 0, 5)), sealed(putHeader(nil, kindAccept, 0, 5)), sealed(putHeader(nil, kindRetry, 0, b.id)),
		} {
			p.send(to, q)
			total := 0
			for _, r := range p.answers() {
				total += len(r)
			}
			require.LessOrEqual(t, total, len(q))
		}
		require.Len(t, b.sock.links, links)
		require.EqualValues(t, 2, s.Stats().Unknown-3) // both packets, and three answers that nobody waits for
	})
}

// TestCookie: a cookie is for one address, one id, a short time, and one link.
func TestCookie(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		to := b.sock.tr.local()
		get := func() []byte {
			p.send(to, initFor(77, nil))
			r := p.answers()
			require.Len(t, r, 1)
			k, id, err := unseal(r[0])
			require.NoError(t, err)
			require.Equal(t, kindRetry, k)
			require.EqualValues(t, 77, id)
			return r[0][headerLen:]
		}
		kinds := func(p *tap) (ks []kind) {
			for _, r := range p.answers() {
				k, _, err := unseal(r)
				require.NoError(t, err)
				ks = append(ks, k)
			}
			return ks
		}
		cookie := get()
		other := newTap(t, m)
		other.send(to, initFor(77, cookie))
		require.Equal(t, []kind{kindRetry}, kinds(other), "another address")
		p.send(to, initFor(78, cookie))
		require.Equal(t, []kind{kindRetry}, kinds(p), "another id")
		<-time.After(time.Duration(cookieLife) + time.Second)
		p.send(to, initFor(77, cookie))
		require.Equal(t, []kind{kindRetry}, kinds(p), "too old")
		cookie = get()
		for range 3 {
			p.send(to, initFor(77, cookie))
			require.Equal(t, []kind{kindAccept}, kinds(p), "the answer may have been lost")
		}
		require.Len(t, b.sock.dialed, 2)
		l := b.sock.dialed[peerKey{p.addr, 77}]
		l.mu.Lock()
		l.leave()
		l.mu.Unlock()
		p.send(to, initFor(77, cookie))
		require.Empty(t, kinds(p), "used")
		require.EqualValues(t, 4, s.Stats().BadCookie)
	})
}

// TestReplay: datagrams that are repeated, cut or changed do nothing but count.
func TestReplay(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		var seen [][]byte
		m.watch = func(d []byte) { seen = append(seen, append([]byte(nil), d...)) }
		_, err := a.Send(0, [][]byte{[]byte("once")})
		require.NoError(t, err)
		buf := make([]byte, 100)
		n, err := b.Recv(buf)
		require.NoError(t, err)
		require.Equal(t, "once", string(buf[:n]))
		synctest.Wait()
		m.mu.Lock()
		m.watch = nil
		m.mu.Unlock()
		before := s.Stats()
		for _, d := range seen {
			a.sock.tr.(*port).send(b.remoteOf(), d) // to its own sender: unknown or foreign
			a.sock.tr.(*port).send(b.sock.tr.local(), d)
			a.sock.tr.(*port).send(b.sock.tr.local(), d[:len(d)-1])
			d[len(d)-1] ^= 1
			a.sock.tr.(*port).send(b.sock.tr.local(), d)
		}
		synctest.Wait()
		require.NoError(t, b.SetRecvDeadline(time.Now().Add(time.Second)))
		_, err = b.Recv(buf)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		after := s.Stats()
		require.Greater(t, after.Duplicate, before.Duplicate)
		require.Greater(t, after.Corrupt, before.Corrupt)
	})
}

// TestOffPath: who guesses addresses but not connection ids can't break a link, nor end a dial.
func TestOffPath(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		for id := range uint64(100) {
			for _, k := range []kind{kindPacket, kindGone, kindRefuse} {
				h := putHeader(nil, k, flagReset, id)
				p.send(b.sock.tr.local(), sealed(binary.LittleEndian.AppendUint64(h, id)))
			}
		}
		p.send(b.sock.tr.local(), sealed(putHeader(nil, kindGone, 0, a.id))) // the right id from the wrong address
		synctest.Wait()
		_, err := a.Send(0, [][]byte{{1}})
		require.NoError(t, err)
		_, err = b.Recv(make([]byte, 1))
		require.NoError(t, err)
	})
}

// TestBreaches: a peer that acknowledges what was never sent is cut off; one that ignores the window, or changes its mind about the
// end, is not listened to.
func TestBreaches(t *testing.T) {
	packetOf := func(l *link, flags byte, blocks func(h []byte) []byte) []byte {
		h := putHeader(nil, kindPacket, flags, l.id)
		h = binary.LittleEndian.AppendUint64(h, 50)
		return sealed(blocks(h))
	}
	for i, ack := range []func(h []byte) []byte{
		func(h []byte) []byte { return putAck(h, spans{{0, 1000}}, 0, 10, 0, 500) },
		func(h []byte) []byte { return putAck(h, spans{{0, 1}}, 1<<40, 10, 0, 500) },
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
				_, err := b.Send(0, [][]byte{{1}})
				require.NoError(t, err)
				synctest.Wait()
				a.sock.tr.(*port).send(b.sock.tr.local(), packetOf(b, flagAck, ack))
				synctest.Wait()
				_, err = b.Send(1, [][]byte{{1}})
				require.ErrorIs(t, err, substrate.ErrProtocol)
			})
		})
	}
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		at := func(off uint64, data string) func(h []byte) []byte {
			return func(h []byte) []byte { return append(binary.LittleEndian.AppendUint64(h, off), data...) }
		}
		from := a.sock.tr.(*port)
		from.send(b.sock.tr.local(), packetOf(b, flagData, at(1<<40, "far")))
		from.send(b.sock.tr.local(), packetOf(b, flagData, at(1<<64-3, "wrap")))
		synctest.Wait()
		require.EqualValues(t, 1, s.Stats().Overrun)
		require.EqualValues(t, 1, s.Stats().Malformed)
		require.Empty(t, b.receiver.early)
	})
}

// TestManyGaps: a peer that sends only every other byte gets no unbounded memory.
func TestManyGaps(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		from := a.sock.tr.(*port)
		for i := range uint64(2 * maxEarly) {
			h := binary.LittleEndian.AppendUint64(putHeader(nil, kindPacket, flagData, b.id), 1000+i)
			from.send(b.sock.tr.local(), sealed(append(binary.LittleEndian.AppendUint64(h, 1+2*i), 'x')))
			if i%1000 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		require.Len(t, b.receiver.early, maxEarly)
		require.NotZero(t, s.Stats().Overrun)
		require.LessOrEqual(t, len(b.got), maxGot)
	})
}

// TestPeerVanishes: a link whose packets lead nowhere breaks, in bounded time, for both calls.
func TestPeerVanishes(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		m.mu.Lock()
		m.dark = true
		m.mu.Unlock()
		start := time.Now()
		_, err := a.Send(0, [][]byte{{1}})
		require.NoError(t, err)
		_, err = a.Recv(make([]byte, 1))
		require.ErrorIs(t, err, substrate.ErrPathDown)
		require.InDelta(t, defaultDown.Seconds(), time.Since(start).Seconds(), 1)
		_, err = a.Send(1, [][]byte{{1}})
		require.ErrorIs(t, err, substrate.ErrPathDown)
	})
}

// TestCloseDropsSlices: after Close, with bytes that the peer hasn't got, nobody looks at the session's slices, and the peer still
// gets the bytes.
func TestCloseDropsSlices(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		m.mu.Lock()
		m.dark = true
		m.mu.Unlock()
		data := simStream(1, 1, 100_000)
		mine := append([]byte(nil), data...)
		_, err := a.Send(0, [][]byte{mine})
		require.NoError(t, err)
		require.NoError(t, a.Close())
		clear(mine)
		m.mu.Lock()
		m.dark = false
		m.mu.Unlock()
		got := make([]byte, len(data))
		for n := 0; n < len(got); {
			k, err := b.Recv(got[n:])
			require.NoError(t, err)
			n += k
		}
		require.Equal(t, data, got)
	})
}

func (l *link) remoteOf() netip.AddrPort {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.remote
}

// TestThousandsOfLinks share two sockets, and leave nothing behind.
func TestThousandsOfLinks(t *testing.T) {
	s := newTest(t, Options{})
	ln, err := s.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	var links [2][]substrate.Link
	for range 2000 {
		l, err := s.Dial(t.Context(), ln.Addr().String())
		require.NoError(t, err)
		links[0] = append(links[0], l)
		l, err = ln.Accept()
		require.NoError(t, err)
		links[1] = append(links[1], l)
	}
	require.Len(t, s.sockets, 2)
	for i := range links[0] {
		_, err := links[0][i].Send(0, [][]byte{{byte(i), byte(i >> 8)}})
		require.NoError(t, err)
	}
	for i := range links[1] {
		var p [2]byte
		_, err := readAll(links[1][i], p[:])
		require.NoError(t, err)
		require.Equal(t, i, int(p[0])|int(p[1])<<8)
	}
	for i := range links[0] {
		require.NoError(t, links[0][i].Close())
	}
	var ended sync.WaitGroup // all at once: on a busy machine some lose the end, and ask for it after a while
	for _, l := range links[1] {
		ended.Go(func() {
			_, err := l.Recv(make([]byte, 1))
			assert.Error(t, err)
			assert.NoError(t, l.Close())
		})
	}
	ended.Wait()
	require.NoError(t, ln.Close())
	require.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.sockets) == 0 }, 10*time.Second, time.Millisecond)
}

func readAll(l substrate.Link, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = l.Recv(p[n:])
		n += k
	}
	return n, err
}

// FuzzDatagrams gives a link datagrams that are well formed outside, whatever is in them.
func FuzzDatagrams(f *testing.F) {
	f.Add([]byte{version<<4 | byte(kindPacket), flagData, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0})
	f.Add(initFor(3, nil))
	long := longPacket(2, 0, 0, make([]byte, 1000))
	long[2], long[3], long[14], long[15] = byte((len(long)-headerLen)&255), byte((len(long)-headerLen)>>8), 7, (trainHead-packetLen)/coverUnit
	f.Add(long)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMemory(t, 1, trouble{})
		s := New(Options{open: m.open})
		tr, err := m.open(t.Context(), "", "10.0.0.1:7")
		require.NoError(t, err)
		sock := newSocket(s, tr)
		sock.listen()
		sock.holds += 2
		l := sock.newLink(netip.AddrPortFrom(memHost, 9))
		l.state, l.peer, l.sameHost = open, 2, len(b)%2 == 0
		l.agree(capECN)
		sock.add(l)
		_, err = l.Send(0, [][]byte{make([]byte, 5000)})
		require.NoError(t, err)
		for len(b) >= headerLen {
			n := min(len(b), headerLen+int(b[2])+int(b[3])<<8)
			d := append([]byte(nil), b[:n]...)
			b = b[n:]
			segment, covered := n, n
			d[0], d[2], d[3] = version<<4|d[0]&7, 0, 0
			if isLong(d) && n > trainHead {
				// A row, whole or not, whose header has its length or another.
				covered = packetLen + int(d[15])%64*coverUnit
				segment, d[3] = max(n>>(d[14]%8), 1), byte(covered/coverUnit)
				if d[13]&1 == 0 {
					lengthen(d, n)
				}
			}
			if d[9]&1 == 0 {
				binary.LittleEndian.PutUint64(d[8:], l.id)
			}
			mem := newBlock()
			clear(d[4:8])
			seal(d[:min(covered, n)], nil)
			k := copy(mem.buf[:], d)
			sock.datagrams(&sys.UDPMessage{Buf: mem.buf[:], N: k, Segment: segment, ECN: d[10], From: netip.AddrPortFrom(memHost, 9)}, mem, s.now())
			mem.drop()
			for _, x := range sock.touched {
				x.touched = false
				x.afterBatch(s.now())
			}
			sock.touched = nil
		}
		sock.shutdown()
	})
}
