package inventory

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
)

// message builds a message's content: its header, and attributes.
func message(t testing.TB, header []byte, build func(*netlink.AttributeEncoder)) []byte {
	ae := netlink.NewAttributeEncoder()
	build(ae)
	b, err := ae.Encode()
	require.NoError(t, err)
	return append(header, b...)
}

func bytesOf(addr string) []byte { return netip.MustParseAddr(addr).AsSlice() }

func linkMessage(t testing.TB, index int, name, kind string, flags uint32, mtu uint32, master int) []byte {
	header := make([]byte, linkHeader)
	binary.NativeEndian.PutUint16(header[2:], hardwareEthernet)
	binary.NativeEndian.PutUint32(header[4:8], uint32(index))
	binary.NativeEndian.PutUint32(header[8:12], flags)
	return message(t, header, func(ae *netlink.AttributeEncoder) {
		ae.String(linkName, name)
		ae.Uint32(linkMTU, mtu)
		ae.Bytes(linkAddress, []byte{2, 0, 0, 0, 0, byte(index)})
		if master != 0 {
			ae.Uint32(linkMaster, uint32(master))
		}
		if kind != "" {
			ae.Nested(linkInfo, func(ae *netlink.AttributeEncoder) error {
				ae.String(linkInfoKind, kind)
				ae.Bytes(2, []byte("data of the kind"))
				return nil
			})
		}
	})
}

func addrMessage(t testing.TB, index int, bits, flags byte, local, peer string) []byte {
	header := []byte{familyIPv4, bits, flags, 0, 0, 0, 0, 0}
	binary.NativeEndian.PutUint32(header[4:8], uint32(index))
	return message(t, header, func(ae *netlink.AttributeEncoder) {
		if local != "" {
			ae.Bytes(addrLocal, bytesOf(local))
		}
		if peer != "" {
			ae.Bytes(addrAddress, bytesOf(peer))
		}
	})
}

func routeMessage(t testing.TB, family, bits, table, typ byte, flags uint32, build func(*netlink.AttributeEncoder)) []byte {
	header := []byte{family, bits, 0, 0, table, 0, 0, typ, 0, 0, 0, 0}
	binary.NativeEndian.PutUint32(header[8:12], flags)
	return message(t, header, build)
}

func TestDecodeLink(t *testing.T) {
	l, err := decodeLink(linkMessage(t, 7, "veth0", "veth", flagUp|flagRunning, 1500, 3))
	require.NoError(t, err)
	require.Equal(t, link{index: 7, master: 3, name: "veth0", kind: "veth", mtu: 1500, flags: flagUp | flagRunning, hardwareType: 1, hardware: []byte{2, 0, 0, 0, 0, 7}}, l)
	for _, c := range []struct {
		hardware, flags int
		kind            string
	}{{1, 0, "ethernet"}, {32, 0, "infiniband"}, {772, flagLoopback, "loopback"}, {65534, 0, ""}} {
		b := make([]byte, linkHeader)
		binary.NativeEndian.PutUint16(b[2:], uint16(c.hardware))
		binary.NativeEndian.PutUint32(b[8:12], uint32(c.flags))
		l, err := decodeLink(b)
		require.NoError(t, err)
		require.Equal(t, c.kind, l.kind)
	}
	_, err = decodeLink(make([]byte, linkHeader-1))
	require.ErrorContains(t, err, "15 bytes")
}

func TestDecodeAddress(t *testing.T) {
	for _, c := range []struct {
		name        string
		local, peer string
		flags       byte
		want        address
	}{
		{"usual", "10.0.0.7", "10.0.0.7", 0x80, address{3, netip.MustParsePrefix("10.0.0.7/24"), true}},
		{"point to point", "10.0.0.7", "10.0.0.9", 0, address{3, netip.MustParsePrefix("10.0.0.7/24"), true}},
		{"IPv6", "", "fe80::1", 0x80, address{3, netip.MustParsePrefix("fe80::1/24"), true}},
		{"tentative", "", "fe80::1", 0xc0, address{3, netip.MustParsePrefix("fe80::1/24"), false}},
		{"duplicate", "", "fe80::1", 0x88, address{3, netip.MustParsePrefix("fe80::1/24"), false}},
	} {
		a, err := decodeAddress(addrMessage(t, 3, 24, c.flags, c.local, c.peer))
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, a, c.name)
	}
	_, err := decodeAddress(addrMessage(t, 3, 24, 0, "", ""))
	require.Error(t, err, "no address")
	_, err = decodeAddress(addrMessage(t, 3, 99, 0, "10.0.0.1", ""))
	require.Error(t, err, "99 bits")
	_, err = decodeAddress(nil)
	require.Error(t, err)
}

