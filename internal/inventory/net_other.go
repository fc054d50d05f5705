//go:build !linux

package inventory

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
)

// interfaces lists what the standard library knows.
func interfaces(fs.FS) ([]Interface, error) {
	list, err := net.Interfaces()
	if err != nil {
		return []Interface{}, err
	}
	all := make([]Interface, 0, len(list))
	for _, n := range list {
		i := Interface{
			Name: n.Name, Index: n.Index, MTU: n.MTU, Up: n.Flags&net.FlagUp != 0, Running: n.Flags&net.FlagRunning != 0,
			Hardware: n.HardwareAddr.String(), Addresses: []netip.Prefix{},
		}
		if n.Flags&net.FlagLoopback != 0 {
			i.Kind = "loopback"
		}
		addrs, err := n.Addrs()
		if err != nil {
			return all, err
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				i.Addresses = append(i.Addresses, p)
			}
		}
		all = append(all, i)
	}
	return all, nil
}

// routes are known on Linux only.
func routes([]Interface) ([]Route, int, error) {
	return []Route{}, 0, fmt.Errorf("routes: %w", errors.ErrUnsupported)
}

// wayTo would need the kernel's routes.
func wayTo(peer netip.Addr, _ []Interface) (way, error) {
	return way{}, fmt.Errorf("%w: the way to %v: %w", ErrNoRDMA, peer, errors.ErrUnsupported)
}
