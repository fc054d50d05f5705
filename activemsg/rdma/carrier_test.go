package rdma

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
	"github.com/sockemu/sockemu/substrate"
)

// testSend sends segments of all sizes in all ways, one by one.
func testSend(t *testing.T, s *setup) {
	a, b := s.connect(t, ConnConfig{}, ConnConfig{Payload: 5000})
	require.Equal(t, 5000, a.Limits().Payload)
	kept, err := s.a.Alloc(8192)
	require.NoError(t, err)
	for i, n := range []int{0, 1, a.Limits().Inline, a.Limits().Inline + 1, 1023, 1024, 4096, 5000} {
		want := pattern(n, byte(i))
		copy(kept, want)
		for _, send := range []func() error{
			func() error { return a.Send(head(1), [][]byte{want}) },
			func() error { return a.Send(head(1), [][]byte{want[:n/3], nil, want[n/3 : n/2], want[n/2:]}) },
			func() error { return a.Send(head(1), [][]byte{kept[:n]}) },
			func() error { return a.Send(head(1), [][]byte{kept[:n/2], kept[n/2 : n]}) },
			func() error { return a.Send(head(1), [][]byte{kept[:n/2], want[n/2 : n]}) }, // half of it isn't registered
			func() error { return a.Send(head(1), [][]byte{want[:min(n, LeadLen)], kept[min(n, LeadLen):n]}) },
			func() error {
				return a.Send(head(1), [][]byte{kept[:n/5], kept[n/5 : n/4], kept[n/4 : n/3], kept[n/3 : n/2], kept[n/2 : n]})
			},
		} {
			require.NoError(t, send())
			got := take(t, b, 1)[0]
			require.Equal(t, *head(1), got.Head)
			require.True(t, bytes.Equal(want, got.Payload), "%d bytes", n)
			b.Done(&got)
		}
	}
	st := a.Stats()
	require.NotZero(t, st.Inline)
	require.NotZero(t, st.Copied)
	require.EqualValues(t, 3*3, st.Kept, "three ways, three sizes")
	require.Error(t, a.Send(head(1), [][]byte{make([]byte, 5001)}))
}

