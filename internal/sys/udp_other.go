//go:build !linux

package sys

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// UDPReader is known on Linux only.
type UDPReader struct{}

// NewUDPReader is known on Linux only.
func NewUDPReader(int) (*UDPReader, error) {
	return nil, fmt.Errorf("recvmmsg: %w", errors.ErrUnsupported)
}

// Recv is known on Linux only.
func (*UDPReader) Recv(uintptr, []UDPMessage) (int, error) {
	return 0, fmt.Errorf("recvmmsg: %w", errors.ErrUnsupported)
}

// UDPWriter is known on Linux only.
type UDPWriter struct{}

// MaxVec is the number of slices that one Send takes.
const MaxVec = 1024

// Send is known on Linux only.
func (*UDPWriter) Send(uintptr, bool, netip.AddrPort, [][]byte, int, byte) error {
	return fmt.Errorf("sendmsg with many slices: %w", errors.ErrUnsupported)
}

// SetUDPOptions is known on Linux only.
func SetUDPOptions(uintptr, bool, bool) (joins, cuts bool, err error) {
	return false, false, fmt.Errorf("UDP options: %w", errors.ErrUnsupported)
}

// ForceSocketBuffers is known on Linux only.
func ForceSocketBuffers(uintptr, int) (int, error) {
	return 0, fmt.Errorf("SO_RCVBUFFORCE: %w", errors.ErrUnsupported)
}

// UDPError is known on Linux only: elsewhere there never is one.
func UDPError(uintptr, []byte) (to netip.AddrPort, errno syscall.Errno, n int, ok bool) {
	return netip.AddrPort{}, 0, 0, false
}

// Route is known on Linux only.
func Route(netip.AddrPort) (mtu int, source netip.Addr, err error) {
	return 0, netip.Addr{}, fmt.Errorf("IP_MTU: %w", errors.ErrUnsupported)
}
