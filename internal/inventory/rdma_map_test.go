package inventory

import (
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func itoa(n int) string { return strconv.Itoa(n) }

func (m Mapping) text() string { return fmt.Sprintf("%s/%d", m.Device, m.Port) }

// with returns a tree with more lines, and without the files of less.
func with(root fstest.MapFS, more string, less ...string) fstest.MapFS {
	out := maps.Clone(root)
	maps.Copy(out, tree(more))
	for _, name := range less {
		delete(out, name)
	}
	return out
}

// TestMapRoCE: what the trees that were recorded of rxe can't show, as it only knows RoCE v2.
func TestMapRoCE(t *testing.T) {
	root, _ := roce()
	m, err := ReadRDMA(root).Map("eth1", netip.MustParseAddr("10.0.0.7"))
	require.NoError(t, err)
	require.Equal(t, Mapping{
		Address: netip.MustParseAddr("10.0.0.7"), NetDevice: "eth1", Device: "mlx5_0", Port: 1, Transport: "roce",
		GIDIndex: 3, GID: netip.MustParseAddr("::ffff:10.0.0.7"), GIDType: "RoCE v2",
	}, m)
	require.Equal(t, "10.0.0.7 on eth1: mlx5_0 port 1, GID 3 (RoCE v2)", m.String())

	dir := "sys/class/infiniband/mlx5_0/ports/1/"
	m, err = ReadRDMA(with(root, "", dir+"gid_attrs/types/3", dir+"gids/3")).Map("eth1", netip.MustParseAddr("10.0.0.7"))
	require.NoError(t, err)
	require.Equal(t, []any{2, "IB/RoCE v1"}, []any{m.GIDIndex, m.GIDType}, "no other")

	_, err = ReadRDMA(with(root, "", "sys/class/infiniband_verbs/uverbs0/ibdev")).Map("eth1", netip.MustParseAddr("10.0.0.7"))
	require.EqualError(t, err, "no RDMA: mlx5_0 port 1: programs can't use it (no uverbs device; is the module ib_uverbs loaded?)")
	_, err = ReadRDMA(with(root, dir+"state: 2: INIT")).Map("eth1", netip.MustParseAddr("10.0.0.7"))
	require.EqualError(t, err, "no RDMA: mlx5_0 port 1: it is INIT")
	_, err = ReadRDMA(with(root, dir+"link_layer: Unspecified")).Map("eth1", netip.MustParseAddr("10.0.0.7"))
	require.ErrorContains(t, err, `its link layer "Unspecified" isn't known`)
	_, err = ReadRDMA(fstest.MapFS{}).Map("eth1", netip.MustParseAddr("10.0.0.7"))
	require.EqualError(t, err, "no RDMA: /sys/class/infiniband does not exist")

	// A VLAN on which the table has nothing: the reason tells of the device below.
	_, err = ReadRDMA(with(root, "sys/class/net/eth1.9/lower_eth1/x: 1")).Map("eth1.9", netip.MustParseAddr("10.0.9.7"))
	require.EqualError(t, err, "no RDMA: mlx5_0 port 1: its table of GIDs has no entry for 10.0.9.7 on eth1.9")

	// The better device of two that an interface is on, whichever comes first.
	two := with(root, `
		sys/class/infiniband/a0/ports/1/state: 4: ACTIVE
		sys/class/infiniband/a0/ports/1/link_layer: Ethernet
		sys/class/infiniband_verbs/uverbs1/ibdev: a0`)
	gids(two, "a0/ports/1", 2, gidOf(0, "::ffff:10.0.0.7", "IB/RoCE v1", "eth1"), gidOf(1, "::ffff:10.0.200.7", "IB/RoCE v1", "bond0"))
	for netdevice, addr := range map[string]string{"eth1": "10.0.0.7", "bond0": "10.0.200.7"} {
		m, err = ReadRDMA(two).Map(netdevice, netip.MustParseAddr(addr))
		require.NoError(t, err)
		require.Equal(t, []string{"mlx5_0", "RoCE v2"}, []string{m.Device, m.GIDType})
	}
}

// TestMapIPoIB: no hardware to record it from; built after the kernel's documentation of sysfs (ABI/stable/sysfs-class-infiniband) and
// Documentation/infiniband/ipoib.rst.
func TestMapIPoIB(t *testing.T) {
	root := tree(`
		sys/class/infiniband/mlx4_0/node_type: 1: CA
		sys/class/infiniband/mlx4_0/ports/1/state: 4: ACTIVE
		sys/class/infiniband/mlx4_0/ports/1/link_layer: InfiniBand
		sys/class/infiniband/mlx4_0/ports/1/pkeys/0: 0xffff
		sys/class/infiniband/mlx4_0/ports/1/pkeys/1: 0x8001
		sys/class/infiniband/mlx4_0/ports/1/pkeys/2: 0x0000
		sys/class/infiniband_verbs/uverbs0/ibdev: mlx4_0
		sys/class/net/ib0/type: 32
		sys/class/net/ib0/pkey: 0xffff
		sys/class/net/ib0/address: 80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0e:9c:01
		sys/class/net/ib0.8001/type: 32
		sys/class/net/ib0.8001/pkey: 0x0001
		sys/class/net/ib0.8001/address: 80:00:02:0a:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0e:9c:01
		sys/class/net/ib0.8002/type: 32
		sys/class/net/ib0.8002/pkey: 0x8002
		sys/class/net/ib0.8002/address: 80:00:02:0b:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0e:9c:01
		sys/class/net/bond0/type: 32
		sys/class/net/bond0/uevent: DEVTYPE=bond
		sys/class/net/bond0/address: 80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0e:9c:01
	`)
	gids(root, "mlx4_0/ports/1", 3, gidOf(0, "fe80::1234", "IB/RoCE v1", ""), gidOf(2, "fec0:0:0:1:2:c903:e:9c01", "IB/RoCE v1", ""))
	r := ReadRDMA(root)
	for netdevice, pkey := range map[string]int{"ib0": 0, "ib0.8001": 1, "bond0": 0} {
		m, err := r.Map(netdevice, netip.MustParseAddr("10.1.0.1"))
		require.NoError(t, err, netdevice)
		require.Equal(t, Mapping{
			Address: netip.MustParseAddr("10.1.0.1"), NetDevice: netdevice, Device: "mlx4_0", Port: 1, Transport: "infiniband",
			GIDIndex: 2, GID: netip.MustParseAddr("fec0:0:0:1:2:c903:e:9c01"), GIDType: "IB/RoCE v1", PKeyIndex: pkey,
		}, m)
	}
	_, err := r.Map("ib0.8002", netip.MustParseAddr("10.1.0.1"))
	require.EqualError(t, err, "no RDMA: mlx4_0 port 1: its partition table has no entry for that of ib0.8002, 0x8002")
}

// TestMapIWARP: as the tree of TestIWARP, with a VLAN and a bridge on the adapter's interface. What siw shows in Linux 6.1 is recorded, see
// scenarios; in Linux 6.12 its entry has an interface (drivers/infiniband/core/cma.c there takes this one and VLANs on it).
func TestMapIWARP(t *testing.T) {
	root := tree(`
		sys/class/infiniband/irdma0/node_type: 4: RNIC
		sys/class/infiniband/irdma0/device/net/eno1/type: 1
		sys/class/infiniband/irdma0/ports/1/state: 4: ACTIVE
		sys/class/infiniband/irdma0/ports/1/link_layer: Ethernet
		sys/class/infiniband/siw0/node_type: 4: RNIC
		sys/class/infiniband/siw0/ports/1/state: 4: ACTIVE
		sys/class/infiniband/siw0/ports/1/link_layer: Ethernet
		sys/class/infiniband_verbs/uverbs0/ibdev: irdma0
		sys/class/infiniband_verbs/uverbs1/ibdev: siw0
		sys/class/net/eno1/type: 1
		sys/class/net/eno1/dev_port: 0
		sys/class/net/eth0/type: 1
		sys/class/net/eth0/dev_port: 0
		sys/class/net/eno1.5/type: 1
		sys/class/net/eno1.5/uevent: DEVTYPE=vlan
		sys/class/net/eno1.5/lower_eno1/x: 1
		sys/class/net/eth0.6/type: 1
		sys/class/net/eth0.6/uevent: DEVTYPE=vlan
		sys/class/net/eth0.6/lower_eth0/x: 1
		sys/class/net/br0/type: 1
		sys/class/net/br0/uevent: DEVTYPE=bridge
		sys/class/net/br0/lower_eno1.5/x: 1
	`)
	gids(root, "irdma0/ports/1", 1, gidOf(0, "40a6:b700:1::", "IB/RoCE v1", ""))
	gids(root, "siw0/ports/1", 1, gidOf(0, "5254:12:3456::", "IB/RoCE v1", "eth0"))
	r := ReadRDMA(root)
	for netdevice, device := range map[string]string{"eno1": "irdma0", "eno1.5": "irdma0", "eth0": "siw0", "eth0.6": "siw0"} {
		m, err := r.Map(netdevice, netip.MustParseAddr("10.1.0.1"))
		require.NoError(t, err, netdevice)
		require.Equal(t, []any{device, "iwarp", 0, "iWARP"}, []any{m.Device, m.Transport, m.GIDIndex, m.GIDType})
	}
	_, err := r.Map("br0", netip.MustParseAddr("10.1.0.1"))
	require.EqualError(t, err, "no RDMA: irdma0 port 1: iWARP can't send through br0, which is on top of its interface")
	_, err = ReadRDMA(with(root, "", "sys/class/infiniband/irdma0/ports/1/gids/0")).Map("eno1", netip.MustParseAddr("10.1.0.1"))
	require.ErrorContains(t, err, "its table of GIDs is empty")
}

// TestStackOfInterfaces: one that is on top of itself, as a tree that changes while it is read could show, and a very wide bridge.
func TestStackOfInterfaces(t *testing.T) {
	root := tree("sys/class/net/a/lower_b/x: 1\nsys/class/net/b/lower_a/x: 1\nsys/class/net/c/lower_a/x: 1")
	for i := range 1000 {
		root[fmt.Sprintf("sys/class/net/br/lower_p%d/x", i)] = &fstest.MapFile{}
	}
	r := RDMA{nets: readNetDevices(root)}
	require.Equal(t, []string{"a", "b"}, r.below("c"))
	require.Equal(t, []string{"b"}, r.below("a"))
	require.Empty(t, r.below("no such"))
	require.NotEmpty(t, r.below("br"))
}

func TestRDMAAddresses(t *testing.T) {
	root, _ := roce()
	list := []Interface{
		{Name: "lo", Kind: "loopback", Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
		{Name: "eth1", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24"), netip.MustParsePrefix("10.0.0.8/24")}},
		{Name: "eth2", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.7/24")}},
	}
	got := ReadRDMA(root).addresses(list)
	require.Len(t, got, 3)
	require.Equal(t, "10.0.0.7 on eth1: mlx5_0 port 1, GID 3 (RoCE v2)", got[0].Mapping.String())
	require.Equal(t, RDMAAddress{
		Address: netip.MustParseAddr("10.0.0.8"), NetDevice: "eth1", Reason: "mlx5_0 port 1: its table of GIDs has no entry for 10.0.0.8 on eth1",
	}, got[1])
	require.Equal(t, "no RDMA device for the interface eth2", got[2].Reason)
	require.Nil(t, ReadRDMA(fstest.MapFS{}).addresses(list))
}

func TestHolder(t *testing.T) {
	local := netip.MustParsePrefix("fe80::1/64")
	list := []Interface{
		{Name: "a", Addresses: []netip.Prefix{local, netip.MustParsePrefix("10.0.0.1/24")}}, {Name: "b", Addresses: []netip.Prefix{local}},
	}
	for addr, want := range map[string]string{"10.0.0.1": "a", "::ffff:10.0.0.1": "a", "fe80::1": "a", "fe80::1%b": "b"} {
		i, err := holder(list, netip.MustParseAddr(addr))
		require.NoError(t, err)
		require.Equal(t, want, i.Name)
	}
	for _, addr := range []string{"10.0.0.2", "fe80::1%c", "::"} {
		_, err := holder(list, netip.MustParseAddr(addr))
		require.ErrorIs(t, err, ErrNoRDMA)
	}
	_, err := holder(list, netip.Addr{})
	require.ErrorIs(t, err, ErrNoRDMA)
}

// TestMapThis: this machine's own loopback has no RDMA device, whatever else the machine has.
func TestMapThis(t *testing.T) {
	_, err := MapLocal(netip.MustParseAddr("127.0.0.1"))
	require.ErrorIs(t, err, ErrNoRDMA)
	_, err = MapTo(netip.MustParseAddr("127.0.0.1"))
	require.ErrorIs(t, err, ErrNoRDMA)
	_, err = MapLocal(netip.MustParseAddr("192.0.2.1"))
	require.EqualError(t, err, "no RDMA: 192.0.2.1 is no address of this host")
}
