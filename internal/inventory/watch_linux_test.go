package inventory

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/jsimonetti/rtnetlink/v2/driver"
	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
)

// inNamespace runs fn on a thread in a new network namespace, and returns a connection to change that namespace with. The test
// waits for the end of fn.
func inNamespace(t *testing.T, fn func()) *rtnetlink.Conn {
	t.Helper()
	type made struct {
		file *os.File
		err  error
	}
	ready, done := make(chan made, 1), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			ready <- made{err: err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		ready <- made{f, err}
		if err == nil {
			fn()
		}
	}()
	t.Cleanup(func() { <-done })
	m := <-ready
	if m.err != nil {
		t.Skipf("no network namespace: %v", m.err)
	}
	defer m.file.Close()
	c, err := rtnetlink.Dial(&netlink.Config{NetNS: int(m.file.Fd())})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// seen collects what a watch tells.
type seen struct {
	t      *testing.T
	events chan Event
	all    []Change
}

// wait waits until changes that begin with each of these words have been told, and forgets what was.
func (s *seen) wait(texts ...string) {
	s.t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for {
		missing := slices.DeleteFunc(slices.Clone(texts), func(text string) bool {
			return slices.ContainsFunc(s.all, func(c Change) bool { return strings.HasPrefix(c.Text, text) })
		})
		if len(missing) == 0 {
			s.all = nil
			return
		}
		select {
		case e := <-s.events:
			s.all = append(s.all, e.Changes...)
		case <-limit.C:
			require.FailNow(s.t, "not told", "%q missing in %q", missing, s.all)
		}
	}
}

func startWatch(t *testing.T) (*rtnetlink.Conn, *seen) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &seen{t: t, events: make(chan Event, 1000)}
	result := make(chan error, 1)
	c := inNamespace(t, func() {
		result <- Watch(ctx, func(e Event) { s.events <- e })
	})
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-result)
	})
	require.Empty(t, (<-s.events).Changes)
	return c, s
}

func up(t *testing.T, c *rtnetlink.Conn, index uint32, flags uint32) {
	t.Helper()
	require.NoError(t, c.Link.Set(&rtnetlink.LinkMessage{Index: index, Flags: flags, Change: flagUp}))
}

func newAddress(index uint32, ip string, bits uint8) *rtnetlink.AddressMessage {
	a := net.IP(netip.MustParseAddr(ip).AsSlice())
	return &rtnetlink.AddressMessage{
		Family: familyIPv4, PrefixLength: bits, Index: index,
		Attributes: &rtnetlink.AddressAttributes{Address: a, Local: a},
	}
}

// TestWatch changes a network namespace of its own.
func TestWatch(t *testing.T) {
	c, s := startWatch(t)
	up(t, c, 1, flagUp)
	s.wait("interface lo: up, was down", "address 127.0.0.1/8 added to lo")

	require.NoError(t, c.Address.New(newAddress(1, "10.0.0.7", 24)))
	s.wait("address 10.0.0.7/24 added to lo")

	require.NoError(t, c.Route.Add(&rtnetlink.RouteMessage{
		Family: familyIPv4, Table: tableMain, DstLength: 16, Type: 1, Scope: 253, Protocol: 4,
		Attributes: rtnetlink.RouteAttributes{Dst: net.IPv4(10, 9, 0, 0), OutIface: 1},
	}))
	s.wait("route to 10.9.0.0/16 on lo added")
	require.NoError(t, c.Route.Delete(&rtnetlink.RouteMessage{
		Family: familyIPv4, Table: tableMain, DstLength: 16, Type: 1, Scope: 253,
		Attributes: rtnetlink.RouteAttributes{Dst: net.IPv4(10, 9, 0, 0), OutIface: 1},
	}))
	s.wait("route to 10.9.0.0/16 on lo removed")

	require.NoError(t, c.Address.Delete(newAddress(1, "10.0.0.7", 24)))
	s.wait("address 10.0.0.7/24 removed from lo")

	require.NoError(t, c.Link.New(&rtnetlink.LinkMessage{Index: 77, Attributes: &rtnetlink.LinkAttributes{
		Name: "v0", Info: &rtnetlink.LinkInfo{Kind: "veth", Data: &driver.Veth{
			PeerInfo: &rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{Name: "v1"}},
		}},
	}}))
	s.wait("interface v0 is new (veth, down)", "interface v1 is new (veth, down)")
	up(t, c, 77, flagUp)
	s.wait("interface v0: no carrier") // perhaps said to be up first: the kernel looks at the carrier a little later
	require.NoError(t, c.Link.Delete(77))
	s.wait("interface v0 is gone", "interface v1 is gone")

	up(t, c, 1, 0)
	s.wait("interface lo: down, was up")
}

// TestWatchOverflow: a watcher that doesn't look is told that it has missed something.
func TestWatchOverflow(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun, look, result := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	lost := false
	c := inNamespace(t, func() {
		first := true
		result <- Watch(ctx, func(e Event) {
			if first {
				first = false
				close(begun)
				<-look
			}
			if slices.ContainsFunc(e.Changes, func(c Change) bool { return c.Kind == "lost" }) {
				lost = true
				cancel()
			}
		})
	})
	<-begun
	up(t, c, 1, flagUp)
	for range 1000 { // a notification takes some 1 KiB of the socket's buffer, which has 208 KiB by default
		require.NoError(t, c.Address.New(newAddress(1, "10.0.0.7", 24)))
		require.NoError(t, c.Address.Delete(newAddress(1, "10.0.0.7", 24)))
	}
	close(look)
	require.NoError(t, <-result)
	require.True(t, lost)
}

