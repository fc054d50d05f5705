package inventory

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
)

// ErrNoRDMA is what errors of the mapping from addresses to RDMA ports wrap; their text says why there is none.
var ErrNoRDMA = errors.New("no RDMA")

// A Mapping says with which port of which RDMA device, and with which entry of its table of GIDs, packets are sent that have a
// certain address of this host as their source.
type Mapping struct {
	Address   netip.Addr `json:"address"`    // of this host
	NetDevice string     `json:"net_device"` // the interface that has it
	Device    string     `json:"device"`
	Port      int        `json:"port"`
	Transport string     `json:"transport"` // "roce", "infiniband" or "iwarp"
	GIDIndex  int        `json:"gid_index"`
	GID       netip.Addr `json:"gid"`
	GIDType   string     `json:"gid_type"`
	PKeyIndex int        `json:"pkey_index"` // of the interface's partition in the port's table; 0 but for InfiniBand
}

// String is for logs: "10.0.0.1 on eth1: mlx5_0 port 1, GID 3 (RoCE v2)".
func (m Mapping) String() string {
	return fmt.Sprintf("%v on %s: %s port %d, GID %d (%s)", m.Address, m.NetDevice, m.Device, m.Port, m.GIDIndex, m.GIDType)
}

// MapLocal maps an address of this host to the RDMA port that sends from it. Errors wrap ErrNoRDMA if there is none.
func MapLocal(local netip.Addr) (Mapping, error) {
	root := os.DirFS("/")
	list, err := interfaces(root)
	if err != nil {
		return Mapping{}, err
	}
	i, err := holder(list, local)
	if err != nil {
		return Mapping{}, err
	}
	return mapOn(root, i, local)
}

// MapTo maps the address of another host to the RDMA port through which this host reaches it: the kernel's route says from which
// address and interface. Errors wrap ErrNoRDMA if there is none.
func MapTo(peer netip.Addr) (Mapping, error) {
	root := os.DirFS("/")
	list, err := interfaces(root)
	if err != nil {
		return Mapping{}, err
	}
	w, err := wayTo(peer, list)
	if err != nil {
		return Mapping{}, err
	}
	m, err := mapOn(root, w.out, w.source)
	if err != nil {
		return Mapping{}, fmt.Errorf("the way to %v is from %v on %s: %w", peer, w.source, w.out.Name, err)
	}
	if w.gateway.IsValid() && m.Transport == "roce" && m.GIDType != rocev2 {
		return Mapping{}, fmt.Errorf("%w: %v is behind the router %v, and %s port %d has only a RoCE v1 GID for %v, whose packets stay on their link",
			ErrNoRDMA, peer, w.gateway, m.Device, m.Port, w.source)
	}
	return m, nil
}

// A way is where packets for a host go, and what they have as their source.
type way struct {
	out     Interface
	source  netip.Addr
	gateway netip.Addr // not valid for a host on the link
}

// holder returns the interface that has an address.
func holder(list []Interface, a netip.Addr) (Interface, error) {
	for _, i := range list {
		if zone := a.Zone(); zone != "" && zone != i.Name {
			continue // an IPv6 link has the same addresses as any other
		}
		for _, p := range i.Addresses {
			if p.Addr() == a.Unmap().WithZone("") {
				return i, nil
			}
		}
	}
	return Interface{}, fmt.Errorf("%w: %v is no address of this host", ErrNoRDMA, a)
}

func mapOn(root fs.FS, i Interface, local netip.Addr) (Mapping, error) {
	r := ReadRDMA(root)
	// sysfs may show another network namespace than the thread's: there an interface of that name is another one.
	if r.None == "" && fs.ValidPath(i.Name) && number(root, path.Join("sys/class/net", i.Name, "ifindex")) != i.Index {
		return Mapping{}, fmt.Errorf("%w: /sys shows another network namespace than that of %s", ErrNoRDMA, i.Name)
	}
	return r.Map(i.Name, local)
}

// Map returns the RDMA port with which packets from local are sent, an address of the interface netdevice. If there are several,
// it prefers RoCE v2 to v1, and the port whose own interface a bond uses at the moment. Errors wrap ErrNoRDMA and say why.
func (r RDMA) Map(netdevice string, local netip.Addr) (Mapping, error) {
	if r.None != "" {
		return Mapping{}, fmt.Errorf("%w: %s", ErrNoRDMA, r.None)
	}
	local = local.Unmap().WithZone("")
	var best Mapping
	var reasons []string
	rank := -1
	for _, d := range r.Devices {
		for _, p := range d.Ports {
			if !r.carries(p, netdevice) {
				continue
			}
			m, why := r.mapPort(d, p, netdevice, local)
			if why != "" {
				reasons = append(reasons, fmt.Sprintf("%s port %d: %s", d.Name, p.Port, why))
				continue
			}
			n := 0
			if m.GIDType == rocev2 {
				n += 2
			}
			if active := r.nets[netdevice].active; active != "" && slices.Contains(d.own, active) {
				n++
			}
			if n > rank {
				best, rank = m, n
			}
		}
	}
	switch {
	case rank >= 0:
		return best, nil
	case len(reasons) > 0:
		return Mapping{}, fmt.Errorf("%w: %s", ErrNoRDMA, strings.Join(reasons, "; "))
	}
	return Mapping{}, fmt.Errorf("%w: no RDMA device for the interface %s", ErrNoRDMA, netdevice)
}

