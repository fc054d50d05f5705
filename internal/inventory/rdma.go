package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// RDMA is what /sys/class/infiniband shows.
type RDMA struct {
	Devices []RDMADevice `json:"devices"`
	None    string       `json:"none,omitempty"` // why there is no device

	nets map[string]netDevice
}

// An RDMADevice is one RDMA device.
type RDMADevice struct {
	Name        string     `json:"name"`
	NodeType    string     `json:"node_type"` // "CA", "RNIC"...
	Transport   string     `json:"transport"` // "infiniband", "roce" or "iwarp"; of the first port
	Firmware    string     `json:"firmware"`
	NodeGUID    string     `json:"node_guid"`
	CharDevices []string   `json:"char_devices"` // in /dev/infiniband: "uverbs0"; without one programs can't use the device
	Ports       []RDMAPort `json:"ports"`

	own []string // interfaces that it is itself, without those on top of them
}

// An RDMAPort is one port of a device.
type RDMAPort struct {
	Port       int      `json:"port"`
	State      string   `json:"state"`       // "ACTIVE", "DOWN", "INIT"...
	LinkLayer  string   `json:"link_layer"`  // "InfiniBand" or "Ethernet"
	Rate       string   `json:"rate"`        // as the driver words it: "100 Gb/sec (4X EDR)"
	NetDevices []string `json:"net_devices"` // whose IP addresses can be reached through this port
	GIDs       []GID    `json:"gids"`        // those in use

	pkeys []uint16 // InfiniBand: the partitions
}

// A GID is an entry of a port's table of addresses. A connection names the entry's index.
type GID struct {
	Index     int        `json:"index"`
	GID       netip.Addr `json:"gid"`        // that of RoCE v2 over IPv4 is the mapped address: ::ffff:10.0.0.1
	Type      string     `json:"type"`       // "IB/RoCE v1", "RoCE v2" or "iWARP"
	NetDevice string     `json:"net_device"` // "" for InfiniBand, and for iWARP in Linux 6.1
}

const (
	infiniband = "sys/class/infiniband"
	rocev2     = "RoCE v2"
	iwarp      = "iWARP" // as which the kernel shows "IB/RoCE v1"
	maxGIDs    = 1024    // read of one port; the tables of adapters have 256 entries at most, that of rxe has 1024
	maxFree    = 256     // entries in a row: the kernel uses the first free one, and each one costs two system calls or more to read

	// Hardware types of interfaces: include/uapi/linux/if_arp.h.
	hardwareEthernet   = 1
	hardwareInfiniBand = 32
)

// ReadRDMA reads what the file system root, whose top is "/", shows about RDMA devices.
func ReadRDMA(root fs.FS) RDMA {
	entries, err := fs.ReadDir(root, infiniband)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return RDMA{Devices: []RDMADevice{}, None: "/" + infiniband + " does not exist"}
	case err != nil:
		return RDMA{Devices: []RDMADevice{}, None: err.Error()}
	case len(entries) == 0:
		return RDMA{Devices: []RDMADevice{}, None: "/" + infiniband + " is empty"}
	}
	nets := readNetDevices(root)
	chars := readCharDevices(root)
	r := RDMA{Devices: []RDMADevice{}, nets: nets}
	for _, e := range entries {
		d := readDevice(root, e.Name(), nets)
		d.CharDevices = append([]string{}, chars[d.Name]...)
		r.Devices = append(r.Devices, d)
	}
	return r
}

// DeviceForNetdevice returns the RDMA device, and the port of it, through which the IP addresses of a network interface can be
// reached; an active port is preferred. The interface may be one on top of the port's own: a VLAN, a bond, a child of an IPoIB
// interface. In the words of the rdmamap library this is GetRdmaDeviceForNetdevice.
func (r RDMA) DeviceForNetdevice(name string) (device string, port int, err error) {
	for _, d := range r.Devices {
		for _, p := range d.Ports {
			if !slices.Contains(p.NetDevices, name) {
				continue
			}
			if p.State == "ACTIVE" {
				return d.Name, p.Port, nil
			}
			if device == "" {
				device, port = d.Name, p.Port
			}
		}
	}
	if device == "" {
		return "", 0, fmt.Errorf("no RDMA device for interface %s: %w", name, fs.ErrNotExist)
	}
	return device, port, nil
}

