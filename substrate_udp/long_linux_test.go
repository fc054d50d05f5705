package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/jsimonetti/rtnetlink/v2/driver"
	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/sys"
	"github.com/sockemu/sockemu/substrate"
)

// A cable is two network namespaces joined by a veth pair.
type cable struct {
	t  *testing.T
	ns [2]*os.File
}

var cableAddrs = [2]string{"10.79.0.1", "10.79.0.2"}

func newCable(t *testing.T) *cable {
	c := &cable{t: t}
	for i := range c.ns {
		ns, err := sys.NewNetNS()
		if errors.Is(err, os.ErrPermission) {
			t.Skip(err)
		}
		require.NoError(t, err)
		t.Cleanup(func() { ns.Close() })
		c.ns[i] = ns
	}
	c.netlink(0, func(nl *rtnetlink.Conn) error {
		return nl.Link.New(&rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{
			Name: "veth0",
			Info: &rtnetlink.LinkInfo{Kind: "veth", Data: &driver.Veth{
				PeerInfo: &rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{
					Name: "veth0", NetNS: rtnetlink.NetNSForFD(uint32(c.ns[1].Fd())),
				}},
			}},
		}})
	})
	for i, addr := range cableAddrs {
		c.netlink(i, func(nl *rtnetlink.Conn) error {
			links, err := nl.Link.List()
			if err != nil {
				return err
			}
			for _, l := range links {
				if l.Attributes == nil || l.Attributes.Name != "veth0" {
					continue
				}
				a := net.IP(netip.MustParseAddr(addr).AsSlice())
				err := nl.Address.New(&rtnetlink.AddressMessage{
					Family: familyIPv4, PrefixLength: 30, Index: l.Index, Attributes: &rtnetlink.AddressAttributes{Address: a, Local: a},
				})
				if err != nil {
					return err
				}
				const up = 1 // IFF_UP
				return nl.Link.Set(&rtnetlink.LinkMessage{Index: l.Index, Flags: up, Change: up})
			}
			return errors.New("no veth0")
		})
	}
	return c
}

func (c *cable) netlink(end int, f func(*rtnetlink.Conn) error) {
	nl, err := rtnetlink.Dial(&netlink.Config{NetNS: int(c.ns[end].Fd())})
	require.NoError(c.t, err)
	defer nl.Close()
	require.NoError(c.t, f(nl))
}

// tc runs tc(8) at one end.
func (c *cable) tc(end int, args ...string) {
	cmd := exec.Command("tc", args...)
	require.NoError(c.t, sys.InNetNS(c.ns[end], func() error {
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}))
}

// pair makes a link from one end to the other; the listener is x's.
func (c *cable) pair(x, y *Substrate) (a, b *link) {
	var ln substrate.Listener
	require.NoError(c.t, sys.InNetNS(c.ns[1], func() (err error) {
		ln, err = x.Listen(c.t.Context(), cableAddrs[1]+":0")
		return err
	}))
	c.t.Cleanup(func() { ln.Close() })
	var l substrate.Link
	require.NoError(c.t, sys.InNetNS(c.ns[0], func() (err error) {
		l, err = y.Dial(c.t.Context(), ln.Addr().String())
		return err
	}))
	c.t.Cleanup(func() { l.Close() })
	m, err := ln.Accept()
	require.NoError(c.t, err)
	c.t.Cleanup(func() { m.Close() })
	return l.(*link), m.(*link)
}

// until moves bytes from one end to the other until ok.
func (c *cable) until(from, to *link, ok func() bool) {
	for start := time.Now(); !ok(); {
		transfer(c.t, from, to, 1<<20)
		require.Less(c.t, time.Since(start), 30*time.Second)
	}
}

// TestLongOverCable: the kernel carries rows over a veth pair as they are. When a queue begins to take them apart the link goes on with short
// packets, and every byte is right.
func TestLongOverCable(t *testing.T) {
	if bootID() == 0 {
		t.Skip("no process knows which host it is on")
	}
	c := newCable(t)
	x, y := newTest(t, Options{}), newTest(t, Options{})
	a, b := c.pair(x, y)
	long := func(l *link) func() bool {
		return func() bool { full, datagram := l.sizes(); return full > datagram }
	}
	transfer(t, a, b, 1<<20)
	if n := make([]byte, longSize); sendRow(t, c, n) != nil {
		t.Skip("this kernel cuts rows into 64 datagrams at most")
	}
	c.until(a, b, long(a))
	c.until(b, a, long(b))
	transfer(t, a, b, 10<<20)
	transfer(t, b, a, 10<<20)
	require.Zero(t, x.Stats().Split+y.Stats().Split)
	require.NotZero(t, y.Stats().LongPaths)
	if _, err := exec.LookPath("tc"); err != nil {
		t.Skip(err)
	}
	c.tc(0, "qdisc", "add", "dev", "veth0", "root", "tbf", "rate", "8gbit", "burst", "20kb", "limit", "10mb")
	c.until(a, b, func() bool { return !long(a)() })
	require.NotZero(t, x.Stats().Split)
	transfer(t, a, b, 5<<20)
	transfer(t, b, a, 5<<20)
}

// sendRow reports whether this kernel sends as many datagrams at once as a row has.
func sendRow(t *testing.T, c *cable, p []byte) error {
	var tr transport
	require.NoError(t, sys.InNetNS(c.ns[0], func() (err error) {
		tr, err = listenKernel(t.Context(), "udp4", cableAddrs[0]+":0")
		return err
	}))
	defer tr.close()
	b := newBatch()
	defer b.free()
	b.vec = append(b.vec, p)
	b.packets = append(b.packets, outPacket{end: 1, size: len(p), segment: segmentOf(len(p)), sealed: true})
	_, err := tr.write(mustAddr(cableAddrs[1]+":9"), b)
	return err
}

// TestLongWithoutGRO: a receiver whose kernel gives it datagrams one by one gets short packets; also if it found that out too late.
func TestLongWithoutGRO(t *testing.T) {
	for _, tells := range []bool{true, false} {
		t.Run(fmt.Sprint(tells), func(t *testing.T) {
			c := newCable(t)
			open := func(ctx context.Context, network, address string) (transport, error) {
				tr, err := listenKernel(ctx, network, address)
				if err != nil {
					return nil, err
				}
				k := tr.(*kernel)
				k.joins = !tells
				if err := k.raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_UDP, 104, 0) }); err != nil { // UDP_GRO
					return nil, err
				}
				return tr, err
			}
			x, y := newTest(t, Options{open: open}), newTest(t, Options{})
			a, b := c.pair(x, y)
			start := time.Now()
			c.until(a, b, func() bool {
				return time.Since(start) > 4*mtuSettle && (tells || x.Stats().Split > 0)
			})
			require.Zero(t, y.Stats().LongPaths)
			require.Equal(t, tells, x.Stats().Split == 0)
		})
	}
}