func TestDecodeRoute(t *testing.T) {
	b := routeMessage(t, familyIPv4, 0, tableMain, 1, 0, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(routeGateway, bytesOf("10.0.0.1"))
		ae.Uint32(routeOut, 2)
		ae.Uint32(routeMetric, 100)
		ae.Bytes(routeSource, bytesOf("10.0.0.7"))
	})
	r, ok, err := decodeRoute(b)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, route{
		dst: netip.MustParsePrefix("0.0.0.0/0"), kind: "unicast", metric: 100, source: netip.MustParseAddr("10.0.0.7"),
		hops: []hop{{netip.MustParseAddr("10.0.0.1"), 2}},
	}, r)
	require.Equal(t, Route{Destination: r.dst, Type: "unicast", Gateway: "10.0.0.1", Device: "eth0", Metric: 100, Source: "10.0.0.7"},
		r.through(r.hops[0], map[int]string{2: "eth0"}))

	for name, b := range map[string][]byte{
		"another table":         routeMessage(t, familyIPv4, 8, 255, 1, 0, func(*netlink.AttributeEncoder) {}),
		"a table over 255":      routeMessage(t, familyIPv4, 0, tableMain, 1, 0, func(ae *netlink.AttributeEncoder) { ae.Uint32(routeTable, 1000) }),
		"the host's own":        routeMessage(t, familyIPv4, 0, tableMain, 2, 0, func(*netlink.AttributeEncoder) {}),
		"a cached one":          routeMessage(t, familyIPv6, 0, tableMain, 1, routeCloned, func(*netlink.AttributeEncoder) {}),
		"another family":        routeMessage(t, 28, 0, tableMain, 1, 0, func(*netlink.AttributeEncoder) {}),
		"a destination too far": routeMessage(t, familyIPv4, 0, tableMain, 1, 0, func(ae *netlink.AttributeEncoder) { ae.Bytes(routeDst, []byte{1}) }),
	} {
		_, ok, err := decodeRoute(b)
		require.NoError(t, err, name)
		require.False(t, ok, name)
	}
	_, _, err = decodeRoute(make([]byte, 3))
	require.Error(t, err)
}

// TestDecodeHops: two next hops, one of another family than the route.
func TestDecodeHops(t *testing.T) {
	one := func(index int32, typ uint16, gw []byte) []byte {
		header := make([]byte, hopHeader)
		binary.NativeEndian.PutUint32(header[4:8], uint32(index))
		b := message(t, header, func(ae *netlink.AttributeEncoder) { ae.Bytes(typ, gw) })
		binary.NativeEndian.PutUint16(b[0:2], uint16(len(b)))
		return b
	}
	via := append([]byte{0, 0}, bytesOf("fe80::1")...)
	binary.NativeEndian.PutUint16(via[:2], familyIPv6)
	several := append(one(2, routeGateway, bytesOf("10.0.0.1")), one(3, routeVia, via)...)
	decode := func(several []byte) (route, bool, error) {
		return decodeRoute(routeMessage(t, familyIPv4, 0, tableMain, 1, 0, func(ae *netlink.AttributeEncoder) { ae.Bytes(routeMultipath, several) }))
	}
	r, ok, err := decode(several)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, []hop{{netip.MustParseAddr("10.0.0.1"), 2}, {netip.MustParseAddr("fe80::1"), 3}}, r.hops)

	for _, n := range []uint16{0, 7, uint16(len(several)) + 1} {
		bad := append([]byte(nil), several...)
		binary.NativeEndian.PutUint16(bad[0:2], n)
		_, ok, err = decode(bad)
		require.ErrorContains(t, err, "next hop")
		require.False(t, ok)
	}
	require.False(t, gateway(routeVia, []byte{1}).IsValid())
	require.False(t, gateway(routeVia, append([]byte{99, 99}, 10, 0, 0, 1)).IsValid())
}

