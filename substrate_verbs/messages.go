package verbs

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/internal/blocks"
)

// The messages between two processes, by handler. Each is one segment. Numbers are little-endian; those of Short have four u64.
const (
	msgVerify   = 1 // both secrets of the rendezvous, filled up to the longest message; the dialer's first
	msgVerified = 2 // the same, back
	msgOpen     = 3 // Short: the opener's number of the link, the listener's token, the opener's window
	msgOpened   = 4 // Short: the opener's number, a status, the acceptor's number, its window
	msgData     = 5 // u32 the receiver's number, u32 taken (low bits), bytes of the stream
	msgTaken    = 6 // Short: the receiver's number, bytes taken from the beginning on, window
	msgEnd      = 7 // Short: the receiver's number; the last message for this number
	msgTry      = 8 // u64 a number, and bytes that mean nothing: how long that takes is measured
	msgTried    = 9 // Short: the number, back
)

const dataHead = 8

// Answers to msgOpen.
const (
	statusOpened  = iota // the link is there
	statusRefused        // no listener has this token
	statusBusy           // too many links
)

var (
	errTakenTooMuch = errors.New("it has taken more than was sent")
	errNoLink       = errors.New("a message for a link that there isn't")
	errOverrun      = errors.New("it sends beyond the window")
	errUnverified   = errors.New("a message before the path was verified")
)

// handlers are those of a peer. They run where segments are received: none of them waits or sends but onVerify.
func (p *peer) handlers() *activemsg.Handlers {
	h := new(activemsg.Handlers)
	h.Quick(msgVerify, p.onVerify)
	h.Quick(msgVerified, p.onVerified)
	on := func(id uint8, f func(m *activemsg.Msg) error) {
		h.Quick(id, func(m *activemsg.Msg) {
			if !p.good.Load() {
				p.protocol(errUnverified)
			} else if err := f(m); err != nil {
				p.protocol(err)
			}
		})
	}
	on(msgOpen, p.onOpen)
	on(msgOpened, p.onOpened)
	h.Quick(msgData, func(m *activemsg.Msg) { // itself, as it is what most messages are
		if err := p.data(m.Payload); err != nil {
			p.protocol(err)
		}
	})
	on(msgTaken, p.onTaken)
	on(msgEnd, p.onEnd)
	on(msgTry, p.onTry)
	on(msgTried, p.onTried)
	return h
}

// secrets is what both ends have said on the TCP connection.
type secrets [2 * secretLen]byte

// proof is the longest message there is, with the secrets at its beginning: a path that carries only short ones isn't good.
func (p *peer) proof() []byte {
	b := make([]byte, max(p.ep.Payload(), len(p.secrets)))
	copy(b, p.secrets[:])
	return b
}

func (p *peer) proves(b []byte) bool {
	return len(b) == p.ep.Payload() && subtle.ConstantTimeCompare(b[:len(p.secrets)], p.secrets[:]) == 1
}

func (p *peer) onVerify(m *activemsg.Msg) {
	<-p.ready // it is closed in the next moment, by who made the endpoint
	if p.dialer || p.good.Load() || !p.proves(m.Payload) {
		p.protocol(errors.New("the queue pair leads to another process than the TCP connection"))
		return
	}
	p.good.Store(true)
	p.s.register(p) // before the peer knows: what it does next may have us dial it
	if err := p.ep.TrySend(msgVerified, [][]byte{m.Payload}); err != nil {
		p.protocol(err)
		return
	}
	close(p.verified)
}

func (p *peer) onVerified(m *activemsg.Msg) {
	<-p.ready
	if !p.dialer || p.good.Load() || !p.proves(m.Payload) {
		p.protocol(errors.New("the queue pair leads to another process than the TCP connection"))
		return
	}
	p.good.Store(true)
	p.s.register(p)
	close(p.verified)
}

func (p *peer) onOpen(m *activemsg.Msg) error {
	args := m.Args()
	if args[0] >= maxLinks {
		return fmt.Errorf("a link with number %d", args[0])
	}
	a := answer{theirs: uint32(args[0]), status: statusBusy}
	if l, err := p.add(stateAccepting); err == nil {
		l.theirs = a.theirs
		l.window = min(args[2], p.s.opts.lastWindow)
		a.link, a.status = l, statusOpened
		if a.to = p.s.listener(args[1]); a.to == nil {
			a.status = statusRefused
		} else if !a.to.admit() {
			a.status = statusBusy
		}
	}
	err := p.answer(a)
	if err != nil && a.status == statusOpened {
		a.to.push(nil)
	}
	return err
}

