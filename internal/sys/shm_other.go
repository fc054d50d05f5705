//go:build !linux

package sys

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// NewEvent is supported on Linux only.
func NewEvent() (int, error) { return -1, fmt.Errorf("eventfd: %w", errors.ErrUnsupported) }

// PollEvent is supported on Linux only.
func PollEvent(int) *os.File { return nil }

// Signal is supported on Linux only.
func Signal(int) {}

// CloseFD is supported on Linux only.
func CloseFD(int) error { return errShared }

// CPU is supported on Linux only.
func CPU() int { return -1 }

// Yield does nothing but on Linux.
func Yield() {}

// SendFDs is supported on Linux only.
func SendFDs(*net.UnixConn, []byte, ...int) error { return errShared }

// RecvFDs is supported on Linux only.
func RecvFDs(*net.UnixConn, []byte, []int) error { return errShared }

// IsEvent is supported on Linux only.
func IsEvent(int) bool { return false }

// PeerProcess is supported on Linux only.
func PeerProcess(*net.UnixConn) (pid, uid int, err error) {
	return 0, 0, fmt.Errorf("whose socket it is: %w", errors.ErrUnsupported)
}

// Hangups is supported on Linux only.
type Hangups struct{}

// NewHangups is supported on Linux only.
func NewHangups() (*Hangups, error) { return nil, fmt.Errorf("epoll: %w", errors.ErrUnsupported) }

// Add is supported on Linux only.
func (h *Hangups) Add(*net.UnixConn, int32) error { return errShared }

// Wait is supported on Linux only.
func (h *Hangups) Wait(func(id int32)) {}

// Close is supported on Linux only.
func (h *Hangups) Close() error { return errShared }
