package sys

import (
	"encoding/binary"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sizeofInet4 = uint32(unsafe.Sizeof(unix.RawSockaddrInet4{}))
	sizeofInet6 = uint32(unsafe.Sizeof(unix.RawSockaddrInet6{}))
	udpControl  = 64 // bytes of control messages per datagram: two are expected, UDP_GRO's and the traffic class, of 24 each
)

// mmsghdr is struct mmsghdr of recvmmsg(2). The compiler pads it as C's does: on 64-bit systems only.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// A UDPReader receives datagrams in batches (recvmmsg(2)). It is for one goroutine.
type UDPReader struct {
	hdrs  []mmsghdr
	iovs  [][3]unix.Iovec
	names []unix.RawSockaddrInet6
	ctl   [][udpControl]byte
}

// NewUDPReader returns a reader of up to n datagrams at once.
func NewUDPReader(n int) (*UDPReader, error) {
	r := &UDPReader{
		hdrs:  make([]mmsghdr, n),
		iovs:  make([][3]unix.Iovec, n),
		names: make([]unix.RawSockaddrInet6, n),
		ctl:   make([][udpControl]byte, n),
	}
	for i := range r.hdrs {
		h := &r.hdrs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Iov = &r.iovs[i][0]
		h.Control = &r.ctl[i][0]
	}
	return r, nil
}

// Recv receives what there is on the socket fd, at most len(msgs) datagrams, without blocking. Its errors are bare numbers.
func (r *UDPReader) Recv(fd uintptr, msgs []UDPMessage) (int, error) {
	n := min(len(msgs), len(r.hdrs))
	for i := range msgs[:n] {
		h := &r.hdrs[i].hdr
		parts := 0
		for _, b := range [...][]byte{msgs[i].Head, msgs[i].Body, msgs[i].Buf} {
			if len(b) > 0 {
				r.iovs[i][parts].Base = &b[0]
				r.iovs[i][parts].SetLen(len(b))
				parts++
			}
		}
		h.SetIovlen(parts)
		h.Namelen = sizeofInet6
		h.SetControllen(udpControl)
	}
	for {
		// The call doesn't wait and copies a few blocks at most, so the scheduler needn't hear of it: that would cost as much as the
		// call itself.
		got, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.hdrs[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
		runtime.KeepAlive(msgs)
		if errno == unix.EINTR {
			continue
		}
		clear(r.iovs[:n]) // no memory of the caller's is kept alive
		switch errno {
		case 0:
			n = int(got)
		case unix.EAGAIN:
			return 0, errAgain
		default:
			return 0, errno
		}
		break
	}
	for i := range msgs[:n] {
		h := &r.hdrs[i]
		m := &msgs[i]
		m.N = min(int(h.n), len(m.Head)+len(m.Body)+len(m.Buf))
		m.Segment, m.ECN = parseUDPControl(r.ctl[i][:min(int(h.hdr.Controllen), udpControl)], m.N)
		m.From = addrPort(&r.names[i])
		m.Truncated = h.hdr.Flags&unix.MSG_TRUNC != 0
	}
	return n, nil
}

func addrPort(sa *unix.RawSockaddrInet6) netip.AddrPort {
	switch sa.Family {
	case unix.AF_INET:
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), swap16(v4.Port))
	case unix.AF_INET6:
		a := netip.AddrFrom16(sa.Addr).Unmap()
		if a.Is6() && sa.Scope_id != 0 && a.IsLinkLocalUnicast() {
			a = a.WithZone(zoneName(sa.Scope_id))
		}
		return netip.AddrPortFrom(a, swap16(sa.Port))
	}
	return netip.AddrPort{}
}

// swap16 turns a port from network to host order or back.
func swap16(p uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], p)
	return binary.BigEndian.Uint16(b[:])
}

// A UDPWriter sends datagrams gathered from many slices (sendmsg(2)). It is for one goroutine at a time.
type UDPWriter struct {
	iovs []unix.Iovec
	name unix.RawSockaddrInet6
	ctl  [2 * (unix.SizeofCmsghdr + 8)]byte // UDP_SEGMENT, and the traffic class
	hdr  unix.Msghdr
}

// MaxVec is the number of slices that one Send takes (IOV_MAX).
const MaxVec = 1024

