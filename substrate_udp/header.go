package udp

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"
)

// The wire format is described bit by bit in the documentation of the package.

const version = 1

type kind byte

const (
	kindInit kind = iota + 1
	kindRetry
	kindAccept
	kindRefuse
	kindPacket
	kindGone
	kindLong
)

// Flags of a kindPacket.
const (
	flagData = 1 << iota
	flagFin
	flagAck
	flagAckNow
	flagChallenge
	flagResponse
	flagReset
	flagPad
)

const (
	headerLen = 16
	initLen   = 1200 // an INIT is padded to it, so that no answer is larger than what it answers
	initBody  = headerLen + 16 + cookieLen
	retryLen  = headerLen + cookieLen
	acceptLen = headerLen + 16
	capsLen   = 4             // what an end can do, in an INIT behind initBody, and behind an ACCEPT
	packetLen = headerLen + 8 // a packet without any block
	dataLen   = 8             // the block before the payload
	ackLen    = 28            // an ACK block without further ranges
	rangesAt  = 22            // where it has their number
	rangeLen  = 8
	maxRanges = 64 // further ranges in one ACK block

	// maxHeader is the longest header of a packet with payload.
	maxHeader = packetLen + ackLen + marksLen + maxRanges*rangeLen + 16 + dataLen
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros      [4]byte

	errShort    = errors.New("datagram too short")
	errVersion  = errors.New("unknown version or kind")
	errChecksum = errors.New("wrong checksum")
	errFormat   = errors.New("malformed packet")
)

// putHeader appends the common header with a checksum of zero.
func putHeader(b []byte, k kind, flags byte, cid uint64) []byte {
	b = append(b, version<<4|byte(k), flags, 0, 0, 0, 0, 0, 0)
	return binary.LittleEndian.AppendUint64(b, cid)
}

// seal writes the checksum of b, and of the slices behind it unless b says that they have none, into b's header, where there is zero.
func seal(b []byte, rest [][]byte) {
	sum := crc32.Update(0, castagnoli, b)
	if b[coverAt] == 0 {
		for _, r := range rest {
			sum = crc32.Update(sum, castagnoli, r)
		}
	}
	binary.LittleEndian.PutUint32(b[4:], sum)
}

// coverAt is where a PACKET says how much of it the checksum covers, in units of coverUnit; 0: all.
const (
	cpuAt     = 2 // where it tells a processor, see local
	coverAt   = 3
	coverUnit = 4
)

// uncover makes the checksum of the packet whose header is h leave out the payload behind it. The lengths of all blocks are multiples of
// the unit.
func uncover(h []byte) { h[coverAt] = byte(len(h) / coverUnit) }

// unseal checks what all datagrams have in common: length, version, checksum.
func unseal(b []byte) (k kind, cid uint64, err error) {
	if len(b) < headerLen {
		return 0, 0, errShort
	}
	k = kind(b[0] & 15)
	if b[0]>>4 != version || k < kindInit || k > kindLong {
		return 0, 0, errVersion
	}
	covered := b
	if b[coverAt] != 0 || k == kindLong {
		n := int(b[coverAt]) * coverUnit
		if k != kindPacket && k != kindLong || n < packetLen || n > len(b) {
			return 0, 0, errFormat
		}
		covered = b[:n]
	}
	sum := crc32.Update(0, castagnoli, b[:4])
	sum = crc32.Update(sum, castagnoli, zeros[:])
	if crc32.Update(sum, castagnoli, covered[8:]) != binary.LittleEndian.Uint32(b[4:]) {
		return 0, 0, errChecksum
	}
	return k, binary.LittleEndian.Uint64(b[8:]), nil
}

// A packet is a kindPacket or kindLong taken apart. Its slices point into the datagram.
type packet struct {
	flags     byte
	num       uint64
	ack       ack
	challenge uint64
	response  uint64
	off       uint64
	data      []byte
	cpu       byte
	bare      bool // the checksum doesn't cover data
	ecn       byte // the codepoint that it came with
	head      int  // the length of all before data
	row       int  // of a kindLong: the length of the packet
}

// eliciting reports whether the peer must acknowledge a packet of these flags.
func eliciting(flags byte) bool { return flags&(flagData|flagFin|flagAckNow|flagPad) != 0 }

// An ack is an ACK block.
type ack struct {
	largest uint64 // the highest packet number received
	next    uint64 // all bytes of the stream before it have been received
	window  uint32 // how many bytes from next on the peer may send
	delay   time.Duration
	first   uint32 // packets received in a row before largest
	more    []byte // further ranges, undecoded
	marks   marks  // packets received by codepoint of ECN; all 0 if it doesn't say
}

// ackUnit is the unit of the delay in an ACK block.
const ackUnit = 8 * time.Microsecond

