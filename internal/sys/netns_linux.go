package sys

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// NewNetNS makes a network namespace in which only the loopback interface exists, switched on. It has no name: it lives as long as
// the file is open, or a process runs in it, or a socket of it is open. It needs CAP_SYS_ADMIN.
func NewNetNS() (*os.File, error) {
	var ns *os.File
	err := elsewhere(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", os.NewSyscallError("unshare", err))
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		if err := switchOn(fd, "lo"); err != nil {
			return err
		}
		// Else interfaces say hello in IPv6 by themselves, and what is counted isn't what programs sent. A kernel without IPv6 lacks
		// the file.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil && !os.IsNotExist(err) {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// InNetNS calls fn in the network namespace ns: sockets and interfaces that fn makes, and processes that it starts, are there, and
// stay there. It doesn't hold for goroutines that fn starts. It needs CAP_SYS_ADMIN.
func InNetNS(ns *os.File, fn func() error) error {
	return elsewhere(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", os.NewSyscallError("setns", err))
		}
		return fn()
	})
}

// elsewhere calls fn on a thread of its own and gives the thread its network namespace back; one that can't be put back is not used again.
func elsewhere(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err == nil {
			err = fn()
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread() // else the thread ends with this goroutine
			}
			home.Close()
		}
		done <- err
	}()
	return <-done
}
