package verbs

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
)

// addr is an end of a rendezvous: "host:port" of TCP.
type addr string

var _ net.Addr = addr("")

func (a addr) Network() string { return name }

func (a addr) String() string { return string(a) }

func addrOf(a net.Addr) addr { return addr(a.String()) }

// ip is the address without port; the zero Addr for a name.
func (a addr) ip() netip.Addr {
	p, err := netip.ParseAddrPort(string(a))
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap()
}

// checkAddress checks the form of what is dialled or listened at.
func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return errors.New("the port of " + address + " is no number")
	}
	return nil
}
