package sys

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// TUN makes a network interface whose packets a program reads and writes, one IP packet a call (Linux's
// Documentation/networking/tuntap), in the network namespace of the calling thread. It gets the address and the
// prefix of its network, IPv4 only, and is switched on. Closing the file removes it. No offloads are asked for: no packet is
// larger than mtu, and checksums are complete. It needs CAP_NET_ADMIN.
func TUN(name string, prefix netip.Prefix, mtu int) (*os.File, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make the interface %s: %w", name, os.NewSyscallError("ioctl TUNSETIFF", err))
	}
	f := os.NewFile(uintptr(fd), name) // not before: the poller can't watch it until it is an interface
	if err := configure(name, prefix, mtu); err != nil {
		f.Close()
		return nil, fmt.Errorf("configure the interface %s: %w", name, err)
	}
	return f, nil
}

// tunQueue is the number of packets that wait for the program to read them; the kernel's 500 are a 30th of a second at 200 Mb/s.
const tunQueue = 10_000

// configure gives the interface its address, MTU and queue, and switches it on (netdevice(7)).
func configure(name string, prefix netip.Prefix, mtu int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	mask := netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), prefix.Bits()).Masked().Addr().As4()
	addr := prefix.Addr().As4()
	for _, step := range []struct {
		what string
		call uint
		set  func(*unix.Ifreq) error
	}{
		{"address", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr[:]) }},
		{"netmask", unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(mask[:]) }},
		{"MTU", unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(uint32(mtu)); return nil }},
		{"queue length", unix.SIOCSIFTXQLEN, func(r *unix.Ifreq) error { r.SetUint32(tunQueue); return nil }},
	} {
		if err := ifreq(fd, name, step.call, step.set); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return switchOn(fd, name)
}

func switchOn(fd int, name string) error {
	err := ifreq(fd, name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error {
		r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		return nil
	})
	if err != nil {
		return fmt.Errorf("switch %s on: %w", name, err)
	}
	return nil
}

func ifreq(fd int, name string, call uint, set func(*unix.Ifreq) error) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := set(r); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, call, r)
}
