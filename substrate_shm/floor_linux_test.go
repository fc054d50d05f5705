package shm

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkFloor shows what of a bandwidth is the machine's: two processes on a processor each move messages through a ring by
// nothing but copies and cursors (floor), over a link, and over TCP. What the floor leaves between itself and TCP no link can
// better; what a link stays below the floor is the link's own.
func BenchmarkFloor(b *testing.B) {
	if runtime.NumCPU() < 2 {
		b.Skip("needs two processors")
	}
	for _, size := range []int{1 << 10, 8 << 10, 32 << 10, 1 << 20} {
		for _, way := range []string{"floor", name, "tcp"} {
			b.Run(fmt.Sprintf("%dB/%s", size, way), func(b *testing.B) {
				role, network := "serve", way
				if way == "floor" {
					role, network = way, name
				}
				s, _ := start(b, role, network, "1", nil)
				pin("0")
				defer pin("")
				p := make([]byte, size)
				b.SetBytes(int64(size))
				ask(b, s, task{Count: uint32(b.N), Size: uint32(size)})
				b.ResetTimer()
				if way == "floor" {
					l := s.(*linkStream).Link.(*link)
					for range b.N {
						push(l, p)
					}
				} else {
					for range b.N {
						if _, err := s.Write(p); err != nil {
							b.Fatal(err)
						}
					}
				}
				_, err := io.ReadFull(s, p[:1])
				require.NoError(b, err)
			})
		}
	}
}

// floor is the receiving process's part of BenchmarkFloor.
func floor(s stream) error {
	l := s.(*linkStream).Link.(*link)
	var t task
	if err := binary.Read(s, binary.LittleEndian, &t); err != nil {
		return err
	}
	p := make([]byte, t.Size)
	for range t.Count {
		pull(l, p)
	}
	if _, err := s.Write(p[:1]); err != nil {
		return err
	}
	io.ReadFull(s, p) // the end
	return nil
}

// push copies p into the ring, with no thought of anything but speed.
func push(l *link, p []byte) {
	r := &l.out
	for len(p) > 0 {
		k := min(len(p), piece)
		for uint64(k) > r.free() {
			r.seen = r.shared.head.Load()
		}
		r.put(p[:k])
		r.shared.tail.Store(r.tail)
		p = p[k:]
	}
}

// pull copies the next bytes out of the ring into p, likewise.
func pull(l *link, p []byte) {
	r := &l.in
	for len(p) > 0 {
		k := min(len(p), piece)
		for r.seen-r.head < uint64(k) {
			if err := r.look(); err != nil {
				panic(err)
			}
		}
		r.get(p[:k])
		r.shared.head.Store(r.head)
		p = p[k:]
	}
}