// testStream keeps the path full: far more segments than there are slots, with credits as an endpoint counts them.
func testStream(t *testing.T, s *setup) {
	const slots, total = 8, 3000
	a, b := s.connect(t, ConnConfig{Slots: slots, SendSlots: 3, Payload: 2000}, ConnConfig{Slots: slots, SendSlots: 2})
	kept, err := s.a.Alloc(2000)
	require.NoError(t, err)
	copy(kept, pattern(2000, 5))
	other := pattern(2000, 5)
	failed := make(chan error, 1)
	go func() {
		failed <- func() error {
			for i := range total {
				if i >= slots {
					// A word from the peer is a credit; its own slot goes back at once.
					var one [1]activemsg.Segment
					if _, err := a.Recv(one[:]); err != nil {
						return err
					}
					a.Done(&one[0])
				}
				n := i * 37 % 2000
				from := kept
				if i%3 == 0 {
					from = other
				}
				if err := a.Send(head(byte(i)), [][]byte{from[:n]}); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	for i := range total {
		got := take(t, b, 1)[0]
		require.Equal(t, byte(i), got.Head[0])
		require.True(t, bytes.Equal(kept[:i*37%2000], got.Payload))
		b.Done(&got)
		if i < total-slots {
			require.NoError(t, b.Send(head(0), nil))
		}
	}
	require.NoError(t, await(t, failed))
	if s.net != nil {
		st := s.net.Stats()
		require.Zero(t, st.RNR)
		require.Zero(t, st.Overruns)
	}
}

// testBatch sends more than one post can take, of all kinds, with fewer slots than there are segments in it.
func testBatch(t *testing.T, s *setup) {
	a, b := s.connect(t, ConnConfig{SendSlots: 4}, ConnConfig{})
	kept, err := s.a.Alloc(4096)
	require.NoError(t, err)
	copy(kept, pattern(4096, 2))
	for n := range 70 {
		var batch []activemsg.Segment
		for i := range n {
			p := pattern(i*i%4096, 2)
			if i%5 == 0 {
				p = kept[:i*i%4096]
			}
			batch = append(batch, activemsg.Segment{Head: *head(byte(i)), Payload: p})
		}
		require.NoError(t, a.SendBatch(batch))
		for i, got := range take(t, b, n) {
			require.Equal(t, byte(i), got.Head[0])
			require.True(t, bytes.Equal(kept[:i*i%4096], got.Payload), "%d of %d", i, n)
			b.Done(&got)
		}
		require.NoError(t, b.Send(head(0), nil)) // gives the slots back
		got := take(t, a, 1)[0]
		a.Done(&got)
	}
	if s.net != nil {
		require.Zero(t, s.net.Stats().RNR)
	}
}

// TestQueueFills posts more than the queue can hold while nothing is acknowledged, so Send must wait, and go on.
func TestQueueFills(t *testing.T) {
	s := simulated(t, sim.Config{Delay: 5 * time.Millisecond})
	a, b := s.connect(t, ConnConfig{Slots: 400}, ConnConfig{Slots: 400})
	for i := range 390 {
		require.NoError(t, a.Send(head(byte(i)), nil))
	}
	for i, got := range take(t, b, 390) {
		require.Equal(t, byte(i), got.Head[0])
		b.Done(&got)
	}
	require.LessOrEqual(t, a.tx.made-a.tx.done.Load(), a.tx.depth)
	require.Zero(t, s.net.Stats().RNR)
}

// testPlace places payloads that are cut in all ways, between slots that are far smaller.
func testPlace(t *testing.T, s *setup) {
	for _, strict := range []bool{false, true} {
		a, b := s.connect(t, ConnConfig{Payload: 1000, SendSlots: 4}, ConnConfig{Payload: 1000, Strict: strict})
		buf, err := b.Alloc(20000)
		require.NoError(t, err)
		kept, err := s.a.Alloc(20000)
		require.NoError(t, err)
		for i, n := range []int{0, 1, 1000, 1087, 1088, 1089, 7000, 20000} {
			for way := range 4 {
				want := pattern(n, byte(8*i+way))
				copy(kept, want)
				clear(buf)
				key, err := b.Expose(buf)
				require.NoError(t, err)
				switch way {
				case 0:
					err = a.Place(key, [][]byte{want})
				case 1:
					err = a.Place(key, [][]byte{want[:n/3], nil, want[n/3 : n/2], want[n/2:]})
				case 2:
					err = a.Place(key, [][]byte{kept[:n]})
				case 3:
					k := kept[:n]
					err = a.Place(key, [][]byte{k[:n/7], k[n/7 : n/6], want[n/6 : n/5], k[n/5 : n/4], k[n/4 : n/3], k[n/3:]})
				}
				require.NoError(t, err)
				require.NoError(t, a.Send(head(9), nil))
				got := take(t, b, 1)[0]
				b.Done(&got)
				require.True(t, bytes.Equal(want, buf[:n]), "%d bytes, way %d", n, way)
				require.Zero(t, bytes.Count(buf[n:], []byte{0})-len(buf[n:]), "nothing behind it")
				b.Hide(key)
			}
		}
		key, err := b.Expose(buf[:10])
		require.NoError(t, err)
		require.Error(t, a.Place(key, [][]byte{make([]byte, 11)}))
		b.Hide(key)
		b.Free(buf)
		s.a.Free(kept)
	}
}

// TestExposeRefuses: only memory of Alloc can be exposed.
func TestExposeRefuses(t *testing.T) {
	s := simulated(t, sim.Config{})
	a, b := s.connect(t, ConnConfig{}, ConnConfig{})
	_, err := a.Expose(make([]byte, 100))
	require.ErrorIs(t, err, errors.ErrUnsupported)
	local, err := s.a.Alloc(100)
	require.NoError(t, err)
	_, err = a.Expose(local)
	require.ErrorIs(t, err, errors.ErrUnsupported, "the peer may write only where it is meant to")
	_, err = a.Expose(a.recvMem[:10])
	require.ErrorIs(t, err, errors.ErrUnsupported)
	other, err := b.Alloc(100)
	require.NoError(t, err)
	_, err = a.Expose(other)
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

// testStaleKey: in a strict connection a key that was hidden breaks the path, and the memory stays as it is.
func testStaleKey(t *testing.T, s *setup) {
	a, b := s.connect(t, ConnConfig{}, ConnConfig{Strict: true})
	buf, err := b.Alloc(4096)
	require.NoError(t, err)
	clear(buf)
	key, err := b.Expose(buf)
	require.NoError(t, err)
	b.Hide(key)
	require.NoError(t, a.Place(key, [][]byte{pattern(4096, 1)}))
	_, err = a.Recv(make([]activemsg.Segment, 1))
	require.ErrorIs(t, err, substrate.ErrPathDown)
	_, err = b.Recv(make([]activemsg.Segment, 1))
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.Zero(t, bytes.Count(buf, []byte{0})-len(buf))
}

// testWrongKey: a key that was never good.
func testWrongKey(t *testing.T, s *setup) {
	a, b := s.connect(t, ConnConfig{}, ConnConfig{})
	require.NoError(t, a.Place(activemsg.Key{Addr: address(b.recvMem), RKey: b.chunk.rkey ^ 0x100, Len: 100}, [][]byte{pattern(100, 1)}))
	require.NoError(t, a.Place(activemsg.Key{Addr: address(b.recvMem), RKey: b.chunk.rkey, Len: 100}, [][]byte{pattern(100, 1)}))
	_, err := a.Recv(make([]activemsg.Segment, 1))
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.Zero(t, bytes.Count(b.recvMem, []byte{0})-len(b.recvMem), "slots can't be written by a peer, whatever its key")
}

// testLastWord: what was sent just before Close arrives.
func testLastWord(t *testing.T, s *setup) {
	a, b := s.connect(t, ConnConfig{}, ConnConfig{})
	for i := range 20 {
		require.NoError(t, a.Send(head(byte(i)), [][]byte{pattern(3000, byte(i))}))
	}
	require.NoError(t, a.Close())
	for i, got := range take(t, b, 20) {
		require.Equal(t, byte(i), got.Head[0])
		require.True(t, bytes.Equal(pattern(3000, byte(i)), got.Payload))
	}
	require.ErrorIs(t, a.Send(head(0), nil), net.ErrClosed)
	_, err := a.Recv(make([]activemsg.Segment, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, a.Place(activemsg.Key{Len: 1}, [][]byte{{1}}), net.ErrClosed)
	_, err = a.Expose([]byte{1})
	require.ErrorIs(t, err, net.ErrClosed)
	require.NoError(t, a.Close())
}

// testCloseEndsRecv: also one that sleeps.
func testCloseEndsRecv(t *testing.T, s *setup) {
	for _, spin := range []time.Duration{-1, time.Millisecond} {
		a, _ := s.connect(t, ConnConfig{Spin: spin}, ConnConfig{})
		ended := make(chan error)
		go func() {
			_, err := a.Recv(make([]activemsg.Segment, 1))
			ended <- err
		}()
		if spin < 0 {
			require.Eventually(t, func() bool { return a.Stats().Sleeps > 0 }, patience, time.Millisecond)
		}
		require.NoError(t, a.Close())
		require.ErrorIs(t, await(t, ended), net.ErrClosed)
	}
}

// testSegmentsOutliveClose: memory of a segment goes when it is Done.
func testSegmentsOutliveClose(t *testing.T, s *setup) {
	a, b := s.connect(t, ConnConfig{}, ConnConfig{})
	before := s.b.Usage().Registered
	require.NoError(t, a.Send(head(1), [][]byte{pattern(2000, 3)}))
	got := take(t, b, 1)[0]
	posted, err := b.Alloc(100)
	require.NoError(t, err)
	require.NoError(t, b.Close())
	require.True(t, bytes.Equal(pattern(2000, 3), got.Payload))
	posted[0] = 1
	b.Done(&got)
	b.Free(posted)
	require.Less(t, s.b.Usage().Registered, before)
	require.Zero(t, s.b.Usage().Registered)
}

// testPeerGone: an end that closes can't be reached any more, and the other learns so.
func testPeerGone(t *testing.T, s *setup) {
	a, b := s.connect(t, ConnConfig{Timeout: 10, Retry: 1}, ConnConfig{})
	require.NoError(t, b.Close())
	require.NoError(t, a.Send(head(1), nil))
	_, err := a.Recv(make([]activemsg.Segment, 1))
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.ErrorIs(t, a.Send(head(1), nil), substrate.ErrPathDown)
}

func TestPortDown(t *testing.T) {
	s := simulated(t, sim.Config{})
	a, b := s.connect(t, ConnConfig{}, ConnConfig{Timeout: 10, Retry: 1})
	s.net.Host("a").SetLink(false)
	_, err := a.Recv(make([]activemsg.Segment, 1))
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.ErrorIs(t, err, errPortDown)
	require.NoError(t, b.Send(head(1), nil)) // the other end must find out by itself
	_, err = b.Recv(make([]activemsg.Segment, 1))
	require.ErrorIs(t, err, substrate.ErrPathDown)
	var why *verbs.StatusError
	require.ErrorAs(t, err, &why)

	_, err = Open(open(t, s.net, "a"), Config{})
	require.ErrorIs(t, err, substrate.ErrConfig, "a port that is down can't be used")
	s.net.Host("a").SetLink(true)
	c, d := s.connect(t, ConnConfig{}, ConnConfig{})
	require.NoError(t, c.Send(head(1), nil))
	take(t, d, 1)
}

func open(t *testing.T, n *sim.Network, host string) verbs.Device {
	d, err := n.Host(host).Open(sim.DeviceName)
	require.NoError(t, err)
	return d
}

func TestDeviceRemoved(t *testing.T) {
	s := simulated(t, sim.Config{})
	a, _ := s.connect(t, ConnConfig{}, ConnConfig{})
	s.net.Host("a").Remove()
	_, err := a.Recv(make([]activemsg.Segment, 1))
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.ErrorIs(t, a.Send(head(1), nil), substrate.ErrPathDown)
	_, err = s.a.Prepare(ConnConfig{})
	require.ErrorIs(t, err, verbs.ErrGone)
}

// TestCut: without an answer the path is dead after the time-outs; Send doesn't wait for them.
func TestCut(t *testing.T) {
	s := simulated(t, sim.Config{})
	a, _ := s.connect(t, ConnConfig{Timeout: 12, Retry: 2}, ConnConfig{})
	s.net.Cut(s.net.Host("a"), s.net.Host("b"), true)
	require.NoError(t, a.Send(head(1), nil))
	_, err := a.Recv(make([]activemsg.Segment, 1))
	require.ErrorIs(t, err, substrate.ErrPathDown)
	var why *verbs.StatusError
	require.ErrorAs(t, err, &why)
	require.Equal(t, verbs.StatusRetryExceeded, why.Status)
	require.ErrorContains(t, err, "no answer from the peer")
}

// TestBarren: a device that neither finishes requests nor gives them up holds a Send only for a while.
func TestBarren(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulated(t, sim.Config{})
		a, _ := s.connect(t, ConnConfig{Timeout: 31}, ConnConfig{}) // two hours
		s.net.Cut(s.net.Host("a"), s.net.Host("b"), true)
		start := time.Now()
		var err error
		for i := 0; err == nil && i < 10_000; i++ {
			err = a.Send(head(1), nil)
		}
		require.ErrorIs(t, err, substrate.ErrPathDown)
		require.ErrorIs(t, err, errBarren)
		require.InDelta(t, barrenMost*barrenTick, time.Since(start), float64(barrenTick))
	})
}

// TestBarrenReceiver: where it is the receiving goroutine that sends, the endpoint ends as soon as for a silent peer.
func TestBarrenReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const death = 600 * time.Millisecond
		s := simulated(t, sim.Config{})
		x, y := s.connect(t, ConnConfig{Timeout: 31}, ConnConfig{Timeout: 31})
		var h activemsg.Handlers
		h.Quick(1, func(m *activemsg.Msg) {
			s.net.Cut(s.net.Host("a"), s.net.Host("b"), true)
			for m.Endpoint.TrySend(2, [][]byte{make([]byte, 2000)}) == nil {
			}
		})
		a, err := activemsg.New(x, &h, activemsg.Config{Death: death})
		require.NoError(t, err)
		defer a.Close()
		b, err := activemsg.New(y, &h, activemsg.Config{Death: death})
		require.NoError(t, err)
		defer b.Close()
		require.NoError(t, a.Short(t.Context(), 1, [4]uint64{}))
		start := time.Now()
		<-b.Done()
		require.ErrorIs(t, b.Err(), errBarren)
		require.InDelta(t, death, time.Since(start), float64(death/4))
	})
}

