package udp

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

const (
	cookieLen  = 8 + sha256.Size // the time, and an HMAC of it and of who dials
	cookieLife = int64(10 * time.Second)

	dialInterval    = 50 * time.Millisecond // between the first two INITs; then twice as long each time
	dialIntervalMax = time.Second
)

// A peerKey names a link as its dialer does.
type peerKey struct {
	addr netip.AddrPort
	id   uint64
}

var errRefused = errors.New("nobody listens there")

// A dial waits for the answer to an INIT. Under the link's mu.
type dial struct {
	cookie []byte
	again  chan struct{} // a cookie came
	result chan error    // it is over
	ended  bool
}

func (d *dial) done(err *substrate.Error) {
	if d.ended {
		return
	}
	d.ended = true
	if err == nil {
		d.result <- nil
		return
	}
	d.result <- err
}

func (s *Substrate) dialAddr(ctx context.Context, to netip.AddrPort) (*link, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Dialling nowhere is dialling this host, as in package net.
	switch a := to.Addr(); {
	case !a.IsValid() || a == netip.IPv4Unspecified():
		to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), to.Port())
	case a == netip.IPv6Unspecified():
		to = netip.AddrPortFrom(netip.IPv6Loopback(), to.Port())
	}
	sock, err := s.socketFor(ctx, to)
	if err != nil {
		return nil, err
	}
	defer sock.unhold()
	l := sock.newLink(to)
	d := &dial{again: make(chan struct{}, 1), result: make(chan error, 1)}
	l.dial = d
	if !sock.add(l) {
		return nil, net.ErrClosed
	}
	if err := l.waitDialed(ctx, d); err != nil {
		l.mu.Lock()
		l.fail(substrate.PathDown, err)
		l.mu.Unlock()
		return nil, err
	}
	return l, nil
}

// waitDialed repeats the INIT until there is an answer or ctx ends.
func (l *link) waitDialed(ctx context.Context, d *dial) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	interval := dialInterval
	asked := 0
	for {
		select {
		case <-ctx.Done():
			if asked == 0 || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return ctx.Err()
			}
			return fmt.Errorf("no answer to %d packets: the way there takes no UDP, or none of %d bytes, or loses packets: %w", asked, initLen, ctx.Err())
		case err := <-d.result:
			return err
		case <-d.again:
		case <-timer.C:
			timer.Reset(interval)
			interval = min(2*interval, dialIntervalMax)
		}
		l.mu.Lock()
		var err error
		if l.state == dialing {
			asked++
			err = l.sendInit(l.now())
		}
		l.mu.Unlock()
		if err == errTooBig {
			return fmt.Errorf("the way there doesn't take packets of %d bytes: %w", initLen, err)
		}
	}
}

// sendInit asks for a link. Under mu. What else than errTooBig it returns may be over the next time.
func (l *link) sendInit(now int64) error {
	b := make([]byte, 0, initLen)
	b = putHeader(b, kindInit, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, l.id)
	b = binary.LittleEndian.AppendUint32(b, uint32(l.window))
	b = binary.LittleEndian.AppendUint32(b, l.sock.hostToken(l.sock.tr.source(l.remote)))
	if l.dial.cookie != nil {
		b = append(b, l.dial.cookie...)
	}
	b = b[:initLen]
	binary.LittleEndian.PutUint32(b[initBody:], l.sock.capabilities())
	l.sentInit = now
	return l.sock.sendOne(l.remote, b)
}

