//go:build !linux

package sys

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// errShared says what is missing on this system.
var errShared = fmt.Errorf("memory shared between processes: %w", errors.ErrUnsupported)

// SharedMemory is supported on Linux only.
func SharedMemory(string, int) (*os.File, error) { return nil, errShared }

// MapShared is supported on Linux only.
func MapShared(*os.File, int) ([]byte, error) { return nil, errShared }

// Unmap is supported on Linux only.
func Unmap([]byte) error { return errShared }

// SendFile is supported on Linux only.
func SendFile(*net.UnixConn, []byte, *os.File) error { return errShared }

// RecvFile is supported on Linux only.
func RecvFile(*net.UnixConn, []byte) (*os.File, error) { return nil, errShared }

// PeerUID is supported on Linux only.
func PeerUID(*net.UnixConn) (int, error) {
	return 0, fmt.Errorf("whose socket it is: %w", errors.ErrUnsupported)
}

// OwnedByUs is supported on Linux only.
func OwnedByUs(os.FileInfo) bool { return false }
