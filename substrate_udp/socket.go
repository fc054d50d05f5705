package udp

import (
	"crypto/rand"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

// A socket is one transport with the links on it. One goroutine at a time reads it; see turns. Order of locks: a link's mu, then the socket's.
type socket struct {
	sub    *Substrate
	tr     transport
	secret [32]byte // makes cookies

	mu     sync.RWMutex
	links  map[uint64]*link  // by our id
	peers  map[uint64]*link  // by the peer's
	dialed map[peerKey]*link // links that were accepted, by what their dialer calls them
	spent  map[peerKey]int64 // and such that are gone: their cookies are used
	ln     *listener
	holds  int // whoever needs the socket: links, listener, dials that begin
	closed bool

	turns

	// Of whoever has the turn to read.
	msgs    []sys.UDPMessage
	mem     []*block
	touched []*link
	goneAt  int64 // answers to unknown ids are limited in number
	goneNow int
}

const (
	maxSpent = 1 << 16
	maxGone  = 1000 // per second
	shortGap = time.Millisecond
)

func newSocket(sub *Substrate, tr transport) *socket {
	s := &socket{
		sub: sub, tr: tr,
		links: make(map[uint64]*link), peers: make(map[uint64]*link),
		dialed: make(map[peerKey]*link), spent: make(map[peerKey]int64),
	}
	s.turns.init()
	s.woken, s.yield, s.cpu = s.giveWay, sys.Yield, cpuNumber
	rand.Read(s.secret[:])
	return s
}

// hold keeps the socket open until unhold, if it still is.
func (s *socket) hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.holds++
	return true
}

// unhold closes the socket when nobody needs it any more.
func (s *socket) unhold() {
	s.mu.Lock()
	s.holds--
	last := s.holds == 0 && !s.closed
	if last {
		s.closed = true
	}
	s.mu.Unlock()
	if last {
		s.close()
	}
}

func (s *socket) close() {
	s.sub.mu.Lock()
	delete(s.sub.sockets, s)
	s.sub.mu.Unlock()
	s.tr.close()
}

// shutdown breaks everything on the socket and closes it.
func (s *socket) shutdown() {
	if !s.hold() {
		return
	}
	s.mu.RLock()
	ln := s.ln
	all := make([]*link, 0, len(s.links))
	for _, l := range s.links {
		all = append(all, l)
	}
	s.mu.RUnlock()
	if ln != nil {
		ln.Close()
	}
	for _, l := range all {
		l.mu.Lock()
		l.fail(substrate.PathDown, net.ErrClosed)
		l.mu.Unlock()
	}
	s.unhold()
}

// reaches reports whether the socket can send to any address of a's family.
func (s *socket) reaches(a netip.Addr) bool {
	own := s.tr.local().Addr()
	return own.IsUnspecified() && (own.Is6() == a.Is6() || own.Is6() && s.dual())
}

// dual reports whether an IPv6 socket speaks IPv4 as well, which those of listeners do. Sockets for dialling are of one family.
func (s *socket) dual() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ln != nil
}

// newLink makes a link that is dialling.
func (s *socket) newLink(remote netip.AddrPort) *link {
	l := &link{sub: s.sub, sock: s, id: randomID(), remote: remote}
	sure, most := s.tr.size(remote)
	now := s.sub.now()
	l.mtu.start(min(sure, s.sub.opts.MTU), min(most, s.sub.opts.MTU), now)
	l.cc = s.sub.opts.Controller(l.mtu.size)
	l.threshold = minThreshold
	l.window = min(initialWindow, l.maxWindow())
	l.advertised = uint64(l.window)
	return l
}

// add puts a link in the table.
func (s *socket) add(l *link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.holds++
	s.links[l.id] = l
	return true
}

// name notes the peer's id of a link. Under the link's mu.
func (s *socket) name(l *link) {
	s.mu.Lock()
	s.peers[l.peer] = l
	s.mu.Unlock()
}

// remove takes a link out of the table. Under the link's mu.
func (s *socket) remove(l *link) {
	s.mu.Lock()
	delete(s.links, l.id)
	if s.peers[l.peer] == l {
		delete(s.peers, l.peer)
	}
	if s.dialed[l.key] == l {
		delete(s.dialed, l.key)
		s.spend(l.key)
	}
	s.mu.Unlock()
	s.unhold()
}

// spend remembers a used cookie as long as it would be good.
func (s *socket) spend(key peerKey) {
	now := s.sub.now()
	if len(s.spent) >= 1024 && len(s.spent)&(len(s.spent)-1) == 0 {
		for k, at := range s.spent {
			if now-at > cookieLife {
				delete(s.spent, k)
			}
		}
	}
	s.spent[key] = now
}

// forgive makes a cookie good again.
func (s *socket) forgive(key peerKey) {
	s.mu.Lock()
	delete(s.spent, key)
	s.mu.Unlock()
}

// accepted returns the link that was accepted from key, making it if there was none: then fresh is true. It returns nil if there was
// one that is gone.
func (s *socket) accepted(key peerKey, made int64) (l *link, fresh bool) {
	s.mu.RLock()
	l = s.dialed[key]
	at, used := s.spent[key]
	many := len(s.spent) >= maxSpent
	s.mu.RUnlock()
	if l != nil {
		return l, false
	}
	if many || used && made <= at {
		return nil, false
	}
	l = s.newLink(key.addr)
	l.key, l.peer = key, key.id
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.holds++
	s.links[l.id], s.peers[l.peer], s.dialed[key] = l, l, l
	return l, true
}

func (s *socket) find(id uint64) *link {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.links[id]
}

func (s *socket) findPeer(id uint64) *link {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.peers[id]
}

func (s *socket) listening() *listener {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ln
}

// sendOne sends one datagram with its checksum.
func (s *socket) sendOne(to netip.AddrPort, p []byte) error {
	seal(p, nil)
	b := newBatch()
	defer b.free()
	b.vec = append(b.vec, p)
	b.packets = append(b.packets, outPacket{end: 1, size: len(p), sealed: true})
	if _, err := s.tr.write(to, b); err != nil {
		s.sub.count.sendErrors.Add(1)
		return err
	}
	s.sub.count.packetsSent.Add(1)
	s.sub.count.bytesSent.Add(uint64(len(p)))
	return nil
}
