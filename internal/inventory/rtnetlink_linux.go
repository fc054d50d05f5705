package inventory

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
)

// Numbers of rtnetlink(7); include/uapi/linux: rtnetlink.h, if_link.h, if_addr.h, if.h.
const (
	routeFamily = 0 // NETLINK_ROUTE

	newLink, delLink, getLink    = 16, 17, 18 // RTM_*
	newAddr, delAddr, getAddr    = 20, 21, 22
	newRoute, delRoute, getRoute = 24, 25, 26

	linkHeader, addrHeader, routeHeader = 16, 8, 12 // sizes of ifinfomsg, ifaddrmsg, rtmsg
	hopHeader                           = 8         // and of rtnexthop

	flagUp, flagLoopback, flagRunning = 1 << 0, 1 << 3, 1 << 6 // IFF_*

	linkAddress, linkName, linkMTU, linkMaster, linkInfo = 1, 3, 4, 10, 18 // IFLA_*
	linkInfoKind                                         = 1               // IFLA_INFO_KIND

	addrAddress, addrLocal = 1, 2        // IFA_*
	addrUnusable           = 0x40 | 0x08 // IFA_F_TENTATIVE, IFA_F_DADFAILED: duplicate address detection isn't over, or found one

	routeDst, routeOut, routeGateway, routeMetric, routeSource, routeMultipath, routeTable, routeVia = 1, 4, 5, 6, 7, 9, 15, 18 // RTA_*

	tableMain   = 254
	routeLocal  = 2     // RTN_LOCAL: to this host itself
	routeCloned = 0x200 // RTM_F_CLONED: from the cache

	familyIPv4, familyIPv6 = 2, 10
)

// routeTypes are the RTN_* that say where packets go or don't; the others are the host's own addresses.
var routeTypes = map[byte]string{1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw", 10: "nat"}

// dumpTimeout bounds a question to the kernel, which answers without waiting for anything.
const dumpTimeout = 2 * time.Second

// A link is what a link message says.
type link struct {
	index, master int
	name, kind    string
	mtu           int
	flags         uint32
	hardwareType  uint16
	hardware      net.HardwareAddr
}

func (l link) up() bool      { return l.flags&flagUp != 0 }
func (l link) running() bool { return l.flags&flagRunning != 0 }

// An address is what an address message says.
type address struct {
	index  int
	prefix netip.Prefix
	usable bool
}

// A hop is one way of a route.
type hop struct {
	gateway netip.Addr
	index   int
}

// A route is what a route message says.
type route struct {
	dst    netip.Prefix
	kind   string
	metric uint32
	source netip.Addr
	hops   []hop
}

// attributes calls fn for each attribute in b.
func attributes(b []byte, fn func(typ uint16, ad *netlink.AttributeDecoder)) error {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return err
	}
	for ad.Next() {
		fn(ad.Type(), ad)
	}
	return ad.Err()
}

func short(what string, b []byte) error { return fmt.Errorf("%s message of %d bytes", what, len(b)) }

func decodeLink(b []byte) (link, error) {
	if len(b) < linkHeader {
		return link{}, short("link", b)
	}
	l := link{hardwareType: binary.NativeEndian.Uint16(b[2:4]), index: int(int32(binary.NativeEndian.Uint32(b[4:8]))), flags: binary.NativeEndian.Uint32(b[8:12])}
	err := attributes(b[linkHeader:], func(typ uint16, ad *netlink.AttributeDecoder) {
		switch typ {
		case linkAddress:
			l.hardware = ad.Bytes()
		case linkName:
			l.name = ad.String()
		case linkMTU:
			l.mtu = int(ad.Uint32())
		case linkMaster:
			l.master = int(ad.Uint32())
		case linkInfo:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					if ad.Type() == linkInfoKind {
						l.kind = ad.String()
					}
				}
				return nil
			})
		}
	})
	if l.kind == "" {
		switch {
		case l.flags&flagLoopback != 0:
			l.kind = "loopback"
		case l.hardwareType == hardwareEthernet:
			l.kind = "ethernet"
		case l.hardwareType == hardwareInfiniBand:
			l.kind = "infiniband"
		}
	}
	return l, err
}

func decodeAddress(b []byte) (address, error) {
	if len(b) < addrHeader {
		return address{}, short("address", b)
	}
	a := address{index: int(binary.NativeEndian.Uint32(b[4:8])), usable: b[2]&addrUnusable == 0}
	var ip netip.Addr
	var local bool
	err := attributes(b[addrHeader:], func(typ uint16, ad *netlink.AttributeDecoder) {
		switch typ {
		case addrAddress: // of the other end, if it is a point-to-point interface that also has a local one
			if !local {
				ip, _ = netip.AddrFromSlice(ad.Bytes())
			}
		case addrLocal:
			ip, _ = netip.AddrFromSlice(ad.Bytes())
			local = true
		}
	})
	if err != nil {
		return address{}, err
	}
	a.prefix = netip.PrefixFrom(ip, int(b[1]))
	if !a.prefix.IsValid() {
		return address{}, fmt.Errorf("address message without a valid address")
	}
	return a, nil
}

