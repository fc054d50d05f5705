package verbstest

import (
	"bytes"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

func testPort(t *testing.T, s *setup) {
	for _, e := range []*side{s.a, s.b} {
		p, err := e.Device.Port(e.Port)
		require.NoError(t, err)
		t.Logf("%s port %d: %+v, %s", e.Device.Name(), e.Port, p, e.gid())
		require.Equal(t, verbs.PortActive, p.State)
		require.NotEqual(t, verbs.LinkUnknown, p.LinkLayer)
		require.Contains(t, []int{256, 512, 1024, 2048, 4096}, p.ActiveMTU)
		l := e.Device.Limits()
		require.GreaterOrEqual(t, l.Ports, e.Port)
		require.GreaterOrEqual(t, l.SGE, verbs.MaxSGE)
		require.GreaterOrEqual(t, l.QueueWR, 256)
		require.GreaterOrEqual(t, l.CQE, 256)
		require.NotEqual(t, verbs.GIDUnknown, e.gid().Type)
	}
}

func testSend(t *testing.T, s *setup) {
	s.connect()
	const half = memLen / 2
	for i, n := range []int{0, 1, 24, 64, 65, 1000, 1024, 4096, 4097, 65536} {
		want := s.a.fill(0, n, byte(i))
		for _, flags := range []uint8{0, verbs.FlagInline} {
			if flags != 0 && n > 64 {
				continue
			}
			s.b.recv(uint64(i), half, half)
			wr := s.a.send(7, verbs.OpSend, 0, n)
			wr.Flags |= flags
			// In as many pieces as there can be.
			wr.NumSGE = verbs.MaxSGE
			if _, ok := s.a.qp.(verbs.Joiner); ok && n < verbs.MaxSGE {
				wr.NumSGE = uint8(n)
			}
			for k, pieces := 0, int(wr.NumSGE); k < pieces; k++ {
				wr.SGE[k] = s.a.sge(n*k/pieces, n*(k+1)/pieces-n*k/pieces)
			}
			s.a.post(wr)
			c := s.b.one(s.b.recvs)
			require.Equal(t, verbs.Completion{ID: uint64(i), QP: s.b.qp.Number(), Op: verbs.OpRecv, Len: uint32(n)}, c)
			require.True(t, bytes.Equal(want, s.b.mem[half:half+n]), "%d bytes", n)
			c = s.a.one(s.a.sends)
			require.Equal(t, verbs.StatusOK, c.Status, c.Status)
			require.EqualValues(t, 7, c.ID)
			require.Equal(t, s.a.qp.Number(), c.QP)
		}
	}
}

func testSendImmediate(t *testing.T, s *setup) {
	s.connect()
	s.b.recv(1, 0, 100)
	wr := s.a.send(2, verbs.OpSendImm, 0, 10)
	wr.Imm = 0x01020304
	s.a.post(wr)
	c := s.b.one(s.b.recvs)
	require.Equal(t, verbs.StatusOK, c.Status, c.Status)
	require.True(t, c.HasImm)
	require.EqualValues(t, 0x01020304, c.Imm)
	require.Equal(t, verbs.OpRecv, c.Op)
	require.EqualValues(t, 10, c.Len)
}

// testWrite: what was written before a send is visible when the send has been received.
func testWrite(t *testing.T, s *setup) {
	s.connect()
	const half = memLen / 2
	for i, n := range []int{1, 1000, 4096, 70000} {
		want := s.a.fill(0, n, byte(i))
		s.b.recv(1, 0, 8)
		w := to(s.a.send(1, verbs.OpWrite, 0, n), s.b, half+i)
		w.Flags = 0
		s.a.post(w, s.a.send(2, verbs.OpSend, 0, 1))
		require.Equal(t, verbs.StatusOK, s.b.one(s.b.recvs).Status)
		require.True(t, bytes.Equal(want, s.b.mem[half+i:half+i+n]))
		require.EqualValues(t, 2, s.a.one(s.a.sends).ID)
	}
}

func testWriteImmediate(t *testing.T, s *setup) {
	s.connect()
	want := s.a.fill(0, 5000, 3)
	s.b.recv(9, 0, 0)
	wr := to(s.a.send(1, verbs.OpWriteImm, 0, 5000), s.b, 8192)
	wr.Imm = 77
	s.a.post(wr)
	c := s.b.one(s.b.recvs)
	require.Equal(t, verbs.Completion{ID: 9, QP: s.b.qp.Number(), Op: verbs.OpRecvWriteImm, Len: 5000, Imm: 77, HasImm: true}, c)
	require.True(t, bytes.Equal(want, s.b.mem[8192:8192+5000]))
}

// testWriteNothing: a write of no bytes is a marker that needs no key and bothers nobody.
func testWriteNothing(t *testing.T, s *setup) {
	s.connect()
	s.a.post(verbs.SendWR{ID: 5, Op: verbs.OpWrite, Flags: verbs.FlagSignaled})
	c := s.a.one(s.a.sends)
	require.Equal(t, verbs.StatusOK, c.Status, c.Status)
	require.EqualValues(t, 5, c.ID)
}

// testBatch posts and polls many at a time.
func testBatch(t *testing.T, s *setup) {
	s.connect()
	var recvs []verbs.RecvWR
	var sends []verbs.SendWR
	for i := range depth {
		recvs = append(recvs, verbs.RecvWR{ID: uint64(i), SGE: s.b.sge(4096+64*i, 64)})
		s.a.fill(64*i, 8, byte(i))
		wr := s.a.send(uint64(i), verbs.OpSend, 64*i, 8)
		if i < depth-1 {
			wr.Flags = 0
		}
		sends = append(sends, wr)
	}
	require.NoError(t, s.b.qp.Post(recvs, nil))
	require.NoError(t, s.a.qp.Post(nil, sends))
	for i, c := range s.b.next(s.b.recvs, depth) {
		require.EqualValues(t, i, c.ID)
		require.Equal(t, byte(i), s.b.mem[4096+64*i])
	}
	require.EqualValues(t, depth-1, s.a.one(s.a.sends).ID)
	s.a.none(s.a.sends)
}

// testUnsignaled: many more requests than the queue is deep, of which every fourth has a completion.
func testUnsignaled(t *testing.T, s *setup) {
	s.connect()
	var number uint64
	free := depth
	for number < 10*depth {
		for ; free > 0; free-- {
			s.b.recv(number, 4096, 64)
			wr := s.a.send(number, verbs.OpSend, 0, 8)
			if number%4 != 3 {
				wr.Flags = 0
			}
			s.a.post(wr)
			number++
			require.Equal(t, number-1, s.b.one(s.b.recvs).ID)
		}
		s.a.one(s.a.sends)
		free += 4
	}
}

// testFull: a full queue says so.
func testFull(t *testing.T, s *setup) {
	s.connect()
	var err error
	posted := 0
	for ; err == nil && posted < 64*depth; posted++ {
		err = s.a.qp.Post([]verbs.RecvWR{{SGE: s.a.sge(0, 8)}}, nil)
	}
	require.ErrorIs(t, err, verbs.ErrFull)
	require.GreaterOrEqual(t, posted, depth)
}

func testEvent(t *testing.T, s *setup) {
	s.connect()
	s.b.recv(1, 0, 8)
	require.NoError(t, s.b.recvs.Arm())
	s.b.none(s.b.recvs)
	woken := make(chan error)
	go func() { woken <- s.b.recvs.Wait() }()
	s.a.post(s.a.send(1, verbs.OpSend, 0, 8))
	require.NoError(t, await(t, woken))
	require.EqualValues(t, 1, s.b.one(s.b.recvs).ID)
}

func testWake(t *testing.T, s *setup) {
	for range 20 {
		woken := make(chan error)
		go func() { woken <- s.a.recvs.Wait() }()
		s.a.recvs.Wake()
		require.NoError(t, await(t, woken))
	}
	s.a.recvs.Wake() // before it waits
	require.NoError(t, s.a.recvs.Wait())
}

func testSpinEnds(t *testing.T, s *setup) {
	s.connect()
	var into [4]verbs.Completion
	for _, yield := range []bool{false, true} {
		n, err := s.b.recvs.Spin(into[:], 50*time.Microsecond, yield)
		require.NoError(t, err)
		require.Zero(t, n)
	}
	s.b.recv(1, 0, 8)
	s.a.post(s.a.send(1, verbs.OpSend, 0, 8))
	s.a.one(s.a.sends) // the peer has it by now
	n, err := s.b.recvs.Spin(into[:], time.Second, true)
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

// testWrongKey: a write with a key that opens nothing fails, and everything behind it is flushed.
func testWrongKey(t *testing.T, s *setup) {
	s.connect()
	before := bytes.Clone(s.b.mem)
	s.a.fill(0, 100, 1)
	bad := to(s.a.send(1, verbs.OpWrite, 0, 100), s.b, 0)
	bad.RKey ^= 0x5500
	s.a.post(bad, s.a.send(2, verbs.OpSend, 0, 8))
	got := s.a.next(s.a.sends, 2)
	require.Equal(t, verbs.StatusRemoteAccess, got[0].Status, got[0].Status)
	require.Equal(t, verbs.StatusFlushed, got[1].Status, got[1].Status)
	require.True(t, bytes.Equal(before, s.b.mem))
}

// testClosedRegion: memory that was taken back can't be written any more.
func testClosedRegion(t *testing.T, s *setup) {
	s.connect()
	wr := to(s.a.send(1, verbs.OpWrite, 0, 100), s.b, 0)
	s.a.post(wr)
	require.Equal(t, verbs.StatusOK, s.a.one(s.a.sends).Status)
	require.NoError(t, s.b.region.Close())
	before := bytes.Clone(s.b.mem)
	s.a.fill(0, 100, 9)
	s.a.post(wr)
	require.Equal(t, verbs.StatusRemoteAccess, s.a.one(s.a.sends).Status)
	require.True(t, bytes.Equal(before, s.b.mem))
}

// foreign is a write with a key of another protection domain of the peer's.
func (s *setup) foreign(t *testing.T) verbs.SendWR {
	pd, err := s.b.Device.NewPD()
	require.NoError(t, err)
	r, err := pd.Register(s.b.mem, verbs.LocalWrite|verbs.RemoteWrite)
	require.NoError(t, err)
	wr := to(s.a.send(1, verbs.OpWrite, 0, 100), s.b, 0)
	wr.RKey = r.RKey()
	t.Cleanup(func() {
		require.NoError(t, r.Close())
		require.NoError(t, pd.Close())
	})
	return wr
}

// testOtherDomain: a key of another protection domain doesn't open.
func testOtherDomain(t *testing.T, s *setup) {
	s.connect()
	s.a.post(s.foreign(t))
	require.Equal(t, verbs.StatusRemoteAccess, s.a.one(s.a.sends).Status)
}

// testTooLong: a message that is longer than the receive posted for it ends the connection.
func testTooLong(t *testing.T, s *setup) {
	s.connect()
	s.b.recv(1, 0, 10)
	s.a.post(s.a.send(1, verbs.OpSend, 0, 11))
	require.NotEqual(t, verbs.StatusOK, s.a.one(s.a.sends).Status)
	require.NotEqual(t, verbs.StatusOK, s.b.one(s.b.recvs).Status)
}

// testNotReady: without a receive at the peer the sender gives up in the end.
func testNotReady(t *testing.T, s *setup) {
	s.connect()
	s.a.post(s.a.send(1, verbs.OpSend, 0, 8))
	c := s.a.one(s.a.sends)
	require.Equal(t, verbs.StatusRNRRetryExceeded, c.Status, c.Status)
}

// testFail: what is queued is flushed, and what comes later too.
func testFail(t *testing.T, s *setup) {
	s.connect()
	s.b.recv(1, 0, 8)
	s.b.recv(2, 0, 8)
	require.NoError(t, s.b.qp.Fail())
	for i, c := range s.b.next(s.b.recvs, 2) {
		require.Equal(t, verbs.StatusFlushed, c.Status, c.Status)
		require.EqualValues(t, i+1, c.ID)
	}
	s.b.post(s.b.send(3, verbs.OpSend, 0, 8))
	require.Equal(t, verbs.StatusFlushed, s.b.one(s.b.sends).Status)
}

// testPeerGone: requests to a queue pair that doesn't exist any more fail after the retries.
func testPeerGone(t *testing.T, s *setup) {
	s.connect()
	s.b.recv(1, 0, 8)
	require.NoError(t, s.b.qp.Close())
	s.a.post(s.a.send(1, verbs.OpSend, 0, 8))
	c := s.a.one(s.a.sends)
	require.Equal(t, verbs.StatusRetryExceeded, c.Status, c.Status)
	require.Equal(t, verbs.StatusOK, verbs.Status(0))
}

func testCloseEndsEvents(t *testing.T, s *setup) {
	info := s.a.Device
	ended := make(chan error)
	go func() {
		for {
			if _, err := info.NextEvent(); err != nil {
				ended <- err
				return
			}
		}
	}()
	// The device is closed with what it has made.
	s.a.qp.Close()
	s.a.sends.Close()
	s.a.recvs.Close()
	s.a.region.Close()
	s.a.pd.Close()
	require.NoError(t, info.Close())
	require.ErrorIs(t, await(t, ended), verbs.ErrClosed)
}

func testNoSuchPort(t *testing.T, s *setup) {
	n := s.a.Device.Limits().Ports + 1
	_, err := s.a.Device.Port(n)
	require.Error(t, err)
	_, err = s.a.Device.GIDs(n)
	require.Error(t, err)
	_, err = s.a.pd.NewQP(verbs.QPConfig{
		SendCQ: s.a.sends, RecvCQ: s.a.recvs, SendDepth: 4, RecvDepth: 4, SGE: 1, Port: n, GIDIndex: s.a.GIDIndex,
	})
	require.Error(t, err)
}

func await[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("nothing happened")
	}
	return v
}