// onInit answers a dial. Without a good cookie it costs no memory and the answer is shorter than the question.
func (s *socket) onInit(b []byte, from netip.AddrPort, now int64) {
	if len(b) < initLen {
		s.sub.count.truncated.Add(1)
		return
	}
	id := binary.LittleEndian.Uint64(b[headerLen:])
	window := binary.LittleEndian.Uint32(b[headerLen+8:])
	host := binary.LittleEndian.Uint32(b[headerLen+12:])
	cookie := b[headerLen+16 : initBody]
	caps := binary.LittleEndian.Uint32(b[initBody:])
	ln := s.listening()
	if ln == nil {
		s.sendOne(from, putHeader(make([]byte, 0, headerLen), kindRefuse, 0, id))
		return
	}
	key := peerKey{from, id}
	made, ok := s.checkCookie(cookie, key, now)
	if !ok {
		if binary.LittleEndian.Uint64(cookie) != 0 {
			s.sub.count.badCookie.Add(1)
		}
		s.sub.count.retries.Add(1)
		r := putHeader(make([]byte, 0, retryLen), kindRetry, 0, id)
		s.sendOne(from, s.appendCookie(r, key, now))
		return
	}
	l, fresh := s.accepted(key, made)
	if l == nil {
		s.sub.count.badCookie.Add(1) // used before: the link is gone
		return
	}
	l.mu.Lock()
	if fresh {
		l.peer, l.state = id, open
		l.limit = uint64(window)
		l.rtt.add(time.Duration(now-made), 0, now)
		l.sameHost = s.isHere(host, from)
		l.agree(caps)
	}
	own := uint32(0)
	if l.sameHost {
		own = s.hostToken(s.tr.source(from))
	}
	peer, advertised := l.id, l.window
	l.mu.Unlock()
	if fresh && !ln.offer(l) {
		s.sub.count.overloaded.Add(1)
		l.mu.Lock()
		l.leave()
		l.mu.Unlock()
		s.forgive(key) // the dialer may come again
		return
	}
	r := putHeader(make([]byte, 0, acceptLen+capsLen), kindAccept, 0, id)
	r = binary.LittleEndian.AppendUint64(r, peer)
	r = binary.LittleEndian.AppendUint32(r, uint32(advertised))
	r = binary.LittleEndian.AppendUint32(r, own)
	if caps != 0 { // who tells none knows of none
		r = binary.LittleEndian.AppendUint32(r, s.capabilities())
	}
	s.sendOne(from, r)
}

// appendCookie appends the proof that key's address receives what is sent to it.
func (s *socket) appendCookie(b []byte, key peerKey, now int64) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(now))
	return append(b, s.cookieSum(key, now)...)
}

func (s *socket) cookieSum(key peerKey, made int64) []byte {
	m := hmac.New(sha256.New, s.secret[:])
	var b [8 + 16 + 2 + 8]byte
	addr := key.addr.Addr().As16()
	binary.LittleEndian.PutUint64(b[:], uint64(made))
	copy(b[8:], addr[:])
	binary.LittleEndian.PutUint16(b[24:], key.addr.Port())
	binary.LittleEndian.PutUint64(b[26:], key.id)
	m.Write(b[:])
	return m.Sum(nil)
}

func (s *socket) checkCookie(c []byte, key peerKey, now int64) (made int64, ok bool) {
	made = int64(binary.LittleEndian.Uint64(c))
	if made <= 0 || made > now || now-made > cookieLife {
		return 0, false
	}
	return made, hmac.Equal(c[8:], s.cookieSum(key, made))
}

// onAnswer takes in what a listener answers to an INIT. It may come from another address of the listener's host: the id proves enough.
func (s *socket) onAnswer(k kind, id uint64, b []byte, from netip.AddrPort, now int64) {
	l := s.find(id)
	if l == nil {
		s.sub.count.unknown.Add(1)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != dialing {
		s.sub.count.unknown.Add(1)
		return
	}
	switch {
	case k == kindRetry && len(b) == retryLen:
		// The first cookie is used at once; another (the first was too old, the listener is a new one) when the INIT is repeated:
		// a listener that takes none can't make this end busy.
		first := l.dial.cookie == nil
		l.dial.cookie = append(l.dial.cookie[:0], b[headerLen:]...)
		if first {
			l.dial.again <- struct{}{}
		}
	case k == kindAccept && (len(b) == acceptLen || len(b) == acceptLen+capsLen):
		l.peer = binary.LittleEndian.Uint64(b[headerLen:])
		l.limit = uint64(binary.LittleEndian.Uint32(b[headerLen+8:]))
		l.sameHost = from == l.remote && l.sock.isHere(binary.LittleEndian.Uint32(b[headerLen+12:]), from)
		l.bare = l.sameHost
		caps := uint32(0)
		if len(b) > acceptLen {
			caps = binary.LittleEndian.Uint32(b[acceptLen:])
		}
		l.agree(caps)
		l.rtt.add(time.Duration(now-l.sentInit), 0, now)
		l.state = open
		s.name(l)
		l.dial.done(nil)
		l.dial = nil
	case k == kindRefuse && len(b) == headerLen:
		l.fail(substrate.Refused, errRefused)
	default:
		s.sub.count.malformed.Add(1)
	}
}