// Send sends the bytes of vec to addr without blocking; v6 says that fd is an IPv6 socket. If segment is not 0 the kernel cuts them
// into datagrams of that size (UDP_SEGMENT), else they are one. All carry the codepoint ecn. Its errors are bare numbers.
func (w *UDPWriter) Send(fd uintptr, v6 bool, addr netip.AddrPort, vec [][]byte, segment int, ecn byte) error {
	w.iovs = w.iovs[:0]
	for _, b := range vec {
		if len(b) == 0 {
			continue
		}
		if n := len(w.iovs); n > 0 {
			if last := &w.iovs[n-1]; uintptr(unsafe.Pointer(last.Base))+uintptr(last.Len) == uintptr(unsafe.Pointer(&b[0])) {
				last.SetLen(int(last.Len) + len(b)) // adjacent slices are one
				continue
			}
		}
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		w.iovs = append(w.iovs, v)
	}
	if len(w.iovs) == 0 || len(w.iovs) > MaxVec {
		return unix.EINVAL
	}
	h := &w.hdr
	*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&w.name)), Namelen: w.setName(v6, addr), Iov: &w.iovs[0]}
	h.SetIovlen(len(w.iovs))
	control := 0
	if segment > 0 {
		c := (*unix.Cmsghdr)(unsafe.Pointer(&w.ctl[0]))
		c.Level, c.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		c.SetLen(unix.CmsgLen(2))
		binary.NativeEndian.PutUint16(w.ctl[unix.SizeofCmsghdr:], uint16(segment))
		control = unix.CmsgSpace(2)
	}
	if ecn != NotECT {
		putECN(w.ctl[control:], v6 && addr.Addr().Is6() && !addr.Addr().Is4In6(), ecn)
		control += unix.CmsgSpace(4)
	}
	if control > 0 {
		h.Control = &w.ctl[0]
		h.SetControllen(control)
	}
	var err error
	for {
		// As in Recv: at most 64 KiB are copied, and nothing is waited for.
		_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errno == unix.EINTR {
			continue
		}
		if errno == unix.EAGAIN {
			err = errAgain
		} else if errno != 0 {
			err = errno
		}
		break
	}
	runtime.KeepAlive(vec)
	clear(w.iovs) // no memory of the caller's is kept alive
	return err
}

func (w *UDPWriter) setName(v6 bool, addr netip.AddrPort) uint32 {
	if !v6 {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&w.name))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: swap16(addr.Port())}
		if a := addr.Addr().Unmap(); a.Is4() {
			sa.Addr = a.As4()
		}
		return sizeofInet4
	}
	w.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: swap16(addr.Port()), Addr: addr.Addr().As16()}
	if z := addr.Addr().Zone(); z != "" {
		w.name.Scope_id = zoneIndex(z)
	}
	return sizeofInet6
}

// SetUDPOptions prepares the UDP socket fd: datagrams are never fragmented, errors that the network reports (ICMP) are kept
// for UDPError, and datagrams of one sender are joined if gro is true. It returns whether the kernel joins and whether it cuts.
func SetUDPOptions(fd uintptr, v6, gro bool) (joins, cuts bool, err error) {
	if v6 {
		// What the IPv6 options say doesn't hold for IPv4 over the same socket. A socket of IPv6 alone may refuse the second pair.
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
		if err == nil {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		}
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	} else {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		if err == nil {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		}
	}
	if err != nil {
		return false, false, os.NewSyscallError("setsockopt", err)
	}
	joins = gro && unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	_, segErr := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	return joins, segErr == nil, nil
}

// ForceSocketBuffers sets the buffers of fd beyond the system's limits if this process may, else up to them. It returns the size of the
// receive buffer in bytes of the kernel's own accounting: an empty datagram takes about 768 of them.
func ForceSocketBuffers(fd uintptr, size int) (int, error) {
	for _, opt := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, opt[0], size) != nil {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, opt[1], size)
		}
	}
	n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	return n, os.NewSyscallError("getsockopt SO_RCVBUF", err)
}

// UDPError takes one error that the network reported for a datagram that fd had sent: to where, what, and the beginning of what
// was sent, in p. It returns false when there is none.
func UDPError(fd uintptr, p []byte) (to netip.AddrPort, errno syscall.Errno, n int, ok bool) {
	var name unix.RawSockaddrInet6
	var ctl [256]byte
	iov := unix.Iovec{Base: &p[0]}
	iov.SetLen(len(p))
	h := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&name)), Namelen: sizeofInet6, Iov: &iov, Control: &ctl[0]}
	h.SetIovlen(1)
	h.SetControllen(len(ctl))
	got, _, e := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&h)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if e != 0 {
		return netip.AddrPort{}, 0, 0, false
	}
	msgs, _ := unix.ParseSocketControlMessage(ctl[:min(int(h.Controllen), len(ctl))])
	for _, m := range msgs {
		v4 := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if (v4 || v6) && len(m.Data) >= 4 {
			errno = syscall.Errno(binary.NativeEndian.Uint32(m.Data)) // ee_errno of struct sock_extended_err
		}
	}
	return addrPort(&name), errno, min(int(got), len(p)), true
}

// Route asks the kernel for the route to addr: its MTU in bytes of a whole IP packet, and the address that it sends from.
func Route(addr netip.AddrPort) (mtu int, source netip.Addr, err error) {
	family, level, opt := unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU
	var sa unix.Sockaddr
	if a := addr.Addr().Unmap(); a.Is4() {
		family, level, opt = unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU
		sa = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: a.As4()}
	} else {
		sa = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: a.As16(), ZoneId: zoneIndex(a.Zone())}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, netip.Addr{}, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != nil {
		return 0, netip.Addr{}, os.NewSyscallError("connect", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, netip.Addr{}, os.NewSyscallError("getsockname", err)
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		source = netip.AddrFrom4(name.Addr)
	case *unix.SockaddrInet6:
		source = netip.AddrFrom16(name.Addr)
	}
	mtu, err = unix.GetsockoptInt(fd, level, opt)
	return mtu, source, os.NewSyscallError("getsockopt MTU", err)
}
