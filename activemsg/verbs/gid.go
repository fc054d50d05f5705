package verbs

import (
	"fmt"
	"net/netip"
)

// A GID is the address of a port, as long as an IPv6 address and often one.
type GID [16]byte

// Addr returns the GID as an IP address; IPv4 addresses are mapped in RoCE and come out as such.
func (g GID) Addr() netip.Addr { return netip.AddrFrom16(g).Unmap() }

// String prints it as an IP address.
func (g GID) String() string { return g.Addr().String() }

// A GIDType says what packets of a GID look like.
type GIDType uint8

// Types of GIDs.
const (
	GIDUnknown GIDType = iota
	GIDInfiniBand
	GIDRoCEv1 // Ethernet frames: doesn't pass routers
	GIDRoCEv2 // UDP
	GIDIWARP  // says nothing: iWARP goes by IP addresses
)

// String names the type as sysfs does, as far as it can tell them apart.
func (t GIDType) String() string {
	switch t {
	case GIDInfiniBand:
		return "IB"
	case GIDRoCEv1:
		return "RoCE v1"
	case GIDRoCEv2:
		return "RoCE v2"
	case GIDIWARP:
		return "iWARP"
	}
	return "unknown type"
}

// A GIDEntry is one line of a port's table of addresses.
type GIDEntry struct {
	Index  int
	GID    GID
	Type   GIDType
	Netdev string // the network device it belongs to, if any
}

// String prints it as a line of a log.
func (e GIDEntry) String() string {
	s := fmt.Sprintf("gid %d %s (%s", e.Index, e.GID, e.Type)
	if e.Netdev != "" {
		s += ", " + e.Netdev
	}
	return s + ")"
}

// BestGID chooses from a port's addresses the one that reaches most: a routable one of IPv4, then IPv6, then the others.
func BestGID(list []GIDEntry) (best GIDEntry, ok bool) {
	score := -1
	for _, e := range list {
		n := 0
		switch a := e.GID.Addr(); {
		case e.Type == GIDRoCEv2 && a.Is4():
			n = 4
		case e.Type == GIDRoCEv2 && !a.IsLinkLocalUnicast():
			n = 3
		case e.Type == GIDRoCEv2:
			n = 2
		case e.Type == GIDInfiniBand, e.Type == GIDIWARP:
			n = 1
		}
		if n > score {
			best, score = e, n
		}
	}
	return best, score >= 0
}