func (p *peer) onOpened(m *activemsg.Msg) error {
	args := m.Args()
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.at(args[0])
	if l == nil || l.state != stateDialing && l.state != stateAbandoned || args[1] == statusOpened && args[2] >= maxLinks {
		return errors.New("an answer to no question")
	}
	abandoned := l.state == stateAbandoned
	l.state = stateOpen
	if args[1] != statusOpened {
		p.drop(l)
		l.opened <- args[1]
		return nil
	}
	l.theirs = uint32(args[2])
	l.snd.Lock()
	l.window = min(args[3], p.s.opts.lastWindow)
	l.snd.Unlock()
	if abandoned {
		p.oweLocked(l, dueEnd)
	}
	l.opened <- args[1]
	return nil
}

// data is the handler of msgData.
func (p *peer) data(b []byte) error {
	switch {
	case !p.good.Load():
		return errUnverified
	case len(b) <= dataHead:
		return fmt.Errorf("a segment of %d bytes", len(b))
	}
	id := binary.LittleEndian.Uint32(b)
	l := p.hot.Load()
	if l == nil || l.id != id {
		if l = p.find(uint64(id)); l == nil {
			return errNoLink
		}
	}
	taken := l.taken.Load()
	if ahead := int32(binary.LittleEndian.Uint32(b[4:]) - uint32(taken)); ahead > 0 {
		if err := l.onAhead(taken, uint64(ahead)); err != nil {
			return err
		}
	}
	return l.onData(b[dataHead:])
}

// onData puts what has come to where it is waited for, or keeps it.
func (l *link) onData(b []byte) error {
	l.rcv.Lock()
	if l.over {
		l.rcv.Unlock()
		return nil
	}
	if l.arrived+uint64(len(b))-l.got.Load() > l.grant {
		l.rcv.Unlock()
		return errOverrun
	}
	l.arrived += uint64(len(b))
	if l.filled < len(l.dst) {
		n := copy(l.dst[l.filled:], b)
		b = b[n:]
		l.filled += n
		if l.filled == len(l.dst) {
			l.room.Store(false)
		}
		if l.filled == n {
			l.recvWait.Wake()
		}
	}
	if len(b) > 0 {
		l.in.Append(l.in.End(), b)
	}
	l.rcv.Unlock()
	return nil
}

// looseMost is how many bytes may lie in a link's memory although the peer's end has taken them.
const looseMost = blocks.Small

// onAhead notes that the peer's end has taken so many bytes more. A few are left to the next Send to free: it needs the lock anyway.
func (l *link) onAhead(taken, ahead uint64) error {
	taken += ahead
	if taken > l.sent.Load() {
		return errTakenTooMuch
	}
	l.taken.Store(taken)
	if l.loose += ahead; l.loose > looseMost {
		l.loose = 0
		l.snd.Lock()
		if !l.frozen {
			l.out.Release(min(taken, l.sent.Load()))
		}
		l.snd.Unlock()
	}
	l.sendWait.Wake()
	return nil
}

func (p *peer) onTaken(m *activemsg.Msg) error {
	args := m.Args()
	l := p.find(args[0])
	if l == nil {
		return errNoLink
	}
	return l.onTaken(args[1], args[2])
}

// onTaken notes what the peer's end has taken, and that its window is so large now. Older news come late, and say nothing.
func (l *link) onTaken(taken, window uint64) error {
	l.snd.Lock()
	if taken > l.sent.Load() {
		l.snd.Unlock()
		return errTakenTooMuch
	}
	window = min(window, l.p.s.opts.lastWindow)
	before := l.taken.Load()
	if taken > before || window > l.window {
		l.window = max(l.window, window)
		l.taken.Store(max(taken, before))
		if !l.frozen {
			l.out.Release(taken)
		}
	}
	l.snd.Unlock()
	l.sendWait.Wake()
	return nil
}

func (p *peer) onEnd(m *activemsg.Msg) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.at(m.Args()[0])
	if l == nil || l.state != stateOpen || l.endGot {
		return errNoLink
	}
	l.endGot = true
	p.hot.Store(nil)
	if l.endSent {
		p.drop(l)
	}
	l.rcv.Lock()
	l.over = true
	l.rcv.Unlock()
	l.tell(ended)
	return nil
}
