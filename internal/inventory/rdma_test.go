package inventory

import (
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// tree makes a file system of lines "path: content".
func tree(lines string) fstest.MapFS {
	t := fstest.MapFS{}
	for l := range strings.Lines(lines) {
		if name, content, ok := strings.Cut(strings.TrimSpace(l), ": "); ok {
			t[name] = &fstest.MapFile{Data: []byte(content + "\n")}
		}
	}
	return t
}

// gids adds a port's table of size entries to a tree: the kernel shows free entries as zero, and their attributes as errors.
func gids(t fstest.MapFS, port string, size int, used ...GID) {
	dir := "sys/class/infiniband/" + port
	for i := range size {
		t[fmt.Sprintf("%s/gids/%d", dir, i)] = &fstest.MapFile{Data: []byte("0000:0000:0000:0000:0000:0000:0000:0000\n")}
	}
	for _, g := range used {
		b := g.GID.As16()
		var s []string
		for i := 0; i < 16; i += 2 {
			s = append(s, fmt.Sprintf("%02x%02x", b[i], b[i+1]))
		}
		t[fmt.Sprintf("%s/gids/%d", dir, g.Index)].Data = []byte(strings.Join(s, ":") + "\n")
		t[fmt.Sprintf("%s/gid_attrs/types/%d", dir, g.Index)] = &fstest.MapFile{Data: []byte(g.Type + "\n")}
		if g.NetDevice != "" {
			t[fmt.Sprintf("%s/gid_attrs/ndevs/%d", dir, g.Index)] = &fstest.MapFile{Data: []byte(g.NetDevice + "\n")}
		}
	}
}

func gidOf(i int, addr, typ, dev string) GID {
	return GID{Index: i, GID: netip.MustParseAddr(addr), Type: typ, NetDevice: dev}
}

// roce is an adapter with addresses of its own interface, a VLAN and a bond on top: the kernel enters each in the table.
func roce() (fstest.MapFS, []GID) {
	t := tree(`
		sys/class/infiniband/mlx5_0/node_type: 1: CA
		sys/class/infiniband/mlx5_0/fw_ver: 26.38.1002
		sys/class/infiniband/mlx5_0/node_guid: 0c42:a103:0065:6c4e
		sys/class/infiniband/mlx5_0/ports/1/state: 4: ACTIVE
		sys/class/infiniband/mlx5_0/ports/1/link_layer: Ethernet
		sys/class/infiniband/mlx5_0/ports/1/rate: 100 Gb/sec (4X EDR)
		sys/class/infiniband_verbs/uverbs0/ibdev: mlx5_0
		sys/class/infiniband_verbs/abi_version: 6
		sys/class/net/bonding_masters: bond0
		sys/class/net/eth1/type: 1
		sys/class/net/eth1/address: 0c:42:a1:65:6c:4e
	`)
	used := []GID{
		gidOf(0, "fe80::e42:a1ff:fe65:6c4e", "IB/RoCE v1", "eth1"),
		gidOf(1, "fe80::e42:a1ff:fe65:6c4e", "RoCE v2", "eth1"),
		gidOf(2, "::ffff:10.0.0.7", "IB/RoCE v1", "eth1"),
		gidOf(3, "::ffff:10.0.0.7", "RoCE v2", "eth1"),
		gidOf(4, "2001:db8::7", "RoCE v2", "eth1"),
		gidOf(10, "::ffff:10.0.100.7", "RoCE v2", "eth1.100"),
		gidOf(11, "::ffff:10.0.200.7", "RoCE v2", "bond0"),
	}
	gids(t, "mlx5_0/ports/1", 16, used...)
	return t, used
}

func TestRoCE(t *testing.T) {
	root, used := roce()
	r := ReadRDMA(root)
	require.Empty(t, r.None)
	require.Equal(t, []RDMADevice{{
		Name: "mlx5_0", NodeType: "CA", Transport: "roce", Firmware: "26.38.1002", NodeGUID: "0c42:a103:0065:6c4e",
		CharDevices: []string{"uverbs0"},
		Ports: []RDMAPort{{
			Port: 1, State: "ACTIVE", LinkLayer: "Ethernet", Rate: "100 Gb/sec (4X EDR)",
			NetDevices: []string{"bond0", "eth1", "eth1.100"}, GIDs: used,
		}},
	}}, r.Devices)

	for _, name := range []string{"eth1", "eth1.100", "bond0"} {
		d, port, err := r.DeviceForNetdevice(name)
		require.NoError(t, err)
		require.Equal(t, "mlx5_0", d)
		require.Equal(t, 1, port)
	}
	_, _, err := r.DeviceForNetdevice("eth0")
	require.ErrorIs(t, err, fs.ErrNotExist)

	p := r.Devices[0].Ports[0]
	for _, c := range []struct {
		dev, addr string
		index     int
	}{
		{"eth1", "10.0.0.7", 3}, {"eth1", "::ffff:10.0.0.7", 3}, {"eth1", "2001:db8::7", 4}, {"eth1", "fe80::e42:a1ff:fe65:6c4e", 1},
		{"eth1.100", "10.0.100.7", 10}, {"bond0", "10.0.200.7", 11},
	} {
		g, ok := p.GIDFor(c.dev, netip.MustParseAddr(c.addr))
		require.True(t, ok, c.addr)
		require.Equal(t, c.index, g.Index, c.addr)
	}
	_, ok := p.GIDFor("eth1", netip.MustParseAddr("10.0.100.7"))
	require.False(t, ok, "the VLAN's address")
}

// TestIPoIB: two ports of one adapter, and a child interface, which has the port's GUID too. Its subnet isn't set up yet.
func TestIPoIB(t *testing.T) {
	root := tree(`
		sys/class/infiniband/mlx4_0/node_type: 1: CA
		sys/class/infiniband/mlx4_0/ports/1/state: 1: DOWN
		sys/class/infiniband/mlx4_0/ports/1/link_layer: InfiniBand
		sys/class/infiniband/mlx4_0/ports/2/state: 4: ACTIVE
		sys/class/infiniband/mlx4_0/ports/2/link_layer: InfiniBand
		sys/class/net/ib0/type: 32
		sys/class/net/ib0/address: 80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0e:9c:01
		sys/class/net/ib1/type: 32
		sys/class/net/ib1/address: 80:00:02:09:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0e:9c:02
		sys/class/net/ib1.8001/type: 32
		sys/class/net/ib1.8001/address: 80:00:02:0a:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0e:9c:02
		sys/class/net/eth0/type: 1
		sys/class/net/eth0/address: 00:02:c9:0e:9c:02
	`)
	gids(root, "mlx4_0/ports/1", 2, gidOf(0, "fe80::2:c903:e:9c01", "IB/RoCE v1", ""))
	gids(root, "mlx4_0/ports/2", 2, gidOf(0, "fec0:0:0:1:2:c903:e:9c02", "IB/RoCE v1", ""))
	r := ReadRDMA(root)
	require.Equal(t, "infiniband", r.Devices[0].Transport)
	require.Empty(t, r.Devices[0].CharDevices)
	for name, want := range map[string]int{"ib0": 1, "ib1": 2, "ib1.8001": 2} {
		d, port, err := r.DeviceForNetdevice(name)
		require.NoError(t, err)
		require.Equal(t, "mlx4_0", d)
		require.Equal(t, want, port, name)
	}
	_, _, err := r.DeviceForNetdevice("eth0")
	require.Error(t, err)
}

// TestIWARP: an adapter whose functions sysfs lists, and a software device, known by its interface's Ethernet address.
func TestIWARP(t *testing.T) {
	root := tree(`
		sys/class/infiniband/irdma0/node_type: 4: RNIC
		sys/class/infiniband/irdma0/device/net/eno1/type: 1
		sys/class/infiniband/irdma0/ports/1/state: 4: ACTIVE
		sys/class/infiniband/irdma0/ports/1/link_layer: Ethernet
		sys/class/infiniband/siw_eth0/node_type: 4: RNIC
		sys/class/infiniband/siw_eth0/ports/1/state: 4: ACTIVE
		sys/class/infiniband/siw_eth0/ports/1/link_layer: Ethernet
		sys/class/net/eno1/type: 1
		sys/class/net/eno1/dev_port: 0
		sys/class/net/eno1/address: 40:a6:b7:00:00:01
		sys/class/net/eth0/type: 1
		sys/class/net/eth0/dev_port: 0
		sys/class/net/eth0/address: 52:54:00:12:34:56
		sys/class/net/lo/type: 772
		sys/class/net/lo/address: 00:00:00:00:00:00
	`)
	gids(root, "irdma0/ports/1", 1, gidOf(0, "40a6:b700:1::", "IB/RoCE v1", ""))
	gids(root, "siw_eth0/ports/1", 1, gidOf(0, "5254:12:3456::", "IB/RoCE v1", ""))
	r := ReadRDMA(root)
	require.Len(t, r.Devices, 2)
	for name, want := range map[string]string{"eno1": "irdma0", "eth0": "siw_eth0"} {
		d, _, err := r.DeviceForNetdevice(name)
		require.NoError(t, err)
		require.Equal(t, want, d)
	}
	require.Equal(t, "iwarp", r.Devices[0].Transport)
	_, _, err := r.DeviceForNetdevice("lo")
	require.Error(t, err)
}

// TestActivePortPreferred: an interface on two ports, as a bond is.
func TestActivePortPreferred(t *testing.T) {
	port := func(n int, state string) RDMAPort {
		return RDMAPort{Port: n, State: state, NetDevices: []string{"bond0"}}
	}
	r := RDMA{Devices: []RDMADevice{{Name: "a", Ports: []RDMAPort{port(1, "DOWN"), port(2, "ACTIVE")}}}}
	_, n, err := r.DeviceForNetdevice("bond0")
	require.NoError(t, err)
	require.Equal(t, 2, n)
	r.Devices[0].Ports[1].State = "INIT"
	_, n, err = r.DeviceForNetdevice("bond0")
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

// TestSparseTable: entries are found behind many free ones, and a table of any size is read in bounded time.
func TestSparseTable(t *testing.T) {
	root := tree("sys/class/infiniband/a/ports/1/link_layer: Ethernet")
	used := []GID{
		gidOf(2, "fe80::2", "RoCE v2", "eth0"), gidOf(10, "fe80::10", "RoCE v2", "eth0"), gidOf(10+maxFree, "fe80::266", "RoCE v2", "eth0"),
		gidOf(900, "fe80::900", "RoCE v2", "eth0"), gidOf(2000, "fe80::2000", "RoCE v2", "eth0"),
	}
	gids(root, "a/ports/1", 3000, used...)
	require.Equal(t, used[:3], ReadRDMA(root).Devices[0].Ports[0].GIDs)
}

func TestNoRDMA(t *testing.T) {
	require.Equal(t, RDMA{Devices: []RDMADevice{}, None: "/sys/class/infiniband does not exist"}, ReadRDMA(fstest.MapFS{}))
	empty := fstest.MapFS{"sys/class/infiniband": &fstest.MapFile{Mode: fs.ModeDir | 0o755}}
	require.Equal(t, "/sys/class/infiniband is empty", ReadRDMA(empty).None)
	require.NotEmpty(t, ReadRDMA(tree("sys/class/infiniband: a file")).None)
}

// TestDevicesThatGo: a device that is just being removed has lost some of its files, or all.
func TestDevicesThatGo(t *testing.T) {
	root, _ := roce()
	for name := range root {
		t.Run(name, func(t *testing.T) {
			less := fstest.MapFS{}
			for other, f := range root {
				if other != name {
					less[other] = f
				}
			}
			require.Len(t, ReadRDMA(less).Devices, 1)
		})
	}
	bare := fstest.MapFS{"sys/class/infiniband/x": &fstest.MapFile{Mode: fs.ModeDir | 0o755}}
	require.Equal(t, []RDMADevice{{Name: "x", CharDevices: []string{}, Ports: []RDMAPort{}}}, ReadRDMA(bare).Devices)
}

// FuzzRDMA: what the files hold can be anything.
func FuzzRDMA(f *testing.F) {
	f.Add("fe80:0000:0000:0000:0e42:a1ff:fe65:6c4e", "4: ACTIVE", "0c:42:a1:65:6c:4e", "1")
	f.Add("fe80::1%eth0", ": ", "::", "-1")
	f.Add("10.0.0.1", "", "100:00", "0x20")
	f.Fuzz(func(t *testing.T, gid, state, mac, number string) {
		root := fstest.MapFS{}
		for name, content := range map[string]string{
			"sys/class/infiniband/d/node_type": state, "sys/class/infiniband/d/ports/1/state": state,
			"sys/class/infiniband/d/ports/1/link_layer": "InfiniBand", "sys/class/infiniband/d/ports/1/gids/0": gid,
			"sys/class/infiniband/d/ports/2/link_layer": "Ethernet", "sys/class/infiniband/d/ports/2/gids/7": gid,
			"sys/class/net/n/address": mac, "sys/class/net/n/type": number, "sys/class/net/n/dev_port": number,
		} {
			root[name] = &fstest.MapFile{Data: []byte(content)}
		}
		for _, p := range ReadRDMA(root).Devices[0].Ports {
			require.LessOrEqual(t, len(p.NetDevices), 1)
			for _, g := range p.GIDs {
				require.True(t, g.GID.Is6())
				require.Empty(t, g.GID.Zone())
			}
		}
	})
}