// carries is whether the port's packets could be those of an interface: its own, or one on top.
func (r RDMA) carries(p RDMAPort, netdevice string) bool {
	if slices.Contains(p.NetDevices, netdevice) {
		return true
	}
	for _, lower := range r.below(netdevice) {
		if slices.Contains(p.NetDevices, lower) {
			return true
		}
	}
	return false
}

// below lists what an interface is on top of, however deep.
func (r RDMA) below(netdevice string) []string {
	all := []string{netdevice}
	for i := 0; i < len(all) && len(all) < maxStack; i++ {
		for _, lower := range r.nets[all[i]].lower {
			if !slices.Contains(all, lower) {
				all = append(all, lower)
			}
		}
	}
	return all[1:]
}

// maxStack bounds the interfaces below another one that are looked at: a bridge may have a thousand.
const maxStack = 64

// mapPort maps an address through one port, or says why that can't be.
func (r RDMA) mapPort(d RDMADevice, p RDMAPort, netdevice string, local netip.Addr) (m Mapping, why string) {
	switch {
	case p.State != "ACTIVE":
		return m, "it is " + p.State
	case len(d.CharDevices) == 0:
		return m, "programs can't use it (no uverbs device; is the module ib_uverbs loaded?)"
	}
	m = Mapping{Address: local, NetDevice: netdevice, Device: d.Name, Port: p.Port, Transport: d.transport(p)}
	net := r.nets[netdevice]
	var g GID
	var ok bool
	switch m.Transport {
	case "roce":
		if g, ok = p.GIDFor(netdevice, local); !ok {
			return m, fmt.Sprintf("its table of GIDs has no entry for %v on %s", local, netdevice)
		}
	case "infiniband":
		if g, ok = first(p.GIDs, net.hasGUID); !ok {
			return m, fmt.Sprintf("its table of GIDs has no entry for %s", netdevice)
		}
		if m.PKeyIndex, ok = p.partition(net.pkey); !ok {
			return m, fmt.Sprintf("its partition table has no entry for that of %s, %#04x", netdevice, net.pkey)
		}
	case "iwarp":
		// The device takes VLANs into account by itself; other things on top of its interface it doesn't know.
		if !slices.Contains(p.NetDevices, netdevice) && net.kind != "vlan" {
			return m, fmt.Sprintf("iWARP can't send through %s, which is on top of its interface", netdevice)
		}
		if len(p.GIDs) == 0 {
			return m, "its table of GIDs is empty"
		}
		g = p.GIDs[0] // the only one
	default:
		return m, fmt.Sprintf("its link layer %q isn't known", p.LinkLayer)
	}
	m.GIDIndex, m.GID, m.GIDType = g.Index, g.GID, g.Type
	return m, ""
}

func first(list []GID, fits func(GID) bool) (GID, bool) {
	if i := slices.IndexFunc(list, fits); i >= 0 {
		return list[i], true
	}
	return GID{}, false
}

// partition returns the index of a partition in the port's table. The first bit only says how much a member may do there. An
// interface that tells none is in the default one, the table's first.
func (p RDMAPort) partition(key uint16) (int, bool) {
	if key == 0 {
		return 0, true
	}
	for i, k := range p.pkeys {
		if k&0x7fff == key&0x7fff {
			return i, true
		}
	}
	return 0, false
}

// transport is what a port of the device speaks.
func (d RDMADevice) transport(p RDMAPort) string {
	switch {
	case d.NodeType == "RNIC":
		return "iwarp"
	case p.LinkLayer == "Ethernet":
		return "roce"
	case p.LinkLayer == "InfiniBand":
		return "infiniband"
	}
	return ""
}

// An RDMAAddress is an address of this host and its mapping, or the reason why it has none.
type RDMAAddress struct {
	Address   netip.Addr `json:"address"`
	NetDevice string     `json:"net_device"`
	Mapping   *Mapping   `json:"mapping"`
	Reason    string     `json:"reason,omitempty"`
}

// addresses maps all addresses of the interfaces, if there is any RDMA device.
func (r RDMA) addresses(list []Interface) []RDMAAddress {
	if len(r.Devices) == 0 {
		return nil
	}
	var all []RDMAAddress
	for _, i := range list {
		if i.Kind == "loopback" {
			continue
		}
		for _, p := range i.Addresses {
			a := RDMAAddress{Address: p.Addr(), NetDevice: i.Name}
			if m, err := r.Map(i.Name, p.Addr()); err == nil {
				a.Mapping = &m
			} else {
				a.Reason = strings.TrimPrefix(err.Error(), ErrNoRDMA.Error()+": ")
			}
			all = append(all, a)
		}
	}
	return all
}
