// Package inventory lists what this host has to connect with: interfaces, addresses, routes, RDMA devices, shared memory, and what
// its kernel's UDP and TCP can do. Host takes a snapshot; Watch tells when interfaces, addresses or routes change.
//
// Nothing here needs a privilege, and nothing fails as a whole: what can't be found out is missing from the snapshot and has a
// line in its Problems. Off Linux there are interfaces and their addresses, no more.
//
// Sources: rtnetlink(7), sysfs(5), proc(5), the kernel's Documentation/ABI/stable/sysfs-class-infiniband.
package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/sockemu/sockemu/internal/rundir"
	"github.com/sockemu/sockemu/internal/sys"
)

// Inventory is what a host had at one moment, as the network namespace of the caller sees it.
type Inventory struct {
	HostID           string        `json:"host_id"` // of HostID
	Hostname         string        `json:"hostname"`
	OS               string        `json:"os"`
	Arch             string        `json:"arch"`
	Kernel           string        `json:"kernel"` // release
	CPUs             int           `json:"cpus"`   // that this process may use
	NetworkNamespace uint64        `json:"network_namespace"`
	Interfaces       []Interface   `json:"interfaces"`
	Routes           []Route       `json:"routes"`
	RoutesOmitted    int           `json:"routes_omitted,omitempty"` // beyond the first 1000
	RDMA             RDMA          `json:"rdma"`
	RDMAAddresses    []RDMAAddress `json:"rdma_addresses,omitempty"` // through which device each address goes, if there is one
	SharedMemory     SharedMemory  `json:"shared_memory"`
	UDP              UDP           `json:"udp"`
	TCP              TCP           `json:"tcp"`
	Problems         []string      `json:"problems,omitempty"`
}

// An Interface is a network interface.
type Interface struct {
	Name      string         `json:"name"`
	Index     int            `json:"index"`
	Kind      string         `json:"kind"` // "loopback", "ethernet", "infiniband", or the kernel's word: "veth", "bridge", "bond", "vlan"...
	MTU       int            `json:"mtu"`
	Up        bool           `json:"up"`                   // switched on
	Running   bool           `json:"running"`              // and able to carry packets
	Hardware  string         `json:"hardware,omitempty"`   // address
	Master    string         `json:"master,omitempty"`     // the bond or bridge that it belongs to
	SpeedMbps int            `json:"speed_mbps,omitempty"` // 10^6 bits per second; 0: unknown
	Addresses []netip.Prefix `json:"addresses"`
}

// A Route is an entry of the main routing table; one with several next hops is several.
type Route struct {
	Destination netip.Prefix `json:"destination"`
	Type        string       `json:"type"`    // "unicast", "unreachable", "blackhole", "prohibit"...
	Gateway     string       `json:"gateway"` // "" for what is on the link
	Device      string       `json:"device"`
	Metric      uint32       `json:"metric"` // the lower one is preferred
	Source      string       `json:"source"` // address preferred for packets that have none yet, "" if none is
}

// SharedMemory is what can be shared between processes of this host.
type SharedMemory struct {
	Memfd      bool   `json:"memfd"`       // sealed anonymous memory, memfd_create(2)
	RuntimeDir string `json:"runtime_dir"` // where this user's processes meet, "" if there is no such place
}

// UDP is what the kernel's UDP can do: see udp(7).
type UDP struct {
	GSO bool `json:"gso"` // one system call sends many packets (UDP_SEGMENT, Linux 4.18)
	GRO bool `json:"gro"` // one system call receives many (UDP_GRO, Linux 5.0)
}

// TCP is what the kernel's TCP can do.
type TCP struct {
	Congestion string   `json:"congestion"`           // the algorithm that new connections use
	Available  []string `json:"available_congestion"` // those that are loaded
}

// maxRoutes bounds the list: a router of the Internet has a million.
const maxRoutes = 1000

// Host takes a snapshot of this host. It takes about a millisecond (BenchmarkHost), more with large RDMA tables or many routes.
func Host() Inventory {
	root := os.DirFS("/")
	inv := Inventory{HostID: HostID(), OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU()}
	note := func(what string, err error) {
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			inv.Problems = append(inv.Problems, fmt.Sprintf("%s: %v", what, err))
		}
	}
	var err error
	inv.Hostname, err = os.Hostname()
	note("host name", err)
	inv.Kernel = line(root, "proc/sys/kernel/osrelease")
	inv.NetworkNamespace = networkNamespace(root)
	inv.Interfaces, err = interfaces(root)
	note("interfaces", err)
	inv.Routes, inv.RoutesOmitted, err = routes(inv.Interfaces)
	note("routes", err)
	inv.RDMA = ReadRDMA(root)
	inv.RDMAAddresses = inv.RDMA.addresses(inv.Interfaces)
	inv.SharedMemory.Memfd, err = memfd()
	note("shared memory", err)
	inv.SharedMemory.RuntimeDir, err = rundir.Dir()
	note("runtime directory", err)
	inv.UDP.GSO, inv.UDP.GRO, err = sys.UDPOffload()
	note("UDP offload", err)
	inv.TCP = readTCP(root)
	return inv
}

// state is an interface's condition in a word or two.
func state(up, running bool) string {
	switch {
	case up && running:
		return "up"
	case up:
		return "no carrier"
	}
	return "down"
}

// HostID names this host until its next start: 16 hexadecimal digits from the kernel's boot id, "" where there is none. Containers on
// one kernel have the same. It is a hint where to look, no proof: virtual machines that were copied while they ran have the same too.
var HostID = sync.OnceValue(func() string { return hostID(os.DirFS("/")) })

func hostID(root fs.FS) string {
	id := line(root, "proc/sys/kernel/random/boot_id")
	if id == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:8])
}

// networkNamespace returns the inode that is the namespace's identity (namespaces(7)), 0 if it is unknown.
func networkNamespace(root fs.FS) uint64 {
	link, err := fs.ReadLink(root, "proc/thread-self/ns/net") // "net:[4026531840]"
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(link, "net:["), "]"), 10, 64)
	return n
}

// memfd tries whether memory can be had as a sealed file.
func memfd() (bool, error) {
	f, err := sys.SharedMemory("sockemu-inventory", os.Getpagesize())
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

func readTCP(root fs.FS) TCP {
	return TCP{
		Congestion: line(root, "proc/sys/net/ipv4/tcp_congestion_control"),
		Available:  strings.Fields(line(root, "proc/sys/net/ipv4/tcp_available_congestion_control")),
	}
}

// line returns the text of a file of one line, as those of sysfs and of /proc/sys are, "" if it can't be read.
func line(root fs.FS, name string) string {
	f, err := root.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096)) // as long as they can be
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// number returns the number in a file of one line, in decimal or with 0x, -1 if there is none.
func number(root fs.FS, name string) int {
	n, err := strconv.ParseInt(line(root, name), 0, 32)
	if err != nil {
		return -1
	}
	return int(n)
}
