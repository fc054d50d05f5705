package inventory

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestHost compares the snapshot of this machine with what the standard library sees.
func TestHost(t *testing.T) {
	v := Host()
	require.Empty(t, v.Problems)
	require.Equal(t, runtime.GOOS, v.OS)
	require.Equal(t, runtime.NumCPU(), v.CPUs)
	name, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, name, v.Hostname)
	require.Equal(t, HostID(), v.HostID)

	list, err := net.Interfaces()
	require.NoError(t, err)
	require.Len(t, v.Interfaces, len(list))
	for i, n := range list {
		got := v.Interfaces[i]
		require.Equal(t, []any{n.Name, n.Index, n.MTU, n.Flags&net.FlagUp != 0}, []any{got.Name, got.Index, got.MTU, got.Up})
		if n.Flags&net.FlagLoopback != 0 {
			require.Equal(t, "loopback", got.Kind)
		}
		addrs, err := n.Addrs()
		require.NoError(t, err)
		var want, have []string
		for _, a := range addrs {
			want = append(want, a.String())
		}
		for _, p := range got.Addresses {
			have = append(have, p.String())
		}
		require.ElementsMatch(t, want, have)
	}
	if runtime.GOOS == "linux" {
		require.Regexp(t, `^[0-9a-f]{16}$`, v.HostID)
		require.NotZero(t, v.NetworkNamespace)
		require.NotEmpty(t, v.Kernel)
		require.NotEmpty(t, v.TCP.Congestion)
		require.Contains(t, v.TCP.Available, v.TCP.Congestion)
		require.True(t, v.SharedMemory.Memfd)
		require.DirExists(t, v.SharedMemory.RuntimeDir)
	}
	require.NoError(t, v.WriteText(&bytes.Buffer{}))
}

func TestHostID(t *testing.T) {
	id := hostID(tree("proc/sys/kernel/random/boot_id: 9d8c4f1e-0000-4000-8000-000000000001"))
	require.Equal(t, "b3c5ec31086bbe32", id)
	require.NotEqual(t, id, hostID(tree("proc/sys/kernel/random/boot_id: 9d8c4f1e-0000-4000-8000-000000000002")))
	require.Empty(t, hostID(fstest.MapFS{}))
}

func TestFilesOfOneLine(t *testing.T) {
	root := tree("a: 12\nb: -1\nc: 0x20\nd: twelve\ne: 99999999999")
	root["long"] = &fstest.MapFile{Data: bytes.Repeat([]byte("x"), 10000)}
	require.Equal(t, []int{12, -1, 32, -1, -1, -1}, []int{
		number(root, "a"), number(root, "b"), number(root, "c"), number(root, "d"), number(root, "e"), number(root, "missing"),
	})
	require.Len(t, line(root, "long"), 4096)
	require.Empty(t, line(root, "."), "a directory")
}