// decodeRoute returns false for a route that isn't one of the main table that says where packets go.
func decodeRoute(b []byte) (route, bool, error) {
	r, table, err := decodeAnyRoute(b)
	if err != nil || table != tableMain || routeTypes[b[7]] == "" || binary.NativeEndian.Uint32(b[8:12])&routeCloned != 0 {
		return route{}, false, err
	}
	return r, r.dst.IsValid(), nil
}

// decodeAnyRoute also returns the route's table.
func decodeAnyRoute(b []byte) (r route, table uint32, err error) {
	if len(b) < routeHeader {
		return route{}, 0, short("route", b)
	}
	r, table = route{kind: routeTypes[b[7]]}, uint32(b[4])
	if b[7] == routeLocal {
		r.kind = "local"
	}
	var dst netip.Addr
	switch b[0] {
	case familyIPv4:
		dst = netip.IPv4Unspecified()
	case familyIPv6:
		dst = netip.IPv6Unspecified()
	}
	var single hop
	var several []byte
	err = attributes(b[routeHeader:], func(typ uint16, ad *netlink.AttributeDecoder) {
		switch typ {
		case routeDst:
			dst, _ = netip.AddrFromSlice(ad.Bytes())
		case routeOut:
			single.index = int(ad.Uint32())
		case routeGateway, routeVia:
			single.gateway = gateway(typ, ad.Bytes())
		case routeMetric:
			r.metric = ad.Uint32()
		case routeSource:
			r.source, _ = netip.AddrFromSlice(ad.Bytes())
		case routeMultipath:
			several = ad.Bytes()
		case routeTable:
			table = ad.Uint32()
		}
	})
	if err != nil {
		return route{}, 0, err
	}
	r.dst = netip.PrefixFrom(dst, int(b[1]))
	r.hops = []hop{single}
	if several != nil {
		r.hops, err = decodeHops(several)
	}
	return r, table, err
}

// decodeHops reads the next hops of a multipath route: struct rtnexthop and attributes, each as long as its first field says.
func decodeHops(b []byte) ([]hop, error) {
	var hops []hop
	for len(b) >= hopHeader {
		n := int(binary.NativeEndian.Uint16(b[0:2]))
		if n < hopHeader || n > len(b) {
			return nil, fmt.Errorf("next hop of %d bytes in %d", n, len(b))
		}
		h := hop{index: int(int32(binary.NativeEndian.Uint32(b[4:8])))}
		err := attributes(b[hopHeader:n], func(typ uint16, ad *netlink.AttributeDecoder) {
			if typ == routeGateway || typ == routeVia {
				h.gateway = gateway(typ, ad.Bytes())
			}
		})
		if err != nil {
			return nil, err
		}
		hops = append(hops, h)
		b = b[min(len(b), (n+3)&^3):] // RTNH_ALIGN
	}
	return hops, nil
}

// gateway reads RTA_GATEWAY, or RTA_VIA: the same of another family than the route's, which stands before it.
func gateway(typ uint16, b []byte) netip.Addr {
	if typ == routeVia {
		if len(b) < 2 {
			return netip.Addr{}
		}
		if f := binary.NativeEndian.Uint16(b); f != familyIPv4 && f != familyIPv6 {
			return netip.Addr{}
		}
		b = b[2:]
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// ask opens a connection for questions about the network namespace of the calling thread.
func ask() (*netlink.Conn, error) { return netlink.Dial(routeFamily, nil) }

// dump asks the kernel for everything of one sort. header is the size of the sort's own header, which is all zero: of any family.
func dump(c *netlink.Conn, typ netlink.HeaderType, header int) ([]netlink.Message, error) {
	if err := c.SetDeadline(time.Now().Add(dumpTimeout)); err != nil {
		return nil, err
	}
	return c.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, header),
	})
}

// routeTo asks the kernel where packets for a go. The one route of the answer has that address as its destination; device is an
// interface's number, or 0.
func routeTo(c *netlink.Conn, a netip.Addr, device int) (route, error) {
	if err := c.SetDeadline(time.Now().Add(dumpTimeout)); err != nil {
		return route{}, err
	}
	e := netlink.NewAttributeEncoder()
	e.Bytes(routeDst, a.AsSlice())
	if device != 0 {
		e.Uint32(routeOut, uint32(device))
	}
	attrs, err := e.Encode()
	if err != nil {
		return route{}, err
	}
	header := make([]byte, routeHeader)
	header[0], header[1] = familyIPv4, byte(a.BitLen())
	if a.Is6() {
		header[0] = familyIPv6
	}
	messages, err := c.Execute(netlink.Message{Header: netlink.Header{Type: getRoute, Flags: netlink.Request}, Data: append(header, attrs...)})
	if err != nil {
		return route{}, err
	}
	if len(messages) != 1 {
		return route{}, fmt.Errorf("%d answers to the question for a route", len(messages))
	}
	r, _, err := decodeAnyRoute(messages[0].Data)
	return r, err
}

func links(c *netlink.Conn) ([]link, error) { return list(c, getLink, linkHeader, decodeLink) }

func addresses(c *netlink.Conn) ([]address, error) {
	return list(c, getAddr, addrHeader, decodeAddress)
}

func list[T any](c *netlink.Conn, typ netlink.HeaderType, header int, decode func([]byte) (T, error)) ([]T, error) {
	messages, err := dump(c, typ, header)
	if err != nil {
		return nil, err
	}
	all := make([]T, 0, len(messages))
	for _, m := range messages {
		v, err := decode(m.Data)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}
