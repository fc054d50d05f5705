package verbstest

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

// What is different of iWARP, see verbs.Joiner.

// joinKey is a key of two ends.
const joinKey = 0x0123456789abcdef

// join joins two ends as iWARP wants it: b is awaited.
func (s *setup) join(a, b verbs.Joiner) {
	t := s.a.t
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	at, err := b.Await(s.b.Addr)
	require.NoError(t, err)
	require.Equal(t, s.b.Addr, at.Addr())
	accepted := make(chan error, 1)
	go func() { accepted <- b.Join(ctx, verbs.Joint{Local: s.b.Addr, Key: joinKey}) }()
	require.NoError(t, a.Join(ctx, verbs.Joint{Local: s.a.Addr, Remote: at, Key: joinKey}))
	require.NoError(t, await(t, accepted))
}

// breaks expects that what do does ends the connection, and leaves the peer's memory as it was.
func (s *setup) breaks(do func()) {
	t := s.a.t
	s.a.recv(99, 0, 8)
	before := bytes.Clone(s.b.mem)
	do()
	c := s.a.one(s.a.recvs)
	require.Equal(t, verbs.StatusFlushed, c.Status, c.Status)
	require.EqualValues(t, 99, c.ID)
	require.True(t, bytes.Equal(before, s.b.mem))
}

func testNoImmediate(t *testing.T, s *setup) {
	s.connect()
	s.b.recv(1, 0, 100)
	for _, op := range []verbs.Op{verbs.OpSendImm, verbs.OpWriteImm} {
		require.ErrorIs(t, s.a.qp.Post(nil, []verbs.SendWR{to(s.a.send(2, op, 0, 10), s.b, 8192)}), verbs.ErrInvalid)
	}
	require.ErrorIs(t, s.a.qp.Post(nil, []verbs.SendWR{s.a.send(2, verbs.OpSend, 0, 0)}), verbs.ErrInvalid)
	s.a.post(s.a.send(2, verbs.OpSend, 0, 5)) // none of that has done harm
	require.EqualValues(t, 5, s.b.one(s.b.recvs).Len)
}

func testWrongKeyBreaks(t *testing.T, s *setup) {
	s.connect()
	bad := to(s.a.send(1, verbs.OpWrite, 0, 100), s.b, 0)
	bad.RKey ^= 0x5500
	s.breaks(func() { s.a.post(bad) })
}

func testClosedRegionBreaks(t *testing.T, s *setup) {
	s.connect()
	s.b.recv(1, 0, 8)
	wr := to(s.a.send(1, verbs.OpWrite, 0, 100), s.b, 4096)
	s.a.post(wr, s.a.send(2, verbs.OpSend, 0, 8))
	require.Equal(t, verbs.StatusOK, s.b.one(s.b.recvs).Status)
	require.NoError(t, s.b.region.Close())
	s.a.fill(0, 100, 9)
	s.breaks(func() { s.a.post(wr) })
}

func testOtherDomainBreaks(t *testing.T, s *setup) {
	s.connect()
	wr := s.foreign(t)
	s.breaks(func() { s.a.post(wr) })
}

func testTooLongBreaks(t *testing.T, s *setup) {
	s.connect()
	s.b.recv(1, 0, 10)
	s.a.recv(99, 4096, 8)
	s.a.post(s.a.send(1, verbs.OpSend, 0, 11))
	require.NotEqual(t, verbs.StatusOK, s.b.one(s.b.recvs).Status)
	require.Equal(t, verbs.StatusFlushed, s.a.one(s.a.recvs).Status)
}

func testNotReadyBreaks(t *testing.T, s *setup) {
	s.connect()
	s.breaks(func() { s.a.post(s.a.send(1, verbs.OpSend, 0, 8)) })
}

func testPeerGoneBreaks(t *testing.T, s *setup) {
	s.connect()
	s.breaks(func() { require.NoError(t, s.b.qp.Close()) })
}

func testFailBreaks(t *testing.T, s *setup) {
	s.connect()
	s.b.recv(1, 0, 8)
	s.b.recv(2, 0, 8)
	s.breaks(func() { require.NoError(t, s.b.qp.Fail()) })
	for i, c := range s.b.next(s.b.recvs, 2) {
		require.Equal(t, verbs.StatusFlushed, c.Status, c.Status)
		require.EqualValues(t, i+1, c.ID)
	}
}

// testStranger: who doesn't know the key isn't let in, and the peer still is.
func testStranger(t *testing.T, s *setup) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b, a := s.b.qp.(verbs.Joiner), s.a.qp.(verbs.Joiner)
	at, err := b.Await(s.b.Addr)
	require.NoError(t, err)
	accepted := make(chan error, 1)
	go func() { accepted <- b.Join(ctx, verbs.Joint{Local: s.b.Addr, Key: joinKey}) }()
	other := open(t, s.a.End)
	require.Error(t, other.qp.(verbs.Joiner).Join(ctx, verbs.Joint{Local: s.a.Addr, Remote: at, Key: joinKey + 1}))
	require.NoError(t, a.Join(ctx, verbs.Joint{Local: s.a.Addr, Remote: at, Key: joinKey}))
	require.NoError(t, await(t, accepted))
	s.b.recv(1, 0, 8)
	s.a.post(s.a.send(1, verbs.OpSend, 0, 8))
	require.Equal(t, verbs.StatusOK, s.b.one(s.b.recvs).Status)
}

// testNobody: where nobody is awaited or nobody comes, Join ends.
func testNobody(t *testing.T, s *setup) {
	b, a := s.b.qp.(verbs.Joiner), s.a.qp.(verbs.Joiner)
	_, err := b.Await(netip.MustParseAddr("192.0.2.1"))
	require.Error(t, err)
	at, err := b.Await(s.b.Addr)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Join(ctx, verbs.Joint{Local: s.b.Addr, Key: joinKey}) }()
	cancel()
	require.ErrorIs(t, await(t, ended), context.Canceled)
	require.NoError(t, b.Close())
	ctx, cancel = context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = a.Join(ctx, verbs.Joint{Local: s.a.Addr, Remote: at, Key: joinKey})
	require.Error(t, err)
	require.False(t, errors.Is(err, context.DeadlineExceeded), err)
	t.Log(err)
}

// testReuse: memory of a request that has had its completion may change, also where the bytes are still on their way. What becomes of that of a
// request without one is only told.
func testReuse(t *testing.T, s *setup) {
	s.connect()
	const half, n = memLen / 2, 16 << 10
	for _, flags := range []uint8{verbs.FlagSignaled, 0} {
		want := bytes.Clone(s.a.fill(0, n, 1))
		s.b.recv(1, half, n)
		s.b.recv(2, half+n, 8)
		wr := s.a.send(1, verbs.OpSend, 0, n)
		wr.Flags = flags
		s.a.post(wr, s.a.send(2, verbs.OpSend, n, 8))
		if flags != 0 {
			require.EqualValues(t, 1, s.a.one(s.a.sends).ID)
		}
		require.EqualValues(t, 2, s.a.one(s.a.sends).ID)
		s.a.fill(0, n, 100)
		s.b.next(s.b.recvs, 2)
		intact := bytes.Equal(want, s.b.mem[half:half+n])
		if flags != 0 {
			require.True(t, intact)
		}
		t.Logf("completion of its own: %v, arrived as it was: %v", flags != 0, intact)
	}
}