// GIDFor returns the entry of the port's table with which addr, an address of the interface name, is reached: that of RoCE v2
// if there are several, as only its packets can be routed.
func (p RDMAPort) GIDFor(name string, addr netip.Addr) (GID, bool) {
	var found GID
	var ok bool
	for _, g := range p.GIDs {
		if g.NetDevice == name && g.GID.Unmap() == addr.Unmap() && (!ok || found.Type != rocev2 && g.Type == rocev2) {
			found, ok = g, true
		}
	}
	return found, ok
}

func readDevice(root fs.FS, name string, nets map[string]netDevice) RDMADevice {
	dir := path.Join(infiniband, name)
	d := RDMADevice{
		Name: name, NodeType: word(line(root, path.Join(dir, "node_type"))), Firmware: line(root, path.Join(dir, "fw_ver")),
		NodeGUID: line(root, path.Join(dir, "node_guid")), Ports: []RDMAPort{},
	}
	if parent := line(root, path.Join(dir, "parent")); parent != "" { // software devices say it so
		d.own = append(d.own, parent)
	}
	functions, _ := fs.ReadDir(root, path.Join(dir, "device/net"))
	for _, e := range functions {
		d.own = append(d.own, e.Name())
	}
	entries, _ := fs.ReadDir(root, path.Join(dir, "ports")) // a device that is just going has none
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p := readPort(root, path.Join(dir, "ports", e.Name()), n)
		p.NetDevices = d.netDevices(p, nets)
		if d.transport(p) == "iwarp" {
			for i := range p.GIDs {
				p.GIDs[i].Type = iwarp
			}
		}
		d.Ports = append(d.Ports, p)
	}
	slices.SortFunc(d.Ports, func(a, b RDMAPort) int { return cmp.Compare(a.Port, b.Port) })
	if len(d.Ports) > 0 {
		d.Transport = d.transport(d.Ports[0])
	}
	return d
}

func readPort(root fs.FS, dir string, n int) RDMAPort {
	p := RDMAPort{
		Port: n, State: word(line(root, path.Join(dir, "state"))), LinkLayer: line(root, path.Join(dir, "link_layer")),
		Rate: line(root, path.Join(dir, "rate")), GIDs: []GID{},
	}
	free := 0
	for _, i := range numbered(root, path.Join(dir, "gids")) {
		name := strconv.Itoa(i)
		addr, err := netip.ParseAddr(line(root, path.Join(dir, "gids", name)))
		if err != nil || !addr.Is6() || addr.Zone() != "" || addr.IsUnspecified() {
			if free++; free == maxFree { // most entries of most tables are free: all zero
				break
			}
			continue
		}
		free = 0
		p.GIDs = append(p.GIDs, GID{
			Index: i, GID: addr, Type: line(root, path.Join(dir, "gid_attrs/types", name)),
			NetDevice: line(root, path.Join(dir, "gid_attrs/ndevs", name)),
		})
	}
	if p.LinkLayer == "InfiniBand" {
		p.pkeys = readPartitions(root, path.Join(dir, "pkeys"))
	}
	return p
}

// numbered lists the entries of a folder that are numbers, in their order, maxGIDs of them at most.
func numbered(root fs.FS, dir string) []int {
	entries, _ := fs.ReadDir(root, dir)
	var list []int
	for _, e := range entries {
		if i, err := strconv.Atoi(e.Name()); err == nil && i >= 0 {
			list = append(list, i)
		}
	}
	slices.Sort(list)
	return list[:min(len(list), maxGIDs)]
}

// readPartitions reads a port's table of partitions; adapters have 128 entries.
func readPartitions(root fs.FS, dir string) []uint16 {
	var keys []uint16
	for _, i := range numbered(root, dir) {
		k, err := strconv.ParseUint(line(root, path.Join(dir, strconv.Itoa(i))), 0, 16)
		if err != nil || i != len(keys) {
			break
		}
		keys = append(keys, uint16(k))
	}
	return keys
}

