//go:build linux

package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/jsimonetti/rtnetlink/v2/driver"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Namespace is a network of its own. It has no name: it lives as long as this process keeps it open or a process runs in
// it, so nothing is left behind even if this process is killed.
type Namespace struct {
	file *os.File
	addr netip.Addr
}

// Addr is the address of the namespace's end of the cable.
func (n *Namespace) Addr() netip.Addr { return n.addr }

func (n *Namespace) enter() error {
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	return nil
}

// A Cable is two namespaces joined by a veth pair.
type Cable struct{ A, B *Namespace }

// The addresses of a cable's ends. They can't collide with anything: no other interface exists in the namespaces.
var (
	addrA = netip.MustParseAddr("10.118.0.1")
	addrB = netip.MustParseAddr("10.118.0.2")
)

const cableBits = 30 // prefix length of the cable's network

// NewCable makes two namespaces and joins them. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
func NewCable() (*Cable, error) {
	a, err := newNamespace(addrA)
	if err != nil {
		return nil, err
	}
	b, err := newNamespace(addrB)
	if err != nil {
		return nil, errors.Join(err, a.file.Close())
	}
	c := &Cable{A: a, B: b}
	if err := c.join(); err != nil {
		return nil, errors.Join(fmt.Errorf("join two network namespaces by a veth pair: %w", err), c.Close())
	}
	return c, nil
}

// Close lets the namespaces go. They, and the veth pair in them, are gone when the last process in them has ended.
func (c *Cable) Close() error { return errors.Join(c.A.file.Close(), c.B.file.Close()) }

// join puts one end of a new veth pair into each namespace. The pair is born there: the caller's network never sees it.
func (c *Cable) join() error {
	err := c.A.netlink(func(nl *rtnetlink.Conn) error {
		return nl.Link.New(&rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{
			Name: "veth0",
			Info: &rtnetlink.LinkInfo{Kind: "veth", Data: &driver.Veth{
				PeerInfo: &rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{
					Name:  "veth0",
					NetNS: rtnetlink.NetNSForFD(uint32(c.B.file.Fd())),
				}},
			}},
		}})
	})
	if err != nil {
		return err
	}
	return errors.Join(c.A.up(), c.B.up())
}

// up gives the cable's end its address and switches it on, and the loopback too.
func (n *Namespace) up() error {
	return n.netlink(func(nl *rtnetlink.Conn) error {
		links, err := nl.Link.List()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Attributes == nil || l.Attributes.Name != "veth0" && l.Attributes.Name != "lo" {
				continue // tunnels that the kernel puts into every namespace
			}
			if l.Attributes.Name == "veth0" {
				if err := nl.Address.New(n.address(l.Index)); err != nil {
					return fmt.Errorf("give %s its address: %w", l.Attributes.Name, err)
				}
			}
			if err := nl.Link.Set(&rtnetlink.LinkMessage{Index: l.Index, Flags: unix.IFF_UP, Change: unix.IFF_UP}); err != nil {
				return fmt.Errorf("switch %s on: %w", l.Attributes.Name, err)
			}
		}
		return nil
	})
}

func (n *Namespace) address(index uint32) *rtnetlink.AddressMessage {
	ip := net.IP(n.addr.AsSlice())
	return &rtnetlink.AddressMessage{
		Family: unix.AF_INET, PrefixLength: cableBits, Scope: unix.RT_SCOPE_UNIVERSE, Index: index,
		Attributes: &rtnetlink.AddressAttributes{Address: ip, Local: ip},
	}
}

// netlink calls fn with a route netlink connection of the namespace.
func (n *Namespace) netlink(fn func(*rtnetlink.Conn) error) error {
	nl, err := rtnetlink.Dial(&netlink.Config{NetNS: int(n.file.Fd())})
	if err != nil {
		return err
	}
	return errors.Join(fn(nl), nl.Close())
}

func newNamespace(addr netip.Addr) (*Namespace, error) {
	n := &Namespace{addr: addr}
	err := onThread(true, func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		n.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}
