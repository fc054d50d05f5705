package inventory

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// A scenario is a network with software RDMA devices, and what its addresses map to. TestRDMAScenarios builds each in the VM of
// tools/verbsvm and tests it there; testdata/rdma has what sysfs showed then, which TestRDMARecorded reads on any machine. To record
// again: SOCKEMU_TEST_RECORD=/host/rdma VERBS_VMS=1 VERBS_ONLY=inventory VERBS_OUT=/tmp/out make test-verbs (or test-siw), and copy the files
// of /tmp/out/rdma to testdata/rdma.
type scenario struct {
	name   string
	driver string   // "" is rxe
	inside string   // the network namespace that is looked at
	make   []string // commands
	remove []string
	maps   map[string]string // address%interface: "device/port index", or "none: " and a part of the reason
	routes map[string]string // the same for addresses of other hosts; only in the VM, where there are routes
}

// All have rxe0 or siw0 on rdma0 as well, and tcp0, an interface without a device.
var scenarios = []scenario{
	{
		name: "plain",
		maps: map[string]string{
			"10.9.0.1%rdma0": "rxe0/1 1", "::ffff:10.9.0.1%rdma0": "rxe0/1 1", "fd00:9::1%rdma0": "rxe0/1 2", "fe80::5054:ff:fe00:901%rdma0": "rxe0/1 0",
			"10.9.0.2%rdma0": "none: rxe0 port 1: its table of GIDs has no entry for 10.9.0.2 on rdma0",
			"10.9.0.1%tcp0":  "none: no RDMA device for the interface tcp0",
			"10.8.0.1%tcp0":  "none: no RDMA device for the interface tcp0",
		},
		routes: map[string]string{
			"10.9.0.9": "rxe0/1 1", "10.9.0.1": "rxe0/1 1", "fd00:9::77": "rxe0/1 2", "fe80::77%rdma0": "rxe0/1 0", "::ffff:10.9.0.9": "rxe0/1 1",
			"10.8.0.9": "none: the way to 10.8.0.9 is from 10.8.0.1 on tcp0", "127.0.0.1": "none: the way to 127.0.0.1 is from 127.0.0.1 on lo",
			"203.0.113.1": "none: no way to 203.0.113.1",
		},
	},
	{
		name:   "router",
		make:   []string{"ip route add 192.0.2.0/24 via 10.9.0.9", "ip route add unreachable 198.51.100.0/24", "ip addr add 10.9.0.5/24 dev rdma0", "ip route add 192.0.2.7 via 10.9.0.9 src 10.9.0.5"},
		remove: []string{"ip route del 192.0.2.7", "ip route del 192.0.2.0/24", "ip route del unreachable 198.51.100.0/24", "ip addr del 10.9.0.5/24 dev rdma0"},
		maps:   map[string]string{"10.9.0.5%rdma0": "rxe0/1 3"},
		routes: map[string]string{"192.0.2.1": "rxe0/1 1", "192.0.2.7": "rxe0/1 3", "198.51.100.1": "none: no way to 198.51.100.1"},
	},
	{
		name:   "vlan",
		make:   []string{"ip link add link rdma0 name vlan7 type vlan id 7", "ip addr add 10.7.0.1/24 dev vlan7", "ip link set vlan7 up"},
		remove: []string{"ip link del vlan7"},
		maps: map[string]string{
			"10.7.0.1%vlan7": "rxe0/1 3", "fe80::5054:ff:fe00:901%vlan7": "rxe0/1 4", "fe80::5054:ff:fe00:901%rdma0": "rxe0/1 0",
			"10.7.0.1%rdma0": "none: no entry for 10.7.0.1 on rdma0",
			"10.7.0.2%vlan7": "none: no entry for 10.7.0.2 on vlan7",
		},
		routes: map[string]string{"10.7.0.9": "rxe0/1 3", "fe80::9%vlan7": "rxe0/1 4"},
	},
	{
		name:   "macvlan",
		make:   []string{"ip link add link rdma0 name mv0 address 02:00:00:00:00:08 type macvlan mode bridge", "ip addr add 10.7.0.1/24 dev mv0", "ip link set mv0 up"},
		remove: []string{"ip link del mv0"},
		maps:   map[string]string{"10.7.0.1%mv0": "rxe0/1 3", "fe80::ff:fe00:8%mv0": "rxe0/1 4"},
		routes: map[string]string{"10.7.0.9": "rxe0/1 3"},
	},
	{
		name:   "ipvlan",
		make:   []string{"ip link add link rdma0 name ipv0 type ipvlan mode l2", "ip addr add 10.7.0.1/24 dev ipv0", "ip link set ipv0 up"},
		remove: []string{"ip link del ipv0"},
		maps:   map[string]string{"10.7.0.1%ipv0": "rxe0/1 3"},
		routes: map[string]string{"10.7.0.9": "rxe0/1 3"},
	},
	{
		name:   "bridge",
		make:   []string{"ip link add br0 address 02:00:00:00:00:0b type bridge", "ip link set rdma0 master br0", "ip link set br0 up", "ip addr add 10.7.0.1/24 dev br0"},
		remove: []string{"ip link set rdma0 nomaster", "ip link del br0"},
		maps:   map[string]string{"10.7.0.1%br0": "rxe0/1 3", "10.9.0.1%rdma0": "rxe0/1 1"},
		routes: map[string]string{"10.7.0.9": "rxe0/1 3"},
	},
	{
		name: "bond", // over two devices, of which it uses the second
		make: append(bonded, "rdma link add rxe1 type rxe netdev d1", "rdma link add rxe2 type rxe netdev d2", "ip link set d1 master bond0", "ip link set d2 master bond0",
			"ip link set bond0 up", "ip addr add 10.7.0.1/24 dev bond0", "ip link set bond0 type bond active_slave d2"),
		remove: []string{"rdma link del rxe1", "rdma link del rxe2", "ip link del bond0", "ip link del d1", "ip link del d2"},
		maps:   map[string]string{"10.7.0.1%bond0": "rxe2/1 *", "10.7.0.1%d1": "none: no RDMA device for the interface d1"},
		routes: map[string]string{"10.7.0.9": "rxe2/1 *"},
	},
	{
		name: "onbond", // a device on the bond itself
		make: append(bonded, "ip link set d1 master bond0", "ip link set d2 master bond0", "ip link set bond0 up",
			"ip addr add 10.7.0.1/24 dev bond0", "rdma link add rxe1 type rxe netdev bond0"),
		remove: []string{"rdma link del rxe1", "ip link del bond0", "ip link del d1", "ip link del d2"},
		maps:   map[string]string{"10.7.0.1%bond0": "rxe1/1 1"},
		routes: map[string]string{"10.7.0.9": "rxe1/1 1"},
	},
	{
		name: "veth",
		make: []string{"ip link add va address 02:00:00:00:00:0c type veth peer name vb address 02:00:00:00:00:0d", "ip link set va up", "ip link set vb up",
			"ip addr add 10.7.0.1/24 dev va", "ip addr add 10.6.0.1/24 dev vb", "rdma link add rxe1 type rxe netdev va", "rdma link add rxe2 type rxe netdev vb"},
		remove: []string{"rdma link del rxe1", "rdma link del rxe2", "ip link del va"},
		maps:   map[string]string{"10.7.0.1%va": "rxe1/1 1", "10.6.0.1%vb": "rxe2/1 1", "10.6.0.1%va": "none: no entry for 10.6.0.1 on va"},
		routes: map[string]string{"10.7.0.9": "rxe1/1 1", "10.6.0.9": "rxe2/1 1"},
	},
	{
		name:   "down",
		make:   []string{"ip link add s0 address 02:00:00:00:00:0e type dummy", "ip addr add 10.7.0.1/24 dev s0", "rdma link add rxe1 type rxe netdev s0"},
		remove: []string{"rdma link del rxe1", "ip link del s0"},
		maps:   map[string]string{"10.7.0.1%s0": "none: rxe1 port 1: it is DOWN"},
		routes: map[string]string{"10.7.0.9": "none: no way to 10.7.0.9"},
	},
	{
		name: "siw", driver: "siw",
		maps: map[string]string{
			"10.9.0.1%rdma0": "siw0/1 0", "fd00:9::1%rdma0": "siw0/1 0", "10.8.0.1%tcp0": "none: no RDMA device for the interface tcp0",
		},
		routes: map[string]string{"10.9.0.9": "siw0/1 0", "10.8.0.9": "none: the way to 10.8.0.9 is from 10.8.0.1 on tcp0"},
	},
	{
		name: "siwvlan", driver: "siw",
		make:   []string{"ip link add link rdma0 name vlan7 type vlan id 7", "ip addr add 10.7.0.1/24 dev vlan7", "ip link set vlan7 up"},
		remove: []string{"ip link del vlan7"},
		maps:   map[string]string{"10.7.0.1%vlan7": "siw0/1 0", "10.9.0.1%rdma0": "siw0/1 0"},
		routes: map[string]string{"10.7.0.9": "siw0/1 0"},
	},
	{
		name: "siwbridge", driver: "siw",
		make:   []string{"ip link add br0 address 02:00:00:00:00:0b type bridge", "ip link set rdma0 master br0", "ip link set br0 up", "ip addr add 10.7.0.1/24 dev br0"},
		remove: []string{"ip link set rdma0 nomaster", "ip link del br0"},
		maps:   map[string]string{"10.7.0.1%br0": "none: siw0 port 1: iWARP can't send through br0, which is on top of its interface", "10.9.0.1%rdma0": "siw0/1 0"},
		routes: map[string]string{"10.7.0.9": "none: iWARP can't send through br0"},
	},
	{
		name: "siwveth", driver: "siw",
		make: []string{"ip link add va address 02:00:00:00:00:0c type veth peer name vb address 02:00:00:00:00:0d", "ip link set va up", "ip link set vb up",
			"ip addr add 10.7.0.1/24 dev va", "ip addr add 10.6.0.1/24 dev vb", "rdma link add siw1 type siw netdev va", "rdma link add siw2 type siw netdev vb"},
		remove: []string{"rdma link del siw1", "rdma link del siw2", "ip link del va"},
		maps:   map[string]string{"10.7.0.1%va": "siw1/1 0", "10.6.0.1%vb": "siw2/1 0"},
		routes: map[string]string{"10.7.0.9": "siw1/1 0", "10.6.0.9": "siw2/1 0"},
	},
	{
		name: "siwspace1", driver: "siw", inside: "w1",
		make: twoSpaces, remove: noSpaces,
		maps:   map[string]string{"10.7.0.1%v1": "siw1/1 0", "10.9.0.1%rdma0": "none: no RDMA device for the interface rdma0"},
		routes: map[string]string{"10.7.0.9": "siw1/1 0", "10.9.0.9": "none: no way to 10.9.0.9"},
	},
	{
		name: "siwspace2", driver: "siw", inside: "w2",
		make: twoSpaces, remove: noSpaces,
		maps:   map[string]string{"10.7.0.2%v2": "siw2/1 0", "10.7.0.1%v1": "none: no RDMA device for the interface v1"},
		routes: map[string]string{"10.7.0.1": "siw2/1 0"},
	},
	{
		name: "siwdown", driver: "siw", // it doesn't hear that its interface is usable after all
		make: []string{"ip link add va address 02:00:00:00:00:0c type veth peer name vb address 02:00:00:00:00:0d", "ip link set va up",
			"ip addr add 10.7.0.1/24 dev va", "rdma link add siw1 type siw netdev va", "ip link set vb up"},
		remove: []string{"rdma link del siw1", "ip link del va"},
		maps:   map[string]string{"10.7.0.1%va": "none: siw1 port 1: it is DOWN"},
		routes: map[string]string{"10.7.0.9": "none: siw1 port 1: it is DOWN"},
	},
}

