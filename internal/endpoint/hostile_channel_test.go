package endpoint

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// control opens a control channel as a process called proc.
func (s *siege) control(t *testing.T, proc gid.ProcessID) (substrate.Link, agreed) {
	t.Helper()
	l, peer, a, err := s.handshake(t, request{kind: wire.KindControl, psk: s.eb.psk, my: wire.Setup{Proc: proc}})
	require.NoError(t, err)
	require.Equal(t, s.eb.proc, peer.Proc)
	synctest.Wait() // the other side has it, too
	return l, a
}

// nextRecord reads a record that is no Ping.
func nextRecord(t *testing.T, l substrate.Link, have *[]byte) (r wire.Record) {
	t.Helper()
	l.SetRecvDeadline(time.Now().Add(time.Minute))
	for {
		n, err := wire.ParseRecord(*have, &r)
		require.NoError(t, err)
		*have = (*have)[n:]
		if n > 0 && r.Type != wire.TypePing {
			return r
		}
		if n == 0 {
			p := make([]byte, 4096)
			k, err := l.Recv(p)
			require.NoError(t, err)
			*have = append(*have, p[:k]...)
		}
	}
}

func TestAttachNeedsProof(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		id := s.a.GID()
		evil := gid.NewProcessID()
		l, a := s.control(t, evil)
		post := func(r wire.Record) { require.NoError(t, sendAll(l, r.Append(nil))) }
		mine := &channel{binding: a.binding}
		elsewhere := &channel{binding: make([]byte, len(a.binding))}
		var have []byte
		for name, c := range map[string]struct {
			mac  [wire.MACSize]byte
			want wire.Status
		}{
			"no proof":                            {[wire.MACSize]byte{}, wire.StatusKey},
			"of another channel":                  {elsewhere.proof(s.a, true), wire.StatusKey},
			"its own proof, reflected":            {mine.proof(s.a, false), wire.StatusKey},
			"a good proof, but another process's": {mine.proof(s.a, true), wire.StatusStale},
		} {
			post(wire.Record{Type: wire.TypeAttach, GID: id, MAC: c.mac})
			r := nextRecord(t, l, &have)
			require.Equal(t, wire.Record{Type: wire.TypeNak, GID: id, Code: c.want}, r, name)
		}
		require.EqualValues(t, 3, s.eb.count.badProofs.Load())
		post(wire.Record{Type: wire.TypeAttach, GID: gid.New()})
		require.Equal(t, wire.StatusUnknown, nextRecord(t, l, &have).Code)

		// What is said about a connection on a channel where it isn't attached counts nothing.
		before := s.b.Snapshot()
		post(wire.Record{Type: wire.TypeReset, GID: id, Code: wire.StatusStale})
		post(wire.Record{Type: wire.TypeState, GID: id, Ack: 1 << 60, Sent: 1, Flags: wire.StateFin | wire.StateClosed | wire.StateDone})
		post(wire.Record{Type: wire.TypeState, GID: id, LinkNo: 1 << 60, Flags: wire.StateLinkDown})
		post(wire.Record{Type: wire.TypeSlot, GID: id, Slot: math.MaxUint32, Gen: 1})
		for range 3 * maxRefusals {
			post(wire.Record{Type: wire.TypeNak, GID: id, Code: wire.StatusUnknown})
		}
		post(wire.Record{Type: 200})
		for range 2 { // the two States
			require.Equal(t, wire.Record{Type: wire.TypeNak, GID: id, Code: wire.StatusUnknown}, nextRecord(t, l, &have))
		}
		post(wire.Record{Type: wire.TypePing, Token: 77})
		require.Equal(t, wire.Record{Type: wire.TypePong, Token: 77}, nextRecord(t, l, &have))
		s.alive(t)
		time.Sleep(10 * time.Second)
		after := s.b.Snapshot()
		require.NoError(t, after.Err)
		require.Equal(t, before.Links, after.Links)
		require.Equal(t, before.Lost, after.Lost)
		require.Equal(t, "bare", after.Mode)
	})
}

// TestFalseProcess: a channel that claims to come from the very process that holds the other end. That is no secret; only the
// proof counts.
func TestFalseProcess(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		time.Sleep(time.Second)
		l, _ := s.control(t, s.ea.proc)
		var have []byte
		require.NoError(t, sendAll(l, (&wire.Record{Type: wire.TypeAttach, GID: s.a.GID(), MAC: [16]byte{1}}).Append(nil)))
		require.Equal(t, wire.StatusKey, nextRecord(t, l, &have).Code)
		require.NoError(t, sendAll(l, (&wire.Record{Type: wire.TypeReset, GID: s.a.GID()}).Append(nil)))
		s.alive(t)
		l.Close()
		time.Sleep(time.Second)
		require.True(t, s.b.Attached(), "the end of the false channel is not the end of the true one")
	})
}

