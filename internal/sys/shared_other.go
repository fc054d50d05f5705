//go:build !linux

package sys

import (
	"errors"
	"net"
	"os"
)

// SharedMemory is supported on Linux only.
func SharedMemory(string, int) (*os.File, error) { return nil, errors.ErrUnsupported }

// MapShared is supported on Linux only.
func MapShared(*os.File, int) ([]byte, error) { return nil, errors.ErrUnsupported }

// Unmap is supported on Linux only.
func Unmap([]byte) error { return errors.ErrUnsupported }

// SendFile is supported on Linux only.
func SendFile(*net.UnixConn, []byte, *os.File) error { return errors.ErrUnsupported }

// RecvFile is supported on Linux only.
func RecvFile(*net.UnixConn, []byte) (*os.File, error) { return nil, errors.ErrUnsupported }

// PeerUID is supported on Linux only.
func PeerUID(*net.UnixConn) (int, error) { return 0, errors.ErrUnsupported }

// OwnedByUs is supported on Linux only.
func OwnedByUs(os.FileInfo) bool { return false }
