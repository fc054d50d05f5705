package session

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/sockemu/sockemu/wire"
)

func frame(t wire.FrameType, body ...byte) []byte {
	b := make([]byte, wire.FrameHeader, wire.FrameHeader+len(body))
	wire.PutFrameHeader(b, t, len(body))
	return append(b, body...)
}

func ctl(rs ...wire.Record) []byte {
	var body []byte
	for i := range rs {
		body = rs[i].Append(body)
	}
	return frame(wire.FrameCtrl, body...)
}

func concat(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// FuzzFrames lets a peer send anything on a link in record mode. The session waits for more, or ends with ErrProtocol, or with
// a reset that the peer asked for; it holds no more than its window.
func FuzzFrames(f *testing.F) {
	state := wire.Record{Type: wire.TypeState, GID: testGID, LinkNo: 1, Limit: 1 << 30}
	fin := wire.Record{Type: wire.TypeState, GID: testGID, LinkNo: 1, Sent: 5, Flags: wire.StateFin | wire.StateReply}
	reset := wire.Record{Type: wire.TypeReset, GID: testGID, Code: wire.StatusStale}
	f.Add(frame(wire.FrameData, []byte("hello")...), uint16(0), false)
	f.Add(concat(ctl(state), frame(wire.FrameData, []byte("hello")...), ctl(fin)), uint16(1), true)
	f.Add(concat(ctl(state, fin), frame(wire.FrameBare), []byte("hello and more than that")), uint16(7), false)
	f.Add(concat(frame(wire.FrameData, make([]byte, 1000)...), frame(wire.FrameData), frame(wire.FrameCtrl)), uint16(300), true)
	f.Add(frame(wire.FrameData, make([]byte, wire.MaxPayload)...), uint16(0), false)
	f.Add(frame(wire.FrameCtrl, make([]byte, wire.MaxPayload)...), uint16(0), false)
	f.Add(ctl(reset), uint16(2), false)
	f.Add([]byte{1, 255, 255, 255}, uint16(0), false)
	f.Add([]byte{0, 0, 0, 0}, uint16(0), false)
	f.Add(concat(frame(wire.FrameData, make([]byte, 70)...), []byte{3, 0, 0, 1}), uint16(0), false)
	f.Fuzz(func(t *testing.T, in []byte, piece uint16, eof bool) {
		const window = 64 << 10
		pool := NewPool(0)
		l := newFakeLink(in)
		l.piece, l.eof = int(piece), eof
		s := New(testGID, false, [32]byte{1}, Config{RecvBuffer: window, Linger: time.Millisecond, parting: time.Millisecond}, fakeEnv{}, pool)
		b := bindFake(t, s, l)
		// Something to acknowledge, some of it within the peer's limit.
		s.Write(make([]byte, 100))
		go func() { // an application that reads a little
			p := make([]byte, 10)
			s.Read(p)
		}()
		select {
		case <-l.empty:
		case <-b.framesDone:
		case <-s.Done():
		}
		s.mu.Lock()
		err, unread, bare := s.err, s.pend.Len(), b.rxBare
		fin, finKnown, got := s.fin, s.finKnown, s.got.Load()
		s.mu.Unlock()
		if err != nil && !errors.Is(err, ErrProtocol) && !errors.Is(err, ErrReset) && !errors.Is(err, ErrFenced) {
			t.Fatalf("ended with %v", err)
		}
		if !bare && unread > window {
			t.Fatalf("%d unread bytes", unread)
		}
		if used := pool.Used(); used > window+4*largeBlock+2*wire.MaxBody {
			t.Fatalf("%d bytes in use", used)
		}
		if finKnown && got > fin {
			t.Fatalf("%d bytes of a stream of %d", got, fin)
		}
		if s.acked.Load() > s.hi.Load() {
			t.Fatalf("acknowledged %d of %d", s.acked.Load(), s.hi.Load())
		}
		finish(t, s, l)
	})
}

func bindFake(t testing.TB, s *Session, l *fakeLink) *binding {
	err := s.Bind(NewLink{Link: l, Name: "fake", LinkNo: 1, Peer: wire.Setup{Proc: testPeer, Epoch: 1, LinkNo: 1, Limit: 50}})
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == nil {
		return s.oldOrGone(l)
	}
	return s.cur
}

// oldOrGone returns a binding that stands for one that was lost before anybody could look at it.
func (s *Session) oldOrGone(l *fakeLink) *binding {
	if s.old != nil && s.old.link == l {
		return s.old
	}
	b := &binding{framesDone: make(chan struct{})}
	close(b.framesDone)
	return b
}

// FuzzRecords has a peer say anything about where it stands, in State records over a channel. What it claims beyond what
// was sent ends the connection with ErrProtocol; nothing else corrupts what is known.
func FuzzRecords(f *testing.F) {
	rec := func(flags uint8, v ...uint64) []byte {
		b := []byte{flags}
		for _, x := range v {
			b = binary.BigEndian.AppendUint64(b, x)
		}
		return b
	}
	f.Add(rec(0, 1, 100, 1<<40, 0), uint16(1000), false)
	f.Add(rec(0, 1, 1001, 1<<40, 0), uint16(1000), true)
	f.Add(rec(wire.StateFin|wire.StateReply, 1, 1000, 0, 20), uint16(1000), false)
	f.Add(concat(rec(wire.StateFin, 1, 0, 0, 20), rec(wire.StateFin, 1, 0, 0, 21)), uint16(5), true)
	f.Add(concat(rec(wire.StateFin|wire.StateFinSeen|wire.StateDone|wire.StateClosed, 1, 5, 0, 10), rec(127, 1, 5, 0, 10)), uint16(5), true)
	f.Add(rec(wire.StateLinkDown, 1<<63, 0, 0, 0), uint16(5), false)
	f.Add(rec(wire.StateStarved, 1, 0, 0, 0), uint16(5), false)
	f.Fuzz(func(t *testing.T, in []byte, sent uint16, closed bool) {
		const size = 33
		pool := NewPool(0)
		l := newFakeLink(frame(wire.FrameData, []byte("ten bytes.")...))
		s := New(testGID, false, [32]byte{1}, Config{Linger: time.Millisecond, parting: time.Millisecond}, fakeEnv{}, pool)
		bindFake(t, s, l)
		<-l.empty
		ch := &fakeChannel{}
		s.Attach(ch)
		s.SetWriteDeadline(time.Now().Add(time.Hour))
		s.Write(make([]byte, sent))
		if closed {
			s.CloseWrite()
		}
		for s.tx.lock(); s.next.Load() != uint64(sent); s.tx.lock() { // all of it is on its way
			s.tx.unlock()
			runtime.Gosched()
		}
		s.tx.unlock()
		acked := uint64(0)
		for n := 0; len(in) >= size && n < 50; n++ {
			u := func(i int) uint64 { return binary.BigEndian.Uint64(in[1+8*i:]) }
			r := wire.Record{Type: wire.TypeState, Flags: in[0] & 127, GID: testGID, LinkNo: u(0), Ack: u(1), Limit: u(2), Sent: u(3)}
			in = in[size:]
			s.mu.Lock()
			over := s.err != nil
			s.mu.Unlock()
			s.OnChannelRecord(ch, &r)
			s.mu.Lock()
			err := s.err
			s.mu.Unlock()
			if r.Ack > uint64(sent) && !errors.Is(err, ErrProtocol) {
				t.Fatalf("%v after %d bytes: %v", &r, sent, err)
			}
			if err != nil && !errors.Is(err, ErrProtocol) {
				t.Fatalf("ended with %v", err)
			}
			if r.Ack <= uint64(sent) {
				acked = max(acked, r.Ack)
			}
			if s.acked.Load() != acked || s.hi.Load() != uint64(sent) || s.sent.Load() != uint64(sent) {
				t.Fatalf("acked %d, want %d; hi %d, sent %d, want %d", s.acked.Load(), acked, s.hi.Load(), s.sent.Load(), sent)
			}
			s.mu.Lock()
			bad := s.finKnown && s.fin < s.got.Load()
			s.bmu.Lock()
			if !over && err == nil && !s.ended && s.unack.End() != uint64(sent) && sent > 0 && acked < uint64(sent) {
				bad = true
			}
			s.bmu.Unlock()
			s.mu.Unlock()
			if bad {
				t.Fatalf("%v left nonsense: fin %d, got %d", &r, s.fin, s.got.Load())
			}
		}
		// It still answers.
		s.SetWriteDeadline(time.Unix(1, 0))
		if _, err := s.Write([]byte{1}); err == nil {
			t.Fatal("wrote after the deadline")
		}
		s.SetReadDeadline(time.Unix(1, 0))
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Fatal("read after the deadline")
		} else if s.Snapshot().Err == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		finish(t, s, l)
	})
}