// TestSlowIsNotBarren: nor is one that is just very slow given up.
func TestSlowIsNotBarren(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulated(t, sim.Config{Delay: (barrenMost - 3) * barrenTick / 2})
		a, b := s.connect(t, ConnConfig{Timeout: 31}, ConnConfig{Timeout: 31})
		const count = 400
		var receiving sync.WaitGroup
		receiving.Go(func() {
			for range count {
				got := take(t, b, 1)[0]
				b.Done(&got)
			}
		})
		for range count {
			if err := a.Send(head(1), nil); err != nil {
				t.Fatal(err)
			}
		}
		receiving.Wait()
	})
}

// TestCloseOfDeadPath: Close doesn't wait for a peer that doesn't answer much longer than it promises.
func TestCloseOfDeadPath(t *testing.T) {
	s := simulated(t, sim.Config{})
	a, _ := s.connect(t, ConnConfig{Timeout: 20}, ConnConfig{}) // 4 s
	s.net.Cut(s.net.Host("a"), s.net.Host("b"), true)
	require.NoError(t, a.Send(head(1), nil))
	start := time.Now()
	require.NoError(t, a.Close())
	require.GreaterOrEqual(t, time.Since(start), drainWait)
	require.Less(t, time.Since(start), 3*time.Second)
}