// TestApply: what notifications are in words, one after another.
func TestApply(t *testing.T) {
	v := view{links: map[int]link{}, addresses: map[held]bool{}}
	on := uint32(flagUp | flagRunning)
	unicast := func(build func(*netlink.AttributeEncoder)) []byte {
		return routeMessage(t, familyIPv4, 8, tableMain, 1, 0, build)
	}
	for i, c := range []struct {
		typ  netlink.HeaderType
		data []byte
		want []Change
	}{
		{newLink, linkMessage(t, 2, "eth0", "", on, 1500, 0), []Change{{"link", "eth0", "interface eth0 is new (ethernet, up)"}}},
		{newLink, linkMessage(t, 2, "eth0", "", on, 1500, 0), nil},
		{newLink, linkMessage(t, 2, "eth0", "", flagUp, 1500, 0), []Change{{"link", "eth0", "interface eth0: no carrier, was up"}}},
		{newLink, linkMessage(t, 2, "eth0", "", 0, 1400, 0), []Change{
			{"link", "eth0", "interface eth0: down, was no carrier"}, {"link", "eth0", "MTU of eth0 changed from 1500 to 1400"},
		}},
		{newLink, linkMessage(t, 2, "wan", "", 0, 1400, 0), []Change{{"link", "wan", "interface eth0 is now called wan"}}},
		{newLink, linkMessage(t, 3, "bond0", "bond", on, 1500, 0), []Change{{"link", "bond0", "interface bond0 is new (bond, up)"}}},
		{newLink, linkMessage(t, 2, "wan", "", 0, 1400, 3), []Change{{"link", "wan", "interface wan joined bond0"}}},
		{newLink, append([]byte{7}, linkMessage(t, 2, "wan", "", 0, 1400, 3)[1:]...), nil}, // a bridge's news of its port
		{delLink, append([]byte{7}, linkMessage(t, 2, "wan", "", 0, 1400, 3)[1:]...), nil},
		{newLink, linkMessage(t, 2, "wan", "", 0, 1400, 0), []Change{{"link", "wan", "interface wan left bond0"}}},

		{newAddr, addrMessage(t, 2, 24, 0x40, "10.0.0.7", ""), nil},
		{delAddr, addrMessage(t, 2, 24, 0x40, "10.0.0.7", ""), nil},
		{newAddr, addrMessage(t, 2, 24, 0, "10.0.0.7", ""), []Change{{"address", "wan", "address 10.0.0.7/24 added to wan"}}},
		{newAddr, addrMessage(t, 2, 24, 0, "10.0.0.7", ""), nil},
		{delAddr, addrMessage(t, 2, 24, 0, "10.0.0.7", ""), []Change{{"address", "wan", "address 10.0.0.7/24 removed from wan"}}},
		{newAddr, addrMessage(t, 9, 24, 0, "10.0.0.7", ""), []Change{{"address", "interface 9", "address 10.0.0.7/24 added to interface 9"}}},

		{newRoute, unicast(func(ae *netlink.AttributeEncoder) {
			ae.Bytes(routeDst, bytesOf("10.0.0.0"))
			ae.Uint32(routeOut, 2)
		}), []Change{{"route", "wan", "route to 10.0.0.0/8 on wan added"}}},
		{delRoute, routeMessage(t, familyIPv6, 0, tableMain, 1, 0, func(ae *netlink.AttributeEncoder) {
			ae.Bytes(routeGateway, bytesOf("fe80::1"))
			ae.Uint32(routeOut, 2)
		}), []Change{{"route", "wan", "default route of IPv6 via fe80::1 on wan removed"}}},
		{newRoute, routeMessage(t, familyIPv4, 0, tableMain, 7, 0, func(ae *netlink.AttributeEncoder) {}),
			[]Change{{"route", "", "default route (unreachable) added"}}},
		{newRoute, routeMessage(t, familyIPv4, 0, 255, 2, 0, func(*netlink.AttributeEncoder) {}), nil},

		{delLink, linkMessage(t, 2, "wan", "", 0, 1400, 0), []Change{{"link", "wan", "interface wan is gone"}}},
		{delLink, linkMessage(t, 2, "wan", "", 0, 1400, 0), nil},
		{99, nil, nil}, {newLink, nil, nil}, {newAddr, nil, nil}, {newRoute, nil, nil},
	} {
		got := v.apply(netlink.Message{Header: netlink.Header{Type: c.typ}, Data: c.data})
		require.Equal(t, c.want, got, "message %d", i)
	}
}

// FuzzApply: no message makes a watcher fall.
func FuzzApply(f *testing.F) {
	f.Add(uint16(newLink), linkMessage(f, 2, "eth0", "veth", flagUp, 1500, 1))
	f.Add(uint16(newAddr), addrMessage(f, 2, 24, 0, "10.0.0.7", "10.0.0.8"))
	f.Add(uint16(newRoute), routeMessage(f, familyIPv4, 0, tableMain, 1, 0, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(routeMultipath, []byte{8, 0, 0, 0, 1, 0, 0, 0})
	}))
	f.Fuzz(func(t *testing.T, typ uint16, data []byte) {
		v := view{links: map[int]link{1: {index: 1, name: "lo"}}, addresses: map[held]bool{}}
		for _, c := range v.apply(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ)}, Data: data}) {
			require.NotEmpty(t, c.Kind)
			require.NotEmpty(t, c.Text)
		}
	})
}
