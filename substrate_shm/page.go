package shm

import (
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/sockemu/sockemu/internal/sys"
)

// line is the distance at which two words don't disturb each other: processors fetch cache lines of 64 bytes in pairs.
const line = 128

// A word64 and a word32 have a line to themselves.
type word64 struct {
	atomic.Uint64
	_ [line - 8]byte
}

type word32 struct {
	atomic.Uint32
	_ [line - 4]byte
}

// A tailWord is the sender's cursor with another word of the same writer beside it: who looks at one looks at both.
type tailWord struct {
	atomic.Uint64
	turn atomic.Uint64 // where the last lap began (ring.go)
	_    [line - 16]byte
}

// lane is what both ends share of one direction. Cursors count the bytes since the link was made; they never wrap.
type lane struct {
	tail   tailWord // the sender's: bytes before it are in the ring
	head   word64   // the receiver's: bytes before it have left the ring
	hungry word32   // not 0: the receiver sleeps until there is something. It sets it, the sender takes it away and wakes it
	full   word32   // not 0: the sender sleeps until fewer bytes than that are on their way
}

// side is what one end says of itself.
type side struct {
	gone word32 // not 0: closed in an orderly way; its tail is final
	cpu  word32 // 1 + the processor it was last seen waiting on, 0 if unknown
}

// header is the first page of the memory. Index 0 is the dialling end's, and the lane in which that end sends.
type header struct {
	lanes [2]lane
	sides [2]side
}

// headerSize is the distance of the first ring from the start of the memory.
const headerSize = 4096

var _ [headerSize - unsafe.Sizeof(header{})]byte // it fits

// memory is a mapping.
type memory struct {
	bytes []byte
	*header
	rings [2][]byte
}

// mapMemory maps a sealed file that holds two rings of size bytes.
func mapMemory(f *os.File, size int) (*memory, error) {
	b, err := sys.MapShared(f, headerSize+2*size)
	if err != nil {
		return nil, err
	}
	return &memory{
		bytes:  b,
		header: (*header)(unsafe.Pointer(&b[0])),
		rings:  [2][]byte{b[headerSize:][:size:size], b[headerSize+size:][:size:size]},
	}, nil
}
