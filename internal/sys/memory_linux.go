package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// NewMemory returns n bytes of zeroed memory outside the Go heap, at whole pages. A forked child doesn't get it: a device that writes into
// it must find the same physical pages for ever.
func NewMemory(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	unix.Madvise(b, unix.MADV_DONTFORK) // at worst a fork costs a copy
	return b, nil
}

// FreeMemory gives back what NewMemory returned. Nobody must use it any more.
func FreeMemory(b []byte) error { return os.NewSyscallError("munmap", unix.Munmap(b)) }
