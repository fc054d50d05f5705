package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// UDPOffload reports whether UDP sockets take UDP_SEGMENT (one system call sends many packets, Linux 4.18) and UDP_GRO (one
// receives many, Linux 5.0): udp(7).
func UDPOffload() (gso, gro bool, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, false, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	gso = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 0) == nil
	gro = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	return gso, gro, nil
}