// TestRNRBreaks: a peer that sends more than there are slots ends its own path, and costs nothing here.
func TestRNRBreaks(t *testing.T) {
	s := simulated(t, sim.Config{})
	a, _ := s.connect(t, ConnConfig{Slots: 4}, ConnConfig{Slots: 4})
	var err error
	for range 5 {
		require.NoError(t, err)
		err = a.Send(head(1), nil)
	}
	_, err = a.Recv(make([]activemsg.Segment, 1))
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.NotZero(t, s.net.Stats().RNR)
}

// A spy notes what is posted.
type spy struct {
	verbs.QP
	posts [][2]int // receives and sends of each Post
}

func (s *spy) Post(recvs []verbs.RecvWR, sends []verbs.SendWR) error {
	s.posts = append(s.posts, [2]int{len(recvs), len(sends)})
	return s.QP.Post(recvs, sends)
}

// TestSlotsBeforeWords: a slot that is Done is posted no later than what could tell the peer so, and not by a call of its own.
func TestSlotsBeforeWords(t *testing.T) {
	s := simulated(t, sim.Config{})
	a, b := s.connect(t, ConnConfig{}, ConnConfig{})
	watched := &spy{QP: b.qp}
	b.qp = watched
	for range 3 {
		require.NoError(t, a.Send(head(1), nil))
	}
	for _, got := range take(t, b, 3) {
		b.Done(&got)
	}
	require.NoError(t, b.Send(head(1), nil))
	require.NoError(t, b.Send(head(1), nil))
	require.Equal(t, [][2]int{{3, 1}, {0, 1}}, watched.posts)

	// Nor do they wait for ever.
	for range 100 {
		require.NoError(t, a.Send(head(1), nil))
		got := take(t, b, 1)[0]
		b.Done(&got)
	}
	require.Equal(t, [][2]int{{3, 1}, {0, 1}, {32, 0}, {32, 0}, {32, 0}}, watched.posts)
}

// TestMalformed: a message that is no segment is a violation.
func TestMalformed(t *testing.T) {
	s := simulated(t, sim.Config{})
	a, b := s.connect(t, ConnConfig{}, ConnConfig{})
	wr, err := a.request(verbs.OpSend)
	require.NoError(t, err)
	wr.NumSGE = 1
	wr.SGE[0] = a.at(a.tx.scratch, 10)
	require.NoError(t, a.add())
	require.NoError(t, a.flush())
	_, err = b.Recv(make([]activemsg.Segment, 1))
	require.ErrorIs(t, err, substrate.ErrProtocol)
}
