//go:build linux

package host

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// PickCongestion returns the congestion control to pin: name if this process may use it; if name is empty, cubic where it
// can be had, else reno, which every kernel has.
func PickCongestion(name string) (string, error) {
	if name != "" {
		return name, tryCongestion(name)
	}
	if tryCongestion("cubic") == nil {
		return "cubic", nil
	}
	return "reno", tryCongestion("reno")
}

// DefaultCongestion returns what new TCP sockets of this process use.
func DefaultCongestion() (string, error) {
	var name string
	err := withSocket(func(fd int) (err error) {
		name, err = unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		return err
	})
	return name, err
}

// tryCongestion reports why name can't be used: the kernel may lack it, or reserve it to the administrator.
func tryCongestion(name string) error {
	return withSocket(func(fd int) error { return setCongestion(fd, name) })
}

func withSocket(fn func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a TCP socket: %w", err)
	}
	return errors.Join(fn(fd), unix.Close(fd))
}

func setCongestion(fd int, name string) error {
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name); err != nil {
		return fmt.Errorf("set congestion control %q: %w", name, err)
	}
	return nil
}

// ControlCongestion returns a function for net.Dialer.Control and net.ListenConfig.Control that pins the congestion
// control before the socket is used. Accepted sockets inherit it.
func ControlCongestion(name string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = setCongestion(int(fd), name) }); e != nil {
			return e
		}
		return err
	}
}

// EnforceCongestion finds the TCP sockets of this process that run another congestion control than name, switches them,
// and returns how many of them were connections. A switched socket isn't quite a fresh one: pacing that the old control
// asked for stays on.
func EnforceCongestion(name string) (switched int, err error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, fmt.Errorf("list the open files: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// Whatever isn't a TCP socket has no such option.
		have, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		if err != nil || have == name {
			continue
		}
		if err := setCongestion(fd, name); err != nil {
			return switched, err
		}
		if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && listens == 0 {
			switched++
		}
	}
	return switched, nil
}
