package sys

import (
	"math/bits"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TCPInfo asks the kernel about the TCP socket fd.
func TCPInfo(fd uintptr) (TCPStats, error) {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return TCPStats{}, os.NewSyscallError("getsockopt TCP_INFO", err)
	}
	return TCPStats{
		State:        TCPState(info.State),
		RTT:          time.Duration(info.Rtt) * time.Microsecond,
		RTTVar:       time.Duration(info.Rttvar) * time.Microsecond,
		SinceAck:     time.Duration(info.Last_ack_recv) * time.Millisecond,
		Delivered:    info.Delivered,
		SegsOut:      info.Segs_out,
		Retrans:      info.Total_retrans,
		DeliveryRate: info.Delivery_rate,
		AppLimited:   appLimited(info),
	}, nil
}

// appLimited reads tcpi_delivery_rate_app_limited, which x/sys leaves out with the other bit fields: struct tcp_info has it
// as the first bit of byte 7 (include/uapi/linux/tcp.h). "First" is the lowest bit where the lowest byte comes first.
func appLimited(info *unix.TCPInfo) bool {
	b := *(*uint8)(unsafe.Add(unsafe.Pointer(info), 7))
	if one := uint16(1); *(*uint8)(unsafe.Pointer(&one)) == 0 {
		b = bits.Reverse8(b)
	}
	return b&1 != 0
}

// SetTCPCongestion selects the congestion control algorithm of the TCP socket fd: "cubic", "bbr". A name the kernel doesn't
// have is ENOENT.
func SetTCPCongestion(fd uintptr, name string) error {
	return os.NewSyscallError("setsockopt TCP_CONGESTION", unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name))
}

// SetSocketBuffers sets the sizes in bytes of the receive and the send buffer of the socket fd; 0 leaves one to the kernel. To
// have an effect on TCP's window scale it is called before the socket connects or listens.
func SetSocketBuffers(fd uintptr, read, write int) error {
	if read > 0 {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, read); err != nil {
			return os.NewSyscallError("setsockopt SO_RCVBUF", err)
		}
	}
	if write > 0 {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, write); err != nil {
			return os.NewSyscallError("setsockopt SO_SNDBUF", err)
		}
	}
	return nil
}

// RecvNow reads what the kernel already holds for the socket fd and never blocks, whatever the mode of fd and the deadlines
// that Go keeps for it. It returns 0, unix.EAGAIN when there is nothing now and 0, nil at the end of the stream. Its
// errors are bare numbers.
func RecvNow(fd uintptr, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, unix.EAGAIN // "0, nil" would say that the stream has ended
	}
	for {
		// Not unix.Recvfrom: it allocates space for an address that TCP doesn't give.
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, errAgain
		default:
			return 0, errno
		}
	}
}

// errAgain is unix.EAGAIN, made an error once: what is asked in a loop allocates nothing.
var errAgain error = unix.EAGAIN

// SocketError takes the error that waits on the socket fd (SO_ERROR), nil if none does: whoever asks next won't see it.
func SocketError(fd uintptr) error {
	n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_ERROR", err)
	}
	if n != 0 {
		return unix.Errno(n)
	}
	return nil
}