// twoSpaces makes two network namespaces, as containers have them, that are joined by a wire with a device at each end.
var (
	twoSpaces = []string{
		"ip netns add w1", "ip netns add w2", "ip link add v1 netns w1 address 02:00:00:00:01:01 type veth peer name v2 netns w2 address 02:00:00:00:01:02",
		"ip -n w1 addr add 10.7.0.1/24 dev v1", "ip -n w2 addr add 10.7.0.2/24 dev v2", "ip -n w1 link set v1 up", "ip -n w2 link set v2 up",
		"ip netns exec w1 rdma link add siw1 type siw netdev v1", "ip netns exec w2 rdma link add siw2 type siw netdev v2",
	}
	noSpaces = []string{"rdma link del siw1", "rdma link del siw2", "ip netns del w1", "ip netns del w2"}
)

var bonded = []string{
	"modprobe bonding max_bonds=0", // makes none by itself
	"ip link add d1 address 02:00:00:00:00:01 type dummy", "ip link add d2 address 02:00:00:00:00:02 type dummy",
	"ip link add bond0 address 02:00:00:00:00:03 type bond mode active-backup miimon 100",
}

// check compares a mapping with what a scenario expects.
func check(t require.TestingT, addr, want string, m Mapping, err error) {
	if reason, ok := strings.CutPrefix(want, "none: "); ok {
		require.ErrorIs(t, err, ErrNoRDMA, addr)
		require.ErrorContains(t, err, reason, addr)
		require.Zero(t, m)
		return
	}
	require.NoError(t, err, addr)
	where, index, _ := strings.Cut(want, " ")
	require.Equal(t, where, m.text(), addr)
	if index != "*" {
		require.Equal(t, index, itoa(m.GIDIndex), addr)
	}
	if strings.HasPrefix(m.Device, "siw") {
		require.Equal(t, []string{"iwarp", iwarp}, []string{m.Transport, m.GIDType})
		return // the GID is made of the interface's Ethernet address
	}
	require.Equal(t, []string{"roce", rocev2}, []string{m.Transport, m.GIDType})
	require.Equal(t, m.Address.Unmap(), m.GID.Unmap())
}

// TestRDMARecorded reads what sysfs showed in each scenario.
func TestRDMARecorded(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join("testdata", "rdma", s.name+".txt"))
			require.NoError(t, err)
			r := ReadRDMA(recorded(string(b)))
			require.Empty(t, r.None)
			for on, want := range s.maps {
				addr, netdevice, _ := strings.Cut(on, "%")
				m, err := r.Map(netdevice, netip.MustParseAddr(addr))
				check(t, on, want, m, err)
			}
		})
	}
}

// recorded makes a file system of lines "path: content", where a content's own ends of lines are \n, or "path/" for a folder.
func recorded(text string) fstest.MapFS {
	root := tree(text)
	for _, f := range root {
		f.Data = []byte(strings.ReplaceAll(string(f.Data), `\n`, "\n"))
	}
	for l := range strings.Lines(text) {
		if dir, ok := strings.CutSuffix(strings.TrimSpace(l), "/"); ok {
			root[dir] = &fstest.MapFile{Mode: os.ModeDir | 0o755}
		}
	}
	return root
}
