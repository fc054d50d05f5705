package udp

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
)

// local says what is left out when both ends are on one host and nothing lies between them but the kernel's memory: the checksum over
// the payload, which costs as much there as the kernel's copy. Kernel TCP has none on such paths either. The ends prove it to each other
// when the link is made: each tells a number that depends on this start of the kernel and on the address and port that it sends from. If
// those are what the datagrams came from, no relay and no translator sent them on: they came over loopback, or from another network
// namespace. Under the link's mu.
type local struct {
	sameHost bool // packets whose checksum leaves out the payload are taken
	bare     bool // and sent: the peer takes them, as far as is known

	cpu     byte // the processor that this end runs on, for the peer; 0: not known
	cpuAt   int64
	peerCPU atomic.Uint32 // and the one of the peer

	// Of who has the turn to read.
	misses  int   // spins in a row that were in vain
	spinAt  int64 // none before
	skipped int   // waits without one, because both ends are on one processor

	delays int   // times in a row that giveWay took long
	giveAt int64 // not again before
}

// bootID identifies this start of the kernel; 0 where that can't be known.
var bootID = sync.OnceValue(func() uint64 {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return 0
	}
	h := fnv.New64a()
	h.Write(id)
	return h.Sum64()
})

// hostToken is what an end tells that sends from address at; 0: nothing.
func (s *socket) hostToken(at netip.AddrPort) uint32 {
	host := s.tr.host()
	if host == 0 || !at.IsValid() {
		return 0
	}
	h := fnv.New64a()
	var b [8 + 16 + 2]byte
	addr := at.Addr().As16()
	binary.LittleEndian.PutUint64(b[:], host)
	copy(b[8:], addr[:])
	binary.LittleEndian.PutUint16(b[24:], at.Port())
	h.Write(b[:])
	return uint32(h.Sum64()>>32) | 1
}

// isHere reports whether the end at address from, which told token, is on this host and sent the datagram itself.
func (s *socket) isHere(token uint32, from netip.AddrPort) bool {
	return token != 0 && token == s.hostToken(from)
}

// near reports whether the peer is on this host, and no further away than memory is: between two namespaces there may be an emulator
// of long paths, or a wire.
func (l *link) near() bool {
	return l.sameHost && (l.remote.Addr().IsLoopback() || l.rtt.samples > 0 && l.rtt.least < paceAboveRTT)
}

// trusts reports whether a packet has the checksum that this link wants. Under mu.
func (l *link) trusts(p *packet, from netip.AddrPort) bool {
	if !p.bare {
		return true
	}
	if l.sameHost && from == l.remote {
		l.bare = true // who sends such packets takes them
		l.peerCPU.Store(uint32(p.cpu))
		return true
	}
	if len(p.data) > 0 || p.row > 0 {
		l.sub.count.corrupt.Add(1)
		return false
	}
	return true
}

// cpuEvery is how long this end is taken to stay on its processor.
const cpuEvery = int64(100 * time.Microsecond)

// where tells the peer, in the header of a packet, what it must know to spin: the processor that this end runs on.
func (l *link) where(h []byte, now int64) {
	if l.cpu == 0 || now-l.cpuAt > cpuEvery {
		l.cpu, l.cpuAt = cpuNumber(), now
	}
	h[cpuAt] = l.cpu
}

// cpuNumber is never 0 where processors can be known, nor is it ever exact on hosts with more than 255.
func cpuNumber() byte {
	n := sys.CPU()
	if n < 0 {
		return 0
	}
	return byte(n%255) + 1
}

const (
	// spinFor is how long a user who reads the socket looks again before he sleeps: somewhat longer than the peer needs to wake up on
	// another processor and answer. A wake-up across processors costs the waiting end 20 to 40 us, and the other end, in its system call,
	// several.
	spinFor    = 50 * time.Microsecond
	mostLooks  = 1000 // whatever the clock says: in a test's bubble it stands
	mostMisses = 10
	together   = 64
	spinYield  = 4 // looks between two turns of other goroutines
	streamLook = 3 * time.Microsecond
	longStream = 2 << 20 // bytes from which on nobody waits for each single one
	longLook   = 20 * time.Microsecond
)

// spin looks for datagrams for a moment instead of sleeping at once, where that pays: the peer is on another processor of this host, and
// answers quickly. On one processor the peer could do nothing meanwhile. By who has the turn; errNothing: none came.
func (s *socket) spin(l *link) (int, error) {
	peer := byte(l.peerCPU.Load())
	if peer == 0 {
		return 0, errNothing
	}
	if l.skipped > 0 {
		l.skipped--
		return 0, errNothing
	}
	start := time.Now()
	if l.misses > 0 && l.sub.now() < l.spinAt {
		return 0, errNothing
	}
	if peer == s.cpu() {
		l.skipped = together
		return 0, errNothing
	}
	for i := 1; ; i++ {
		n, err := s.poll()
		if err != errNothing {
			l.misses = 0
			return n, err
		}
		if i == mostLooks || time.Since(start) > spinFor {
			break
		}
		if i%spinYield == 0 {
			runtime.Gosched()
		}
		if s.stream == l { // each look disturbs the peer, who takes the same locks in the kernel
			for j, t := 0, time.Now(); j < mostLooks && time.Since(t) < s.pause; j++ {
			}
		}
	}
	l.misses = min(l.misses+1, mostMisses)
	l.spinAt = l.sub.now() + int64(spinFor)<<l.misses
	return 0, errNothing
}

const (
	streamAbove = 16 << 10 // bytes in one batch
	giveFor     = time.Millisecond
	giveAgain   = time.Millisecond
)

// giveWay is called when who reads the socket has been woken. If a stream comes from a peer on the same processor the wake-up has
// taken that from the peer, in the middle of what it had to say. It is given back once, and the ends change places when the
// peer has to wait, as with TCP, whose kernel takes large writes in at a stretch, and not for every datagram. If that takes long
// others use the processor, too, and it isn't done for a while. By who has the turn.
func (s *socket) giveWay() {
	l := s.stream
	if l == nil || l.delays > 0 && l.sub.now() < l.giveAt {
		return
	}
	if peer := byte(l.peerCPU.Load()); peer == 0 || peer != s.cpu() {
		return
	}
	start := time.Now()
	s.yield()
	if time.Since(start) < giveFor {
		l.delays = 0
		return
	}
	l.delays = min(l.delays+1, mostMisses)
	l.giveAt = l.sub.now() + int64(giveAgain)<<l.delays
}
