// Package verbstest is what every provider of verbs must pass: the rules of package verbs, as tests.
package verbstest

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/internal/sys"
)

// An End is a device, and the port and address of it to use.
type End struct {
	Device   verbs.Device
	Port     int
	GIDIndex int
	Addr     netip.Addr // for iWARP
}

// Run tests a provider. pair opens two ends that can reach each other, maybe the same device twice, and closes them with the test.
func Run(t *testing.T, pair func(t *testing.T) (a, b End)) {
	for _, test := range []struct {
		name  string
		f     func(t *testing.T, s *setup) // nil: only of iWARP
		iwarp func(t *testing.T, s *setup) // nil: f
	}{
		{"Port", testPort, nil},
		{"Send", testSend, nil},
		{"SendImmediate", testSendImmediate, testNoImmediate},
		{"Write", testWrite, nil},
		{"WriteImmediate", testWriteImmediate, testNoImmediate},
		{"WriteNothing", testWriteNothing, nil},
		{"Batch", testBatch, nil},
		{"Unsignaled", testUnsignaled, nil},
		{"Full", testFull, nil},
		{"Event", testEvent, nil},
		{"Wake", testWake, nil},
		{"SpinEnds", testSpinEnds, nil},
		{"WrongKey", testWrongKey, testWrongKeyBreaks},
		{"ClosedRegion", testClosedRegion, testClosedRegionBreaks},
		{"OtherDomain", testOtherDomain, testOtherDomainBreaks},
		{"TooLong", testTooLong, testTooLongBreaks},
		{"NotReady", testNotReady, testNotReadyBreaks},
		{"Fail", testFail, testFailBreaks},
		{"PeerGone", testPeerGone, testPeerGoneBreaks},
		{"Stranger", nil, testStranger},
		{"Nobody", nil, testNobody},
		{"Reuse", nil, testReuse},
		{"CloseEndsEvents", testCloseEndsEvents, nil},
		{"NoSuchPort", testNoSuchPort, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := pair(t)
			s := &setup{a: open(t, a), b: open(t, b), conn: verbs.Connection{Timeout: 12, Retry: 3, RNRRetry: 2}}
			f := test.f
			if _, ok := s.a.qp.(verbs.Joiner); ok && test.iwarp != nil {
				f = test.iwarp
			}
			if f == nil {
				t.Skip("a rule of iWARP")
			}
			f(t, s)
		})
	}
}

const (
	patience = 20 * time.Second
	memLen   = 1 << 18
	depth    = 16
)

// A setup is two ends with a queue pair each; connect joins them.
type setup struct {
	a, b *side
	conn verbs.Connection
}

// A side is one end, with memory that the peer may write into.
type side struct {
	End
	t      *testing.T
	pd     verbs.PD
	mem    []byte
	region verbs.Region
	sends  verbs.CQ
	recvs  verbs.CQ
	qp     verbs.QP
}

func open(t *testing.T, e End) *side {
	s := &side{End: e, t: t}
	var err error
	s.pd, err = e.Device.NewPD()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.pd.Close()) })
	s.mem, err = sys.NewMemory(memLen)
	require.NoError(t, err)
	t.Cleanup(func() { sys.FreeMemory(s.mem) })
	s.region, err = s.pd.Register(s.mem, verbs.LocalWrite|verbs.RemoteWrite)
	require.NoError(t, err)
	t.Cleanup(func() { s.region.Close() }) // some tests have closed it
	s.sends, err = e.Device.NewCQ(2 * depth)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.sends.Close()) })
	s.recvs, err = e.Device.NewCQ(2 * depth)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.recvs.Close()) })
	s.qp, err = s.pd.NewQP(verbs.QPConfig{
		SendCQ: s.sends, RecvCQ: s.recvs, SendDepth: depth, RecvDepth: depth, SGE: verbs.MaxSGE, Inline: 64, Port: e.Port, GIDIndex: e.GIDIndex,
	})
	require.NoError(t, err)
	t.Cleanup(func() { s.qp.Close() })
	require.GreaterOrEqual(t, s.qp.Inline(), 64)
	return s
}

func (s *setup) connect() {
	if a, ok := s.a.qp.(verbs.Joiner); ok {
		s.join(a, s.b.qp.(verbs.Joiner))
		return
	}
	s.a.connect(s.b, s.conn, 100, 200)
	s.b.connect(s.a, s.conn, 200, 100)
}

func (s *side) connect(to *side, c verbs.Connection, psn, remotePSN uint32) {
	port, err := to.Device.Port(to.Port)
	require.NoError(s.t, err)
	c.RemoteQP, c.RemoteGID, c.RemoteLID, c.MTU = to.qp.Number(), to.gid().GID, port.LID, port.ActiveMTU
	c.LocalPSN, c.RemotePSN = psn, remotePSN
	require.NoError(s.t, s.qp.Connect(c))
}

func (s *side) gid() verbs.GIDEntry {
	list, err := s.Device.GIDs(s.Port)
	require.NoError(s.t, err)
	for _, e := range list {
		if e.Index == s.GIDIndex {
			return e
		}
	}
	s.t.Fatalf("no GID with index %d in %v", s.GIDIndex, list)
	return verbs.GIDEntry{}
}

func (s *side) sge(at, n int) verbs.SGE {
	return verbs.SGE{Addr: address(s.mem) + uint64(at), Len: uint32(n), LKey: s.region.LKey()}
}

// send makes a request with one piece of memory.
func (s *side) send(id uint64, op verbs.Op, at, n int) verbs.SendWR {
	wr := verbs.SendWR{ID: id, Op: op, Flags: verbs.FlagSignaled, NumSGE: 1}
	wr.SGE[0] = s.sge(at, n)
	return wr
}

// to aims a write at the memory of the peer.
func to(wr verbs.SendWR, peer *side, at int) verbs.SendWR {
	wr.RemoteAddr, wr.RKey = address(peer.mem)+uint64(at), peer.region.RKey()
	return wr
}

func (s *side) post(sends ...verbs.SendWR) { require.NoError(s.t, s.qp.Post(nil, sends)) }

func (s *side) recv(id uint64, at, n int) {
	require.NoError(s.t, s.qp.Post([]verbs.RecvWR{{ID: id, SGE: s.sge(at, n)}}, nil))
}

// fill writes a pattern.
func (s *side) fill(at, n int, seed byte) []byte {
	b := s.mem[at : at+n]
	for i := range b {
		b[i] = seed + byte(i*7)
	}
	return b
}

// next waits for n completions.
func (s *side) next(c verbs.CQ, n int) []verbs.Completion {
	s.t.Helper()
	var got []verbs.Completion
	timer := time.AfterFunc(patience, c.Wake)
	defer timer.Stop()
	end := time.Now().Add(patience)
	for {
		require.NoError(s.t, c.Arm())
		into := make([]verbs.Completion, n-len(got))
		k, err := c.Poll(into)
		require.NoError(s.t, err)
		got = append(got, into[:k]...)
		if len(got) == n {
			return got
		}
		if k == 0 {
			require.False(s.t, time.Now().After(end), "only %d of %d completions: %v", len(got), n, got)
			require.NoError(s.t, c.Wait())
		}
	}
}

func (s *side) one(c verbs.CQ) verbs.Completion { s.t.Helper(); return s.next(c, 1)[0] }

// none checks that there is no completion now.
func (s *side) none(c verbs.CQ) {
	s.t.Helper()
	var into [4]verbs.Completion
	n, err := c.Poll(into[:])
	require.NoError(s.t, err)
	require.Empty(s.t, into[:n])
}