// TestBrokenChannel: a control channel that breaks the protocol is closed, and nobody else's with it.
func TestBrokenChannel(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		n := len(s.eb.openChannels())
		for name, in := range map[string][]byte{
			"unknown mandatory": {99, 0, 0, 0}, "oversized": {200, 0, 255, 255}, "wrong length": {1, 0, 0, 1}, "wrong flags": {5, 1, 0, 8},
		} {
			l, _ := s.control(t, gid.NewProcessID())
			require.NoError(t, sendAll(l, in))
			answer(t, l)
			synctest.Wait()
			require.Len(t, s.eb.openChannels(), n, name)
		}
		// Half a record, then silence: keep-alive ends it.
		l, _ := s.control(t, gid.NewProcessID())
		require.NoError(t, sendAll(l, []byte{1, 0, 0}))
		time.Sleep(2 * s.eb.cfg.KeepAliveDead)
		require.Len(t, s.eb.openChannels(), n)
	})
}

// TestAttachFlood: a peer that offers connections that nobody knows, and doesn't read the answers.
func TestAttachFlood(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		n := len(s.eb.openChannels())
		l, _ := s.control(t, gid.NewProcessID())
		var c *channel
		for _, x := range s.eb.openChannels() {
			if !x.dialed && x.proc != s.ea.proc {
				c = x
			}
		}
		require.NotNil(t, c)
		var batch []byte
		for range 2000 {
			batch = (&wire.Record{Type: wire.TypeAttach, GID: gid.New(), MAC: [16]byte{1}}).Append(batch)
		}
		var err error
		for i := 0; err == nil && i < 500; i++ {
			l.SetSendDeadline(time.Now().Add(time.Minute))
			err = sendAll(l, batch)
			c.mu.Lock()
			queued, known := len(c.queue), len(c.attached)+len(c.offered)+len(c.refusals)
			c.mu.Unlock()
			require.LessOrEqual(t, queued, maxQueue+wire.MaxRecord)
			require.Zero(t, known)
		}
		require.Error(t, err, "who doesn't read is cut off")
		synctest.Wait()
		require.Len(t, s.eb.openChannels(), n)
	})
}

// TestNakFlood: refusals of offers that were never made cost nothing.
func TestNakFlood(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		l, _ := s.control(t, gid.NewProcessID())
		var c *channel
		for _, x := range s.eb.openChannels() {
			if !x.dialed && x.proc != s.ea.proc {
				c = x
			}
		}
		for range 10 {
			var batch []byte
			for range 1000 {
				batch = (&wire.Record{Type: wire.TypeNak, GID: gid.New(), Code: wire.StatusUnknown}).Append(batch)
			}
			require.NoError(t, sendAll(l, batch))
		}
		synctest.Wait()
		c.mu.Lock()
		n := len(c.refusals)
		c.mu.Unlock()
		require.LessOrEqual(t, n, 100, "entries for connections that don't exist")
	})
}

// TestPingFlood: a stranger who asks and never reads the answers costs little memory.
func TestPingFlood(t *testing.T) {
	besiege(t, Config{}, func(t *testing.T, s *siege) {
		l, _ := s.control(t, gid.NewProcessID())
		var c *channel
		for _, x := range s.eb.openChannels() {
			if !x.dialed && x.proc != s.ea.proc {
				c = x
			}
		}
		var batch []byte
		for range 1000 {
			batch = (&wire.Record{Type: wire.TypePing}).Append(batch)
		}
		l.SetSendDeadline(time.Now().Add(time.Second))
		most, asked := 0, 0
		for ; asked < 16<<20; asked += len(batch) {
			if err := sendAll(l, batch); err != nil {
				break
			}
			synctest.Wait()
			c.mu.Lock()
			most = max(most, len(c.queue))
			c.mu.Unlock()
		}
		require.Less(t, asked, 16<<20, "it is thrown out")
		require.LessOrEqual(t, most, maxStranger+len(batch))
		l.Close()
	})
}

// TestNoChannelWhereAllIsSealed: records in clear have no use there.
func TestNoChannelWhereAllIsSealed(t *testing.T) {
	besiege(t, Config{Session: session.Config{Seal: true}}, func(t *testing.T, s *siege) {
		s.handshakeRefused(t, request{kind: wire.KindControl, psk: s.eb.psk, my: wire.Setup{Proc: gid.NewProcessID()}}, wire.StatusPolicy, "control")
		require.Empty(t, s.eb.openChannels())
	})
}