// parsePacket takes apart what unseal took for a kindPacket or kindLong.
func parsePacket(b []byte, p *packet) error {
	rest, err := parseBlocks(b, p)
	switch {
	case err != nil:
		return err
	case p.row != 0 && p.row != len(b):
		return errFormat
	case p.flags&flagPad != 0:
		if p.flags&(flagData|flagFin) != 0 {
			return errFormat
		}
	case p.flags&flagData != 0:
		if len(rest) == 0 || p.off+uint64(len(rest)) < p.off {
			return errFormat
		}
		p.data = rest
	case len(rest) != 0:
		return errFormat
	}
	return nil
}

// parseBlocks takes apart what precedes the payload, and returns that.
func parseBlocks(b []byte, p *packet) (rest []byte, err error) {
	if len(b) < packetLen {
		return nil, errShort
	}
	*p = packet{flags: b[1], num: binary.LittleEndian.Uint64(b[headerLen:]), cpu: b[cpuAt], bare: b[coverAt] != 0}
	if kind(b[0]&15) == kindLong {
		p.row = int(p.num >> longNumBits)
		p.num &= 1<<longNumBits - 1
		if !p.bare || p.row <= packetLen {
			return nil, errFormat
		}
	}
	all, covered := len(b), int(b[coverAt])*coverUnit
	b = b[packetLen:]
	if p.flags&flagAck != 0 {
		rest, err := parseAck(b, &p.ack)
		if err != nil {
			return nil, err
		}
		b = rest
	}
	for _, block := range [...]struct {
		flag byte
		to   *uint64
	}{{flagChallenge, &p.challenge}, {flagResponse, &p.response}, {flagData | flagFin, &p.off}} {
		if p.flags&block.flag != 0 {
			if len(b) < 8 {
				return nil, errShort
			}
			*block.to = binary.LittleEndian.Uint64(b)
			b = b[8:]
		}
	}
	if p.bare && covered != all-len(b) {
		return nil, errFormat
	}
	p.head = all - len(b)
	return b, nil
}

func parseAck(b []byte, a *ack) (rest []byte, err error) {
	if len(b) < ackLen {
		return nil, errShort
	}
	*a = ack{
		largest: binary.LittleEndian.Uint64(b),
		next:    binary.LittleEndian.Uint64(b[8:]),
		window:  binary.LittleEndian.Uint32(b[16:]),
		delay:   time.Duration(binary.LittleEndian.Uint16(b[20:])) * ackUnit,
		first:   binary.LittleEndian.Uint32(b[24:]),
	}
	n := int(binary.LittleEndian.Uint16(b[rangesAt:]))
	b = b[ackLen:]
	if n&rangesMarked != 0 {
		n &^= rangesMarked
		if b, err = parseMarks(b, &a.marks); err != nil {
			return nil, err
		}
	}
	if n > maxRanges || len(b) < n*rangeLen {
		return nil, errFormat
	}
	a.more = b[:n*rangeLen]
	// Walking the ranges here, once, spares every user the checks.
	if uint64(a.first) > a.largest {
		return nil, errFormat
	}
	low := a.largest - uint64(a.first)
	for m := a.more; len(m) > 0; m = m[rangeLen:] {
		gap, size := uint64(binary.LittleEndian.Uint32(m)), uint64(binary.LittleEndian.Uint32(m[4:]))
		if gap == 0 || size == 0 || gap+size > low {
			return nil, errFormat
		}
		low -= gap + size
	}
	return b[n*rangeLen:], nil
}

// each calls f with each range of packet numbers [lo, hi), the highest first, until f returns false.
func (a *ack) each(f func(lo, hi uint64) bool) {
	low := a.largest - uint64(a.first)
	if !f(low, a.largest+1) {
		return
	}
	for m := a.more; len(m) > 0; m = m[rangeLen:] {
		hi := low - uint64(binary.LittleEndian.Uint32(m))
		low = hi - uint64(binary.LittleEndian.Uint32(m[4:]))
		if !f(low, hi) {
			return
		}
	}
}

// putAck appends an ACK block for the packet numbers in got, as many of the highest ranges as fit into room bytes.
func putAck(b []byte, got spans, next uint64, window uint32, delay time.Duration, room int) []byte {
	last := got[len(got)-1]
	n := max(0, min(len(got)-1, maxRanges, (room-ackLen)/rangeLen))
	b = binary.LittleEndian.AppendUint64(b, last.hi-1)
	b = binary.LittleEndian.AppendUint64(b, next)
	b = binary.LittleEndian.AppendUint32(b, window)
	b = binary.LittleEndian.AppendUint16(b, uint16(min(max(delay, 0)/ackUnit, 0xffff)))
	at := len(b)
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(min(last.hi-1-last.lo, 1<<32-1)))
	if last.hi-1-last.lo > 1<<32-1 {
		n = 0 // what is further down is long settled
	}
	low, count := last.lo, 0
	for i := len(got) - 2; count < n; i-- {
		s := got[i]
		if low-s.hi > 1<<32-1 || s.hi-s.lo > 1<<32-1 {
			break
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(low-s.hi))
		b = binary.LittleEndian.AppendUint32(b, uint32(s.hi-s.lo))
		low = s.lo
		count++
	}
	binary.LittleEndian.PutUint16(b[at:], uint16(count))
	return b
}
