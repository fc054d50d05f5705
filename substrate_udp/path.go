package udp

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// A path is a new address that the peer may have: packets of the link come from it, and it is asked to prove that it receives. Until
// then everything goes to the old one. Under the link's mu.
type path struct {
	to    netip.AddrPort
	token uint64
	tries int
	at    int64 // when to ask again; 0: nothing is asked
	rest  int64 // no other address is asked before
}

const (
	pathTries = 5
	pathRest  = 50 * time.Millisecond
)

// newAddress is told that the newest packet of the peer came from another address: its own changed, or that of a translator (NAT) on
// the way; or somebody repeats its packets from elsewhere.
func (l *link) newAddress(from netip.AddrPort, now int64) {
	if l.path.at != 0 || now < l.path.rest {
		return
	}
	l.leaveHost()
	l.path = path{to: from, token: randomID(), rest: now + int64(pathRest)}
	l.challengeAgain(now)
}

func (l *link) challengeAgain(now int64) {
	p := &l.path
	if p.tries++; p.tries > pathTries {
		p.at = 0
		return
	}
	p.at = now + backOff(l.rtt.timeout(), p.tries-1)
	l.sendProof(p.to, flagChallenge, p.token, now)
	l.schedule(now)
}

// sendProof sends a challenge or a response to an address that needn't be the peer's.
func (l *link) sendProof(to netip.AddrPort, flag byte, token uint64, now int64) {
	b := newBatch()
	defer b.free()
	h := putHeader(b.header(), kindPacket, flag, l.peer)
	h = binary.LittleEndian.AppendUint64(h, l.num)
	h = binary.LittleEndian.AppendUint64(h, token)
	b.vec = append(b.vec, nil)
	b.add(h, 0, 0)
	b.seal()
	l.noteSent(sentPacket{at: now, size: uint32(len(h)), flags: flag}, now)
	if _, err := l.sock.tr.write(to, b); err != nil {
		l.sub.count.sendErrors.Add(1)
	}
}

// proved takes in a response: the new address is the peer's from now on. What was learnt about the old path is void.
func (l *link) proved(token uint64, from netip.AddrPort, now int64) {
	p := &l.path
	if p.at == 0 || token != p.token || from != p.to {
		return
	}
	l.remote = p.to
	l.path = path{rest: now + int64(pathRest)}
	l.rtt = rtt{}
	sure, most := l.sock.tr.size(l.remote)
	l.mtu.start(min(sure, l.sub.opts.MTU), min(most, l.sub.opts.MTU), now)
	l.cc = l.sub.opts.Controller(l.mtu.size)
	l.timeouts, l.progress = 0, now
	l.probes = 1
	l.newPathECN()
	l.sub.count.migrations.Add(1)
}
