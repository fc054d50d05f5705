//go:build !linux

package sys

import (
	"errors"
	"fmt"
)

// TCPInfo is known on Linux only.
func TCPInfo(uintptr) (TCPStats, error) {
	return TCPStats{}, fmt.Errorf("TCP_INFO: %w", errors.ErrUnsupported)
}

// SetTCPCongestion is known on Linux only.
func SetTCPCongestion(uintptr, string) error {
	return fmt.Errorf("TCP_CONGESTION: %w", errors.ErrUnsupported)
}

// SetSocketBuffers is known on Linux only; elsewhere net.TCPConn can set them once it is connected.
func SetSocketBuffers(uintptr, int, int) error {
	return fmt.Errorf("socket buffers before connect: %w", errors.ErrUnsupported)
}

// RecvNow is known on Linux only.
func RecvNow(uintptr, []byte) (int, error) {
	return 0, fmt.Errorf("read without blocking: %w", errors.ErrUnsupported)
}

// SocketError is known on Linux only.
func SocketError(uintptr) error {
	return fmt.Errorf("SO_ERROR: %w", errors.ErrUnsupported)
}
