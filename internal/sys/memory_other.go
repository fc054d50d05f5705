//go:build !linux

package sys

// NewMemory returns n bytes of zeroed memory. Here it is of the Go heap, which is good enough where no device uses it.
func NewMemory(n int) ([]byte, error) { return make([]byte, n), nil }

// FreeMemory gives back what NewMemory returned.
func FreeMemory([]byte) error { return nil }
