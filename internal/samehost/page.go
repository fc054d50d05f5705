// Package samehost lets two processes of one host tell each other what has arrived without a system call or a wake-up: a
// page of memory that both have mapped holds, for every connection between them, two acknowledgement words.
//
// It is a short cut, not a channel of its own: acknowledgements are absolute and also travel in records, so a connection works
// the same without a page. That two processes are on one host is proved by handing the memory over a UNIX socket, never
// guessed from addresses (design, section 7); it works across network namespaces and containers that share a directory.
//
// Nothing read from a page is trusted: the session takes a word only as far as it makes sense.
package samehost

import (
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/sockemu/sockemu/internal/sys"
)

// Slots is how many connections one page serves. Further ones do without.
const Slots = 4096

// side is what one process writes for one connection: each word has a cache line to itself, so that the other process's
// reads of one don't suffer from writes to the other.
type side struct {
	ack  atomic.Uint64 // generation<<offBits | offset: everything before it is in this end's possession
	_    [56]byte
	want atomic.Uint64 // the same: this end waits until the other has everything before it; 0: it doesn't
	_    [56]byte
}

const (
	slotSize = 2 * int(unsafe.Sizeof(side{}))
	pageSize = Slots * slotSize
	offBits  = 48
	maxOff   = 1<<offBits - 1
)

// A Page is the shared memory of two processes. It is unmapped when neither it nor a Slot of it is in use any more.
type Page struct {
	mem []byte
}

func newPage(f *os.File) (*Page, error) {
	mem, err := sys.MapShared(f, pageSize)
	if err != nil {
		return nil, err
	}
	p := &Page{mem: mem}
	runtime.AddCleanup(p, func(mem []byte) { sys.Unmap(mem) }, mem)
	return p, nil
}

// Slot returns slot i for one end of a connection: first says which of the two, gen is the slot's generation, by which both
// ends tell their words from those of an earlier connection in the same slot.
func (p *Page) Slot(i int, gen uint16, first bool) *Slot {
	if i < 0 || i >= Slots {
		return nil
	}
	a := (*side)(unsafe.Pointer(&p.mem[i*slotSize]))
	b := (*side)(unsafe.Pointer(&p.mem[i*slotSize+slotSize/2]))
	if !first {
		a, b = b, a
	}
	return &Slot{page: p, gen: uint64(gen) << offBits, mine: a, peer: b}
}

// Slot is the place of one connection on a page, as seen from one end. It is safe for concurrent use.
type Slot struct {
	page       *Page // keeps the memory mapped
	gen        uint64
	mine, peer *side
}

// Publish says that everything before off is in this end's possession. It reports whether the other end waits for news of that.
func (s *Slot) Publish(off uint64) bool {
	if off > maxOff {
		return true
	}
	sys.Publishing()
	s.mine.ack.Store(s.gen | off)
	sys.Fence()
	want := s.peer.want.Load()
	runtime.KeepAlive(s)
	return want != 0 && want&^maxOff == s.gen && off >= want&maxOff
}

// Acked returns what the other end has published, 0 if nothing yet.
func (s *Slot) Acked() uint64 {
	v := s.peer.ack.Load()
	sys.Observed()
	runtime.KeepAlive(s)
	if v&^maxOff != s.gen {
		return 0
	}
	return v & maxOff
}

// Want asks the other end for a record as soon as it has everything before off; 0 takes that back. Look at Acked once more
// afterwards: it may have had it just before.
func (s *Slot) Want(off uint64) {
	if off != 0 && off <= maxOff {
		off |= s.gen
	} else {
		off = 0
	}
	s.mine.want.Store(off)
	sys.Fence()
	runtime.KeepAlive(s)
}
