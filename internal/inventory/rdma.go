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
}

// An RDMAPort is one port of a device.
type RDMAPort struct {
	Port       int      `json:"port"`
	State      string   `json:"state"`       // "ACTIVE", "DOWN", "INIT"...
	LinkLayer  string   `json:"link_layer"`  // "InfiniBand" or "Ethernet"
	Rate       string   `json:"rate"`        // as the driver words it: "100 Gb/sec (4X EDR)"
	NetDevices []string `json:"net_devices"` // whose IP addresses can be reached through this port
	GIDs       []GID    `json:"gids"`        // those in use
}

// A GID is an entry of a port's table of addresses. A connection names the entry's index.
type GID struct {
	Index     int        `json:"index"`
	GID       netip.Addr `json:"gid"`        // that of RoCE v2 over IPv4 is the mapped address: ::ffff:10.0.0.1
	Type      string     `json:"type"`       // "IB/RoCE v1" or "RoCE v2"
	NetDevice string     `json:"net_device"` // "" for InfiniBand
}

const (
	infiniband = "sys/class/infiniband"
	rocev2     = "RoCE v2"
	maxGIDs    = 1024 // read of one port; the largest tables known have 256 entries

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
	r := RDMA{Devices: []RDMADevice{}}
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

func readDevice(root fs.FS, name string, nets []netDevice) RDMADevice {
	dir := path.Join(infiniband, name)
	d := RDMADevice{
		Name: name, NodeType: word(line(root, path.Join(dir, "node_type"))), Firmware: line(root, path.Join(dir, "fw_ver")),
		NodeGUID: line(root, path.Join(dir, "node_guid")), Ports: []RDMAPort{},
	}
	entries, _ := fs.ReadDir(root, path.Join(dir, "ports")) // a device that is just going has none
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p := readPort(root, path.Join(dir, "ports", e.Name()), n)
		p.NetDevices = d.netDevices(root, p, nets)
		d.Ports = append(d.Ports, p)
	}
	slices.SortFunc(d.Ports, func(a, b RDMAPort) int { return cmp.Compare(a.Port, b.Port) })
	switch {
	case d.NodeType == "RNIC":
		d.Transport = "iwarp"
	case len(d.Ports) > 0 && d.Ports[0].LinkLayer == "Ethernet":
		d.Transport = "roce"
	case len(d.Ports) > 0:
		d.Transport = "infiniband"
	}
	return d
}

func readPort(root fs.FS, dir string, n int) RDMAPort {
	p := RDMAPort{
		Port: n, State: word(line(root, path.Join(dir, "state"))), LinkLayer: line(root, path.Join(dir, "link_layer")),
		Rate: line(root, path.Join(dir, "rate")), GIDs: []GID{},
	}
	entries, _ := fs.ReadDir(root, path.Join(dir, "gids"))
	for _, e := range entries[:min(len(entries), maxGIDs)] {
		i, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		addr, err := netip.ParseAddr(line(root, path.Join(dir, "gids", e.Name())))
		if err != nil || !addr.Is6() || addr.Zone() != "" || addr.IsUnspecified() {
			continue // most entries of most tables are free: all zero
		}
		p.GIDs = append(p.GIDs, GID{
			Index: i, GID: addr, Type: line(root, path.Join(dir, "gid_attrs/types", e.Name())),
			NetDevice: line(root, path.Join(dir, "gid_attrs/ndevs", e.Name())),
		})
	}
	slices.SortFunc(p.GIDs, func(a, b GID) int { return cmp.Compare(a.Index, b.Index) })
	return p
}

// netDevices maps a port to network interfaces. With RoCE the kernel says which: each GID comes from an address of one. With
// IPoIB an interface's hardware address ends in the GUID of its port. With iWARP they are functions of one adapter, or of the
// interface that a software device was put on, and the GID begins with the Ethernet address.
func (d RDMADevice) netDevices(root fs.FS, p RDMAPort, nets []netDevice) []string {
	names := []string{}
	for _, g := range p.GIDs {
		if g.NetDevice != "" {
			names = append(names, g.NetDevice)
		}
	}
	if len(names) == 0 {
		adapter := map[string]bool{}
		entries, _ := fs.ReadDir(root, path.Join(infiniband, d.Name, "device/net"))
		for _, e := range entries {
			adapter[e.Name()] = true
		}
		for _, n := range nets {
			switch n.hardware {
			case hardwareInfiniBand:
				if p.LinkLayer == "InfiniBand" && slices.ContainsFunc(p.GIDs, n.hasGUID) {
					names = append(names, n.name)
				}
			case hardwareEthernet:
				if adapter[n.name] && n.port == p.Port-1 || len(adapter) == 0 && slices.ContainsFunc(p.GIDs, n.hasMAC) {
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

func readNetDevices(root fs.FS) []netDevice {
	entries, _ := fs.ReadDir(root, "sys/class/net")
	var list []netDevice
	for _, e := range entries {
		dir := path.Join("sys/class/net", e.Name())
		n := netDevice{name: e.Name(), hardware: number(root, path.Join(dir, "type")), port: number(root, path.Join(dir, "dev_port"))}
		for part := range strings.SplitSeq(line(root, path.Join(dir, "address")), ":") {
			b, err := strconv.ParseUint(part, 16, 8)
			if err != nil {
				n.address = nil
				break
			}
			n.address = append(n.address, byte(b))
		}
		list = append(list, n)
	}
	return list
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
