package udp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
)

const (
	socketBuffer = 8 << 20
	maxDatagram  = 65507 // of IPv4; IPv6 allows 20 more
	minDatagram  = 1200  // what every path carries (RFC 9000, section 14)
	baseDatagram = 1232  // IPv6 guarantees 1280
	maxSegments  = 64    // UDP_MAX_SEGMENTS of older kernels
	routeLife    = time.Minute
	maxRoutes    = 4096
	readBatch    = 4 // each read may bring a run of 64 KiB
)

// kernel is the transport over a UDP socket. Where the system has no batches (not Linux) it sends and receives one datagram at a time.
type kernel struct {
	conn   *net.UDPConn
	raw    syscall.RawConn
	v6     bool
	addr   netip.AddrPort
	rcvbuf int
	cuts   bool // UDP_SEGMENT works
	joins  bool // and UDP_GRO
	marks  bool // and codepoints of ECN

	reader  *sys.UDPReader // nil: one at a time
	onRead  func(fd uintptr) bool
	onPoll  func(fd uintptr) bool
	msgs    []sys.UDPMessage
	got     int
	readErr error
	woken   func()
	waited  bool

	mu     sync.RWMutex
	routes map[netip.Addr]*route
}

// A route is what is known about the way to one address.
type route struct {
	mtu     int
	source  netip.Addr // what the kernel would send from; may be invalid
	until   time.Time
	noSplit atomic.Int64 // UDP_SEGMENT failed here: not before this time since started
}

// listenKernel opens a socket at addr of network "udp", "udp4" or "udp6".
func listenKernel(ctx context.Context, network, addr string) (transport, error) {
	pc, err := new(net.ListenConfig).ListenPacket(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn := pc.(*net.UDPConn)
	k := &kernel{conn: conn, addr: conn.LocalAddr().(*net.UDPAddr).AddrPort(), routes: make(map[netip.Addr]*route)}
	if k.raw, err = conn.SyscallConn(); err != nil {
		conn.Close()
		return nil, err
	}
	k.v6 = !k.addr.Addr().Is4()
	k.addr = netip.AddrPortFrom(k.addr.Addr().Unmap(), k.addr.Port())
	k.raw.Control(func(fd uintptr) {
		k.joins, k.cuts, err = sys.SetUDPOptions(fd, k.v6, true)
		k.marks = sys.ReceiveUDPECN(fd, k.v6) == nil
		k.rcvbuf, _ = sys.ForceSocketBuffers(fd, socketBuffer)
	})
	if k.rcvbuf == 0 {
		conn.SetReadBuffer(socketBuffer)
		conn.SetWriteBuffer(socketBuffer)
		k.rcvbuf = 256 << 10 // a guess below what systems grant
	}
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		conn.Close()
		return nil, err
	}
	if k.reader, err = sys.NewUDPReader(readBatch); err == nil {
		k.onRead = func(fd uintptr) bool {
			if k.waited && k.woken != nil {
				k.woken()
			}
			k.waited = true
			k.got, k.readErr = k.reader.Recv(fd, k.msgs)
			return k.readErr != error(syscall.EAGAIN)
		}
		k.onPoll = func(fd uintptr) bool {
			k.got, k.readErr = k.reader.Recv(fd, k.msgs)
			return true
		}
	}
	return k, nil
}

func (k *kernel) local() netip.AddrPort { return k.addr }

func (k *kernel) source(to netip.AddrPort) netip.AddrPort {
	if a := k.addr.Addr(); !a.IsUnspecified() {
		return k.addr
	}
	a := k.route(to).source
	if !a.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, k.addr.Port())
}

func (k *kernel) ecn() bool { return k.marks && k.reader != nil }

func (k *kernel) rows() bool { return k.cuts && k.joins && k.reader != nil }

func (k *kernel) host() uint64 { return bootID() }

// buffer counts half of the kernel's figure: the rest goes for its own book-keeping.
func (k *kernel) buffer() int { return k.rcvbuf / 2 }

func (k *kernel) close() error { return k.conn.Close() }

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// started is where the times of a route count from: a clock that is set doesn't move them.
var started = time.Now()

func (k *kernel) kick() { k.conn.SetReadDeadline(longAgo) }

func (k *kernel) unkick() { k.conn.SetReadDeadline(time.Time{}) }

func (k *kernel) read(msgs []sys.UDPMessage, woken func()) (int, error) {
	if k.reader == nil {
		msgs[0].Head, msgs[0].Body = nil, nil
		n, from, err := k.conn.ReadFromUDPAddrPort(msgs[0].Buf)
		if err != nil {
			return 0, err
		}
		msgs[0].N, msgs[0].Segment, msgs[0].Truncated = n, n, false
		msgs[0].From = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		return 1, nil
	}
	k.msgs, k.woken, k.waited = msgs, woken, false
	if err := k.raw.Read(k.onRead); err != nil {
		return 0, err
	}
	return k.got, k.readErr
}

func (k *kernel) poll(msgs []sys.UDPMessage) (int, error) {
	if k.reader == nil {
		return 0, errNothing
	}
	k.msgs = msgs
	if err := k.raw.Read(k.onPoll); err != nil {
		return 0, err
	}
	if k.readErr == error(syscall.EAGAIN) {
		return 0, errNothing
	}
	return k.got, k.readErr
}