// netDevices maps a port to network interfaces. With RoCE the kernel says which: each GID comes from an address of one. With
// IPoIB an interface's hardware address ends in the GUID of its port. With iWARP they are functions of one adapter, or of the
// interface that a software device was put on, and the GID begins with the Ethernet address.
func (d RDMADevice) netDevices(p RDMAPort, nets map[string]netDevice) []string {
	names := []string{}
	for _, g := range p.GIDs {
		if g.NetDevice != "" {
			names = append(names, g.NetDevice)
		}
	}
	if len(names) == 0 {
		for _, n := range nets {
			switch n.hardware {
			case hardwareInfiniBand:
				if p.LinkLayer == "InfiniBand" && slices.ContainsFunc(p.GIDs, n.hasGUID) {
					names = append(names, n.name)
				}
			case hardwareEthernet:
				own := slices.Contains(d.own, n.name) && (n.port == p.Port-1 || len(d.own) == 1)
				if own || len(d.own) == 0 && slices.ContainsFunc(p.GIDs, n.hasMAC) {
					names = append(names, n.name)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// A netDevice is what maps a network interface to an RDMA port.
type netDevice struct {
	name     string
	hardware int // type
	port     int // of its adapter, from 0
	address  []byte
	kind     string   // "vlan", "bond", "bridge"; "" for an interface of its own, and for many others
	lower    []string // the interfaces that it is on top of
	active   string   // of a bond: the one of them that it uses
	pkey     uint16   // of IPoIB: its partition
}

// hasGUID compares the last 8 bytes of both addresses; before them is the subnet, which may not be set yet.
func (n netDevice) hasGUID(g GID) bool {
	b := g.GID.As16()
	return len(n.address) == 20 && slices.Equal(n.address[12:], b[8:])
}

func (n netDevice) hasMAC(g GID) bool {
	b := g.GID.As16()
	return len(n.address) == 6 && slices.Equal(n.address, b[:6])
}

func readNetDevices(root fs.FS) map[string]netDevice {
	entries, _ := fs.ReadDir(root, "sys/class/net")
	all := make(map[string]netDevice, len(entries))
	for _, e := range entries {
		all[e.Name()] = readNetDevice(root, e.Name())
	}
	return all
}

func readNetDevice(root fs.FS, name string) netDevice {
	dir := path.Join("sys/class/net", name)
	n := netDevice{name: name, hardware: number(root, path.Join(dir, "type")), port: number(root, path.Join(dir, "dev_port"))}
	for part := range strings.SplitSeq(line(root, path.Join(dir, "address")), ":") {
		b, err := strconv.ParseUint(part, 16, 8)
		if err != nil {
			n.address = nil
			break
		}
		n.address = append(n.address, byte(b))
	}
	for l := range strings.Lines(line(root, path.Join(dir, "uevent"))) {
		if kind, ok := strings.CutPrefix(strings.TrimSpace(l), "DEVTYPE="); ok {
			n.kind = kind
		}
	}
	links, _ := fs.ReadDir(root, dir)
	for _, l := range links {
		if lower, ok := strings.CutPrefix(l.Name(), "lower_"); ok {
			n.lower = append(n.lower, lower)
		}
	}
	if n.kind == "bond" {
		n.active = line(root, path.Join(dir, "bonding/active_slave"))
	}
	if n.hardware == hardwareInfiniBand {
		n.pkey = uint16(max(0, number(root, path.Join(dir, "pkey"))))
	}
	return n
}

// readCharDevices returns the verbs devices of each RDMA device.
func readCharDevices(root fs.FS) map[string][]string {
	entries, _ := fs.ReadDir(root, "sys/class/infiniband_verbs")
	devices := map[string][]string{}
	for _, e := range entries {
		if device := line(root, path.Join("sys/class/infiniband_verbs", e.Name(), "ibdev")); device != "" {
			devices[device] = append(devices[device], e.Name())
		}
	}
	return devices
}

// word returns the text of a value that sysfs gives with its number: "4: ACTIVE", "1: CA".
func word(s string) string {
	if _, text, ok := strings.Cut(s, ": "); ok {
		return text
	}
	return s
}
