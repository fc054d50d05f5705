package session

import (
	"errors"
	"io"
	"time"

	"github.com/sockemu/sockemu/internal/blocks"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// ctlRoom is enough for the records one control frame carries.
const ctlRoom = wire.FrameHeader + 2*wire.MaxRecord + wire.TagSize + wire.FrameHeader + wire.MaxPadding

// sendFrames sends, on a link in record mode, a State if one is due, then as much data as fits one frame, or the switch to
// bare mode. The caller holds tx.
func (s *Session) sendFrames(b *binding) error {
	if b.scratch == nil {
		b.scratch = make([]byte, 0, ctlRoom)
	}
	buf := b.scratch[:0]

	s.mu.Lock()
	bare := s.mayBare(b)
	limit := s.peerLimit
	if s.ctlDue.Swap(false) {
		r := s.state(s.ctlFlags)
		s.ctlFlags = 0
		at := len(buf)
		buf = append(buf, 0, 0, 0, 0)
		buf = r.Append(buf)
		buf = s.sealFrame(b, buf, at, wire.FrameCtrl)
	}
	if bare {
		buf = s.appendBare(b, buf)
		b.txBare = true
		s.events.add("link %d: sending bare", b.no)
	}
	s.mu.Unlock()

	n := 0
	if !bare {
		n = int(min(s.sent.Load()-s.next.Load(), s.maxPayload(b), limit-min(limit, s.next.Load())))
	}
	if n > 0 {
		s.lend(s.next.Load(), n)
		at := len(buf)
		buf = append(buf, 0, 0, 0, 0)
		if b.seal != nil {
			for _, v := range s.views {
				buf = append(buf, v...)
			}
			buf = s.sealFrame(b, buf, at, wire.FrameData)
			s.views = s.views[:0]
		} else {
			wire.PutFrameHeader(buf[at:], wire.FrameData, n)
		}
		s.next.Store(s.next.Load() + uint64(n))
		s.raiseHi(s.next.Load())
		s.armProbe() // before Send, which may block on a dead path
	}
	b.scratch = buf

	bufs := append(b.gather[:0], buf)
	bufs = append(bufs, s.views...)
	b.gather = bufs
	total := len(buf)
	for _, v := range s.views {
		total += len(v)
	}
	if total == 0 {
		return nil
	}
	sent, err := b.mover.Send(substrate.Unkept, bufs)
	if err != nil && sent < total {
		// The link has a part of a frame: whoever sends next must send the rest first. What was taken may already be
		// acknowledged and its memory in use again, so only the rest is looked at.
		b.rest = nil
		skip := sent
		for i := range len(s.views) + 1 {
			v := buf
			if i > 0 {
				v = s.views[i-1]
			}
			k := min(skip, len(v))
			skip -= k
			b.rest = append(b.rest, v[k:]...)
		}
	}
	s.giveBack(b, s.next.Load()) // of what the link hasn't taken, rest is a copy
	clear(b.gather)
	if bare && b.rest == nil {
		s.mark(b)
		// The link needs none of it any more; an idle connection should be small.
		b.scratch, b.gather, s.views = nil, nil, nil
	}
	return err
}

// appendBare appends the switch to bare mode, after which the stream begins on a cache line of a link that is a ring: copies of large
// messages from and to the application's buffers, which mostly begin on one, are up to a third faster so. The caller holds tx.
func (s *Session) appendBare(b *binding, buf []byte) []byte {
	pad := 0
	if k := b.keep.k; k != nil {
		pad = int(-(end(k) + uint64(len(buf)) + wire.FrameHeader) % (wire.MaxPadding + 1))
	}
	buf = append(buf, 0, 0, 0, 0)
	wire.PutFrameHeader(buf[len(buf)-wire.FrameHeader:], wire.FrameBare, pad)
	return append(buf, make([]byte, pad)...)
}

// maxPayload bounds a data frame: a sealed one can be used only when all of it has arrived, so it is short.
func (s *Session) maxPayload(b *binding) uint64 {
	if b.seal != nil {
		return 16 << 10
	}
	return wire.MaxPayload
}

// sealFrame fills in the header of the frame whose body is buf[at+FrameHeader:], sealing the body if the link is sealed.
func (s *Session) sealFrame(b *binding, buf []byte, at int, t wire.FrameType) []byte {
	body := buf[at+wire.FrameHeader:]
	if b.seal == nil {
		wire.PutFrameHeader(buf[at:], t, len(body))
		return buf
	}
	wire.PutFrameHeader(buf[at:], t, len(body)+wire.TagSize)
	return b.seal.seal(buf[:at+wire.FrameHeader], buf[at:at+wire.FrameHeader], body)
}

// receiveFrames is the reader of a link in record mode. It ends when the link does or when the peer switches to bare mode.
func (s *Session) receiveFrames(b *binding) {
	err := s.frames(b)
	close(b.framesDone)
	if err != nil {
		s.lost(b, err)
		if errors.Is(err, wire.ErrFormat) {
			s.fail(ErrProtocol, err.Error())
		}
		return
	}
	s.canRx.raise()
	s.mu.Lock()
	s.startPull()
	s.mu.Unlock()
}

func (s *Session) frames(b *binding) error {
	var small [256]byte // header, records, and the head of a payload: an idle link costs no more
	have := small[:0]
	var big *blocks.Block
	defer func() {
		if big != nil {
			s.pool.putFrame(big)
		}
	}()
	fill := func(n int) error { // makes have at least n bytes long
		for len(have) < n {
			k, err := b.mover.Recv(have[len(have):cap(have)])
			have = have[:len(have)+k]
			if k > 0 {
				s.sign()
			}
			if err != nil && len(have) < n {
				if err == io.EOF && len(have) > 0 {
					return io.ErrUnexpectedEOF
				}
				return err
			}
		}
		return nil
	}
	for {
		if cap(have)-len(have) < wire.FrameHeader || len(have) == 0 {
			have = small[:copy(small[:], have)]
		}
		if err := fill(wire.FrameHeader); err != nil {
			return err
		}
		t, n, err := wire.ParseFrameHeader(have, b.seal != nil)
		if err != nil && b.seal != nil {
			return errTamper // the header is in clear: who changed it need not be the peer
		}
		if err != nil {
			return err
		}
		head := [wire.FrameHeader]byte(have)
		have = have[wire.FrameHeader:]

		var body []byte
		if n <= len(have) {
			body, have = have[:n], have[n:]
		} else if n <= cap(small[:])-wire.FrameHeader {
			have = small[:copy(small[:], have)]
			if err := fill(n); err != nil {
				return err
			}
			body, have = have[:n], have[n:]
		} else {
			if big == nil {
				big = s.pool.getFrame()
			}
			k := copy(big.Buf, have)
			have = small[:0]
			for k < n {
				if t == wire.FrameData && b.seal == nil && k > 0 {
					// A plain payload needn't wait for its end.
					if err := s.take(big.Buf[:k]); err != nil {
						return err
					}
					s.acknowledge()
					n -= k
					k = 0
				}
				m, err := b.mover.Recv(big.Buf[k:n])
				if k += m; err != nil && k < n {
					return err
				}
				s.sign()
			}
			body = big.Buf[:n]
		}
		if b.seal != nil {
			if body, err = b.seal.open(head[:], body); err != nil {
				return err
			}
		}
		switch t {
		case wire.FrameData:
			if err := s.take(body); err != nil {
				return err
			}
			s.acknowledge()
		case wire.FrameCtrl:
			if err := s.takeRecords(body); err != nil {
				return err
			}
		case wire.FrameBare:
			if len(have) > 0 {
				if more, known := s.toFin(); known && uint64(len(have)) > more {
					return errBeyondEnd
				}
				s.keep(have)
				s.acknowledge()
			}
			s.mu.Lock()
			b.rxBare = true
			s.mu.Unlock()
			return nil
		}
		if big != nil && s.idle() {
			s.pool.putFrame(big)
			big = nil
		}
	}
}

// sign notes that the link delivers, and gives the peer a sign of life now and then while a long frame trickles in: its own
// question would have to wait behind that frame.
func (s *Session) sign() {
	now := time.Since(epoch)
	s.heard.Store(int64(now))
	if now-time.Duration(s.saidAt.Load()) > s.cfg.ProbeEvery {
		s.say(0)
	}
}

// idle reports whether the application has caught up with what arrived.
func (s *Session) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pend.Len() == 0
}

var errBeyondEnd = wireError("peer sends beyond the end of its stream")

// take keeps the payload of a data frame.
func (s *Session) take(p []byte) error {
	s.mu.Lock()
	got := s.got.Load()
	switch {
	case got+uint64(len(p)) > s.limitTold && got+uint64(len(p)) > s.limit():
		s.mu.Unlock()
		return wireError("peer sends beyond its window")
	case s.finKnown && got+uint64(len(p)) > s.fin:
		s.mu.Unlock()
		return errBeyondEnd
	}
	s.mu.Unlock()
	s.keep(p)
	return nil
}

func (s *Session) takeRecords(p []byte) error {
	var r wire.Record
	for len(p) > 0 {
		n, err := wire.ParseRecord(p, &r)
		if err != nil {
			return err
		}
		if n == 0 {
			return wireError("truncated record in a control frame")
		}
		p = p[n:]
		if r.Type == wire.TypeState || r.Type == wire.TypeReset {
			if r.GID != s.id {
				return wireError("in-band record about another connection")
			}
			s.OnRecord(&r)
		}
	}
	return nil
}