// sample is a host with one of everything.
func sample() Inventory {
	root, _ := roce()
	return Inventory{
		HostID: "0123456789abcdef", Hostname: "node\x1b[2J1", OS: "linux", Arch: "amd64", Kernel: "6.8.0", CPUs: 8, NetworkNamespace: 4026531840,
		Interfaces: []Interface{
			{Name: "lo", Index: 1, Kind: "loopback", MTU: 65536, Up: true, Running: true, Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
			{
				Name: "eth1", Index: 2, Kind: "ethernet", MTU: 9000, Up: true, SpeedMbps: 100000, Hardware: "0c:42:a1:65:6c:4e",
				Master: "bond0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24"), netip.MustParsePrefix("2001:db8::7/64")},
			},
			{Name: "eth2", Index: 3, Kind: "ethernet", MTU: 1500, SpeedMbps: 2500, Addresses: []netip.Prefix{}},
		},
		Routes: []Route{
			{Destination: netip.MustParsePrefix("0.0.0.0/0"), Type: "unicast", Gateway: "10.0.0.1", Device: "eth1", Metric: 100, Source: "10.0.0.7"},
			{Destination: netip.MustParsePrefix("10.9.0.0/16"), Type: "unreachable"},
		},
		RoutesOmitted: 7,
		RDMA:          ReadRDMA(root),
		RDMAAddresses: []RDMAAddress{
			{Address: netip.MustParseAddr("10.0.0.7"), NetDevice: "eth1", Mapping: &Mapping{
				Address: netip.MustParseAddr("10.0.0.7"), NetDevice: "eth1", Device: "mlx5_0", Port: 1, Transport: "roce",
				GIDIndex: 3, GID: netip.MustParseAddr("::ffff:10.0.0.7"), GIDType: "RoCE v2",
			}},
			{Address: netip.MustParseAddr("10.1.0.7"), NetDevice: "eth2", Reason: "no RDMA device for the interface eth2"},
		},
		SharedMemory: SharedMemory{Memfd: true, RuntimeDir: "/run/user/1000/sockemu-1000"},
		UDP:          UDP{GSO: true},
		TCP:          TCP{Congestion: "cubic", Available: []string{"reno", "cubic"}},
		Problems:     []string{"host name: unknown"},
	}
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, sample().WriteText(&b))
	require.Equal(t, strings.TrimLeft(`
host               node?[2J1 0123456789abcdef
system             linux 6.8.0 amd64, 8 CPUs
network namespace  4026531840
tcp                cubic (available: reno, cubic)
udp                segmentation offload yes, receive offload no (needs Linux 5.0)
shared memory      memfd yes, runtime directory /run/user/1000/sockemu-1000
rdma               1 of 1 devices have an active port

Interfaces
NAME  KIND      STATE       MTU    SPEED  MASTER  RDMA      ADDRESSES
lo    loopback  up          65536  -      -       -         127.0.0.1/8
eth1  ethernet  no carrier  9000   100G   bond0   mlx5_0/1  10.0.0.7/24 2001:db8::7/64
eth2  ethernet  down        1500   2500M  -       -         -

Routes
DESTINATION  GATEWAY   DEVICE  METRIC  SOURCE    TYPE
0.0.0.0/0    10.0.0.1  eth1    100     10.0.0.7  unicast
10.9.0.0/16  -         -       0       -         unreachable
and 7 more

RDMA device mlx5_0: roce, CA, firmware 26.38.1002, uverbs0
PORT  STATE   LINK      RATE                 INDEX  GID                       TYPE        INTERFACE
1     ACTIVE  Ethernet  100 Gb/sec (4X EDR)  0      fe80::e42:a1ff:fe65:6c4e  IB/RoCE v1  eth1
                                             1      fe80::e42:a1ff:fe65:6c4e  RoCE v2     eth1
                                             2      ::ffff:10.0.0.7           IB/RoCE v1  eth1
                                             3      ::ffff:10.0.0.7           RoCE v2     eth1
                                             4      2001:db8::7               RoCE v2     eth1
                                             10     ::ffff:10.0.100.7         RoCE v2     eth1.100
                                             11     ::ffff:10.0.200.7         RoCE v2     bond0

RDMA addresses
ADDRESS   INTERFACE  DEVICE  PORT  INDEX  TYPE
10.0.0.7  eth1       mlx5_0  1     3      RoCE v2
10.1.0.7  eth2       none: no RDMA device for the interface eth2

Problems
host name: unknown
`, "\n"), b.String())

	b.Reset()
	require.NoError(t, Inventory{RDMA: RDMA{None: "nothing", Devices: []RDMADevice{{Name: "x", Ports: []RDMAPort{{Port: 1}}}}}}.WriteText(&b))
	require.Contains(t, b.String(), "rdma           none: nothing\n")
	require.Contains(t, b.String(), "RDMA device x: no ports, unknown type, firmware unknown, not usable by programs")
	require.ErrorContains(t, sample().WriteText(failing{}), "full")
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("full") }

// TestJSON: scripts depend on the names.
func TestJSON(t *testing.T) {
	v := sample()
	v.Hostname, v.RDMA.Devices[0].Ports[0].GIDs = "node1", v.RDMA.Devices[0].Ports[0].GIDs[3:4]
	v.Interfaces, v.Routes = v.Interfaces[1:2], v.Routes[:1]
	v.RDMA.nets = nil // only for the mapping of addresses
	b, err := json.Marshal(v)
	require.NoError(t, err)
	require.JSONEq(t, `{
		"host_id": "0123456789abcdef", "hostname": "node1", "os": "linux", "arch": "amd64", "kernel": "6.8.0", "cpus": 8,
		"network_namespace": 4026531840,
		"interfaces": [{"name": "eth1", "index": 2, "kind": "ethernet", "mtu": 9000, "up": true, "running": false,
			"hardware": "0c:42:a1:65:6c:4e", "master": "bond0", "speed_mbps": 100000, "addresses": ["10.0.0.7/24", "2001:db8::7/64"]}],
		"routes": [{"destination": "0.0.0.0/0", "type": "unicast", "gateway": "10.0.0.1", "device": "eth1", "metric": 100, "source": "10.0.0.7"}],
		"routes_omitted": 7,
		"rdma": {"devices": [{"name": "mlx5_0", "node_type": "CA", "transport": "roce", "firmware": "26.38.1002",
			"node_guid": "0c42:a103:0065:6c4e", "char_devices": ["uverbs0"],
			"ports": [{"port": 1, "state": "ACTIVE", "link_layer": "Ethernet", "rate": "100 Gb/sec (4X EDR)",
				"net_devices": ["bond0", "eth1", "eth1.100"],
				"gids": [{"index": 3, "gid": "::ffff:10.0.0.7", "type": "RoCE v2", "net_device": "eth1"}]}]}]},
		"rdma_addresses": [
			{"address": "10.0.0.7", "net_device": "eth1", "mapping": {"address": "10.0.0.7", "net_device": "eth1", "device": "mlx5_0", "port": 1,
				"transport": "roce", "gid_index": 3, "gid": "::ffff:10.0.0.7", "gid_type": "RoCE v2", "pkey_index": 0}},
			{"address": "10.1.0.7", "net_device": "eth2", "mapping": null, "reason": "no RDMA device for the interface eth2"}],
		"shared_memory": {"memfd": true, "runtime_dir": "/run/user/1000/sockemu-1000"},
		"udp": {"gso": true, "gro": false},
		"tcp": {"congestion": "cubic", "available_congestion": ["reno", "cubic"]},
		"problems": ["host name: unknown"]}`, string(b))
	var back Inventory
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, v, back)
}
