package sys

import (
	"encoding/binary"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ecnBits are the part of a traffic class that is ECN's.
const ecnBits = 3

// ReceiveUDPECN makes the UDP socket fd tell the codepoint of what it receives: in UDPMessage.ECN, and to UDPECN.
//
// Kernels before 6.10 may join packets of different codepoints (UDP_GRO) and tell the first one's. They report the right number of packets
// that are capable of ECN, and about the right number of marks.
func ReceiveUDPECN(fd uintptr, v6 bool) error {
	if v6 {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1); err != nil {
			return os.NewSyscallError("setsockopt IPV6_RECVTCLASS", err)
		}
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1) // for IPv4 over the same socket; one of IPv6 alone may refuse
		return nil
	}
	return os.NewSyscallError("setsockopt IP_RECVTOS", unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1))
}

// UDPECN returns the codepoint in the control messages that came with a datagram; NotECT if there is none.
func UDPECN(ctl []byte) byte {
	_, ecn := parseUDPControl(ctl, 0)
	return ecn
}

// AppendUDPECN appends the control message that sends a datagram to an address with a codepoint.
func AppendUDPECN(ctl []byte, to netip.Addr, ecn byte) []byte {
	at := len(ctl)
	ctl = append(ctl, make([]byte, unix.CmsgSpace(4))...)
	putECN(ctl[at:], to.Is6() && !to.Is4In6(), ecn)
	return ctl
}

// putECN fills a control message of 4 bytes of data. Packets to an IPv4 address are the first kind's also on an IPv6 socket.
func putECN(ctl []byte, v6 bool, ecn byte) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&ctl[0]))
	h.Level, h.Type = unix.SOL_IP, unix.IP_TOS
	if v6 {
		h.Level, h.Type = unix.SOL_IPV6, unix.IPV6_TCLASS
	}
	h.SetLen(unix.CmsgLen(4))
	binary.NativeEndian.PutUint32(ctl[unix.SizeofCmsghdr:], uint32(ecn&ecnBits))
}

// parseUDPControl finds the size that UDP_GRO reports, or n, and the codepoint of ECN.
func parseUDPControl(ctl []byte, n int) (segment int, ecn byte) {
	const head = unix.SizeofCmsghdr
	segment = n
	for len(ctl) >= head {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&ctl[0]))
		size := int(h.Len)
		if size < head || size > len(ctl) {
			break
		}
		data := ctl[head:size]
		switch {
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 2:
			if s := int(binary.NativeEndian.Uint16(data)); s > 0 {
				segment = s
			}
		case h.Level == unix.SOL_IP && h.Type == unix.IP_TOS && len(data) >= 1:
			ecn = data[0] & ecnBits
		case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_TCLASS && len(data) >= 4:
			ecn = byte(binary.NativeEndian.Uint32(data)) & ecnBits
		}
		ctl = ctl[min(len(ctl), unix.CmsgSpace(size-head)):]
	}
	return segment, ecn
}