// A kernelCall is the space in which write talks to the function that it hands to RawConn.Control: a closure over local variables
// would be allocated on each call.
type kernelCall struct {
	f       func(fd uintptr)
	v6      bool
	to      netip.AddrPort
	vec     [][]byte
	segment int
	ecn     byte
	err     error
}

func (k *kernel) write(to netip.AddrPort, b *batch) (int, error) {
	if k.reader == nil {
		return k.writePlain(to, b)
	}
	c := &b.call
	if c.f == nil {
		c.f = func(fd uintptr) { c.err = b.writer.Send(fd, c.v6, c.to, c.vec, c.segment, c.ecn) }
	}
	c.v6, c.to, c.ecn = k.v6, to, b.ecn
	defer func() { c.vec = nil }()
	split := k.cuts && len(b.packets) > 1 && !k.noSplit(to)
	for i := 0; i < len(b.packets); {
		j, size := i+1, b.packets[i].size
		for total := size; split && b.packets[i].segment == 0 && j < len(b.packets) && j-i < maxSegments; j++ {
			next := b.packets[j]
			if total += next.size; next.segment > 0 || next.size > size || total > maxDatagram || b.packets[j-1].size < size ||
				next.end-b.start(i) > sys.MaxVec {
				break
			}
		}
		c.vec, c.segment = b.vec[b.start(i):b.packets[j-1].end], b.packets[i].segment
		if j > i+1 {
			c.segment = size
		}
		err := k.control(c)
		switch {
		case err == nil:
			i = j
		case b.packets[i].segment > 0 && isErrno(err, syscall.EIO, syscall.EINVAL, syscall.EMSGSIZE):
			return i, errTooBig // also kernels that know of less segments
		case c.segment > 0 && isErrno(err, syscall.EIO, syscall.EINVAL, syscall.EMSGSIZE):
			// This way out has no checksum offload, or another limit: the same packets go one by one, for a while.
			k.route(to).noSplit.Store(int64(time.Since(started) + routeLife))
			split = false
		case isErrno(err, syscall.EAGAIN, syscall.ENOBUFS):
			return i, errBusy
		case isErrno(err, syscall.EMSGSIZE):
			return i, errTooBig
		default:
			return i, err
		}
	}
	return len(b.packets), nil
}

// control makes the call, once more if all it returned was an error that the network had reported about an earlier datagram.
func (k *kernel) control(c *kernelCall) error {
	for try := 0; ; try++ {
		if err := k.raw.Control(c.f); err != nil {
			return err
		}
		if c.err == nil || try == 2 || !isErrno(c.err, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EPROTO) {
			return c.err
		}
	}
}

func (k *kernel) writePlain(to netip.AddrPort, b *batch) (int, error) {
	if k.v6 && to.Addr().Is4() {
		to = netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	}
	whole := newBlock()
	defer whole.drop()
	for i, p := range b.packets {
		n := 0
		for _, v := range b.vec[b.start(i):p.end] {
			n += copy(whole.buf[n:], v)
		}
		if _, err := k.conn.WriteToUDPAddrPort(whole.buf[:n], to); err != nil {
			if isErrno(err, syscall.EMSGSIZE) {
				err = errTooBig
			}
			return i, err
		}
	}
	return len(b.packets), nil
}

func (k *kernel) noSplit(to netip.AddrPort) bool {
	r := k.cached(to)
	if r == nil {
		return false
	}
	until := r.noSplit.Load()
	return until != 0 && int64(time.Since(started)) < until
}

func (k *kernel) cached(to netip.AddrPort) *route {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.routes[to.Addr()]
}

// route returns what is known about the way to addr, asking the kernel if that is not fresh.
func (k *kernel) route(to netip.AddrPort) *route {
	if r := k.cached(to); r != nil && time.Now().Before(r.until) {
		return r
	}
	r := &route{until: time.Now().Add(routeLife)}
	r.mtu, r.source, _ = sys.Route(to)
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.routes) >= maxRoutes {
		clear(k.routes)
	}
	k.routes[to.Addr()] = r
	return r
}

// size: on the loopback interface the MTU is the truth. Elsewhere it is only the first hop's, so what is longer than every path
// carries is probed for.
func (k *kernel) size(to netip.AddrPort) (sure, perhaps int) {
	most := min(k.route(to).mtu-28, maxDatagram)
	if to.Addr().Is6() {
		most -= 20
	}
	if most < baseDatagram {
		return minDatagram, minDatagram
	}
	if to.Addr().IsLoopback() {
		return most, most
	}
	return baseDatagram, most
}

func (k *kernel) reported(p []byte) (about []byte, err error, ok bool) {
	var errno syscall.Errno
	var n int
	if k.raw.Control(func(fd uintptr) { _, errno, n, ok = sys.UDPError(fd, p) }) != nil || !ok {
		return nil, nil, false
	}
	return p[:n], errno, true
}

// isErrno reports whether err is one of the system's error numbers.
func isErrno(err error, set ...syscall.Errno) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	for _, e := range set {
		if errno == e {
			return true
		}
	}
	return false
}
