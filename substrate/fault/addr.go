package fault

import (
	"fmt"
	"net"
	"strconv"
)

// Addr is an address on a Network: a host's name and a port.
type Addr struct {
	Host string
	Port int
}

var _ net.Addr = Addr{}

// Network returns "fault".
func (Addr) Network() string { return name }

// String returns "host:port", as Dial and Listen take it.
func (a Addr) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

func parseAddr(s string) (Addr, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Addr{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Addr{}, fmt.Errorf("port of %q: %w", s, err)
	}
	return Addr{Host: host, Port: int(n)}, nil
}
