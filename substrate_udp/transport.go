package udp

import (
	"errors"
	"net/netip"
	"sync"

	"github.com/sockemu/sockemu/internal/sys"
)

// A transport carries datagrams for one socket. Besides the kernel's there is one in memory, for tests in virtual time.
type transport interface {
	// read waits for datagrams and fills msgs from the front. It returns net.ErrClosed after close; other errors are transient. If it had
	// to wait and woken isn't nil, it calls that before it looks again.
	read(msgs []sys.UDPMessage, woken func()) (int, error)
	// poll is read without waiting: errNothing if nothing is there.
	poll(msgs []sys.UDPMessage) (int, error)
	// kick makes the present and every later read return os.ErrDeadlineExceeded at once if it has to wait; unkick ends that.
	kick()
	unkick()
	// write sends the packets of b, in order, without blocking, and returns how many were taken. errBusy: the rest may be sent a
	// moment later. errTooBig: the next one is too long for this path. Other errors are the path's.
	write(to netip.AddrPort, b *batch) (int, error)
	// size returns how long a datagram to addr may be: surely, and perhaps.
	size(to netip.AddrPort) (sure, perhaps int)
	// buffer is the number of bytes that can wait here to be read.
	buffer() int
	local() netip.AddrPort
	// source is what datagrams to addr are sent from; not valid if that isn't known.
	source(to netip.AddrPort) netip.AddrPort
	// ecn reports whether codepoints of ECN are sent, and told of what is received.
	ecn() bool
	// rows reports whether rows of datagrams (outPacket.segment) are sent in one, and received in one if nothing takes them apart.
	rows() bool
	// host is a number that all processes of this host know, and others don't; 0: there is none.
	host() uint64
	// reported returns one error that the network reported, and the beginning of the datagram that it is about.
	reported(p []byte) (about []byte, err error, ok bool)
	close() error
}

var (
	errBusy    = errors.New("socket is busy")
	errNothing = errors.New("nothing to read")
	errTooBig  = errors.New("datagram too long")
)

// Bounds of a batch: what one system call takes, about.
const (
	batchPackets = 64
	batchBytes   = 128 << 10
	batchHeaders = 16 << 10
	batchSlices  = sys.MaxVec - 64
)

// A batch is a row of packets to send. Each is a gather list: a header out of one array and slices of the stream behind it.
type batch struct {
	headers []byte
	vec     [][]byte
	packets []outPacket
	bytes   int
	ecn     byte   // the codepoint of all of them
	mem     *block // where a train was built

	writer sys.UDPWriter
	call   kernelCall
}

// An outPacket is one packet of a batch: it ends before vec[end] and is size bytes long. One with its checksum may be in one piece. A long one
// is sent as a row of datagrams of segment bytes, the last of them shorter, perhaps.
type outPacket struct {
	end, size int
	sealed    bool
	segment   int
}

var batches = sync.Pool{New: func() any {
	return &batch{headers: make([]byte, 0, batchHeaders)}
}}

func newBatch() *batch { return batches.Get().(*batch) }

func (b *batch) free() {
	clear(b.vec)
	if b.mem != nil {
		b.mem.drop()
		b.mem = nil
	}
	b.headers, b.vec, b.packets, b.bytes, b.ecn = b.headers[:0], b.vec[:0], b.packets[:0], 0, 0
	batches.Put(b)
}

// full reports whether the batch takes no further packet of any size.
func (b *batch) full() bool {
	return len(b.packets) >= batchPackets || b.bytes >= batchBytes || len(b.vec) >= batchSlices ||
		cap(b.headers)-len(b.headers) < maxHeader
}

// header returns space for a header. What is appended to it, up to maxHeader bytes, is no other packet's.
func (b *batch) header() []byte { return b.headers[len(b.headers):len(b.headers)] }

// add appends a packet whose header was built in the space of header, and whose payload has been appended to vec behind a place left
// free at index at.
func (b *batch) add(h []byte, at, payload int) {
	b.headers = b.headers[:len(b.headers)+len(h)]
	b.vec[at] = h
	o := outPacket{end: len(b.vec), size: len(h) + payload}
	if isLong(h) {
		o.segment = segmentOf(o.size)
	}
	b.packets = append(b.packets, o)
	b.bytes += len(h) + payload
}

// start is the index in vec of packet i's header.
func (b *batch) start(i int) int {
	if i == 0 {
		return 0
	}
	return b.packets[i-1].end
}

// seal writes the checksums.
func (b *batch) seal() {
	for i, p := range b.packets {
		if p.sealed {
			continue
		}
		at := b.start(i)
		seal(b.vec[at], b.vec[at+1:p.end])
	}
}