// TestWatchEnds: before it begins, and while f runs.
func TestWatchEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, Watch(ctx, func(Event) { cancel() }))
	require.NoError(t, Watch(ctx, func(e Event) { require.Empty(t, e.Changes) }))
}

// TestHostInNamespace: a snapshot is of the thread's own namespace, where sysfs may show another one's interfaces.
func TestHostInNamespace(t *testing.T) {
	var before, after Inventory
	step := make(chan struct{})
	c := inNamespace(t, func() {
		before = Host()
		step <- struct{}{}
		<-step
		after = Host()
		step <- struct{}{}
	})
	<-step
	up(t, c, 1, flagUp)
	require.NoError(t, c.Address.New(newAddress(1, "10.0.0.7", 24)))
	require.NoError(t, c.Route.Add(&rtnetlink.RouteMessage{
		Family: familyIPv4, Table: tableMain, Type: 1, Protocol: 4,
		Attributes: rtnetlink.RouteAttributes{Gateway: net.IPv4(10, 0, 0, 1), OutIface: 1, Priority: 5},
	}))
	step <- struct{}{}
	<-step
	require.NotEqual(t, Host().NetworkNamespace, before.NetworkNamespace)
	require.Equal(t, after.NetworkNamespace, before.NetworkNamespace)
	require.Empty(t, before.Routes)
	require.Equal(t, "lo", before.Interfaces[0].Name)
	require.False(t, before.Interfaces[0].Up)
	require.Empty(t, before.Interfaces[0].Addresses)
	require.True(t, after.Interfaces[0].Running)
	require.Contains(t, after.Interfaces[0].Addresses, netip.MustParsePrefix("10.0.0.7/24"))
	require.Contains(t, after.Routes, Route{Destination: netip.MustParsePrefix("0.0.0.0/0"), Type: "unicast", Gateway: "10.0.0.1", Device: "lo", Metric: 5})
	require.Empty(t, after.Problems)
}

// TestSpeed: of the interface itself, not of another namespace's of the same name.
func TestSpeed(t *testing.T) {
	root := tree("sys/class/net/eth0/ifindex: 2\nsys/class/net/eth0/speed: 25000\nsys/class/net/eth1/ifindex: 3\nsys/class/net/eth1/speed: -1")
	require.Equal(t, 25000, speed(root, link{index: 2, name: "eth0"}))
	require.Zero(t, speed(root, link{index: 9, name: "eth0"}))
	require.Zero(t, speed(root, link{index: 3, name: "eth1"}), "unknown")
	require.Zero(t, speed(root, link{index: 3, name: "../eth1"}))
	require.Zero(t, speed(root, link{index: 4, name: ""}))
}

// TestWayTo: to a host on the link, behind a router, to itself, and to nowhere.
func TestWayTo(t *testing.T) {
	type found struct {
		way way
		err error
	}
	asked, told := make(chan string), make(chan found)
	c := inNamespace(t, func() {
		for peer := range asked {
			list, err := interfaces(os.DirFS("/"))
			if err != nil {
				told <- found{err: err}
				continue
			}
			w, err := wayTo(netip.MustParseAddr(peer), list)
			told <- found{w, err}
		}
	})
	defer close(asked)
	require.NoError(t, c.Link.New(&rtnetlink.LinkMessage{Index: 77, Attributes: &rtnetlink.LinkAttributes{
		Name: "v0", Info: &rtnetlink.LinkInfo{Kind: "veth", Data: &driver.Veth{
			PeerInfo: &rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{Name: "v1"}},
		}},
	}}))
	up(t, c, 1, flagUp)
	up(t, c, 77, flagUp)
	require.NoError(t, c.Address.New(newAddress(77, "10.0.0.7", 24)))
	require.NoError(t, c.Route.Add(&rtnetlink.RouteMessage{
		Family: familyIPv4, Table: tableMain, DstLength: 16, Type: 1, Protocol: 4,
		Attributes: rtnetlink.RouteAttributes{Dst: net.IPv4(10, 9, 0, 0), Gateway: net.IPv4(10, 0, 0, 1), OutIface: 77},
	}))
	for peer, want := range map[string]string{
		"10.0.0.9": "v0 10.0.0.7 invalid IP", "10.9.1.1": "v0 10.0.0.7 10.0.0.1", "10.0.0.7": "v0 10.0.0.7 invalid IP",
		"127.0.0.1": "lo 127.0.0.1 invalid IP", "::ffff:10.0.0.9": "v0 10.0.0.7 invalid IP", "192.0.2.1": "no RDMA: no way to 192.0.2.1",
	} {
		asked <- peer
		f := <-told
		if f.err != nil {
			require.ErrorIs(t, f.err, ErrNoRDMA)
			require.ErrorContains(t, f.err, want)
			continue
		}
		require.Equal(t, want, fmt.Sprintf("%s %v %v", f.way.out.Name, f.way.source, f.way.gateway), peer)
	}
}
