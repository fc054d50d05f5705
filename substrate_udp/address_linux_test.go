package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/netem"
	"github.com/sockemu/sockemu/substrate"
)

// TestAddressChange takes the address away from either end, in its network namespace, in the middle of a transfer, and gives it another
// one: the same link goes on, byte by byte.
func TestAddressChange(t *testing.T) {
	for _, end := range []string{"dialer", "listener"} {
		for _, direction := range []string{"sends", "receives"} {
			t.Run(end+" that "+direction, func(t *testing.T) {
				im := netem.MustParse("rate=100mbit,delay=1ms")
				p, err := netem.NewPath(netem.PathConfig{Up: im, Down: im})
				if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
					t.Skip(err)
				}
				require.NoError(t, err)
				defer func() { require.NoError(t, p.Close()) }()
				x, y := newTest(t, Options{PathDown: 20 * time.Second}), newTest(t, Options{PathDown: 20 * time.Second})
				var ln substrate.Listener
				var a, b substrate.Link
				require.NoError(t, p.B.In(func() (err error) {
					ln, err = y.Listen(t.Context(), "0.0.0.0:0")
					return err
				}))
				defer ln.Close()
				port := ln.Addr().(*net.UDPAddr).Port
				require.NoError(t, p.A.In(func() (err error) {
					a, err = x.Dial(t.Context(), fmt.Sprintf("%v:%d", p.B.Addr, port))
					return err
				}))
				defer a.Close()
				b, err = ln.Accept()
				require.NoError(t, err)
				defer b.Close()

				host, peer, fresh := p.A, p.B, "10.77.1.1"
				if end == "listener" {
					host, peer, fresh = p.B, p.A, "10.77.1.2"
				}
				require.NoError(t, addAddress(peer, "10.77.1.3", host.Addr))
				from, to := a, b
				if (end == "dialer") != (direction == "sends") {
					from, to = b, a
				}
				const size, at = 8 << 20, 3 << 20
				want := simStream(1, 0, size)
				sent := make(chan error, 1)
				go func() {
					for off := 0; off < size; off += 64 << 10 {
						if _, err := from.Send(uint64(off), [][]byte{want[off : off+64<<10]}); err != nil {
							sent <- err
							return
						}
					}
					sent <- nil
				}()
				require.NoError(t, to.SetRecvDeadline(time.Now().Add(60*time.Second)))
				got := make([]byte, size)
				longest, last := time.Duration(0), time.Now()
				for n, changed := 0, false; n < size; {
					if n >= at && !changed {
						changed = true
						require.NoError(t, addAddress(host, fresh, peer.Addr))
						require.NoError(t, dropAddress(host))
						last = time.Now()
					}
					k, err := to.Recv(got[n:])
					require.NoError(t, err, "after %d bytes", n)
					now := time.Now()
					longest, last = max(longest, now.Sub(last)), now
					n += k
				}
				require.NoError(t, <-sent)
				require.Equal(t, want, got)
				t.Logf("nothing came for %v", longest.Round(time.Millisecond))
				require.Less(t, longest, 10*time.Second, "1 s is the aim, on a machine that has time")
				moved := x
				if end == "dialer" {
					moved = y
				}
				require.NotZero(t, moved.Stats().Migrations)
			})
		}
	}
}

// addAddress gives the host's interface an address, and a route to another one that doesn't depend on the address it had.
func addAddress(h *netem.Host, ip string, to netip.Addr) error {
	return onInterface(h, func(c *rtnetlink.Conn, index uint32) error {
		a := net.IP(netip.MustParseAddr(ip).AsSlice())
		err := c.Address.New(&rtnetlink.AddressMessage{
			Family: familyIPv4, PrefixLength: 29, Index: index,
			Attributes: &rtnetlink.AddressAttributes{Address: a, Local: a},
		})
		if err != nil {
			return err
		}
		return c.Route.Replace(&rtnetlink.RouteMessage{
			Family: familyIPv4, Table: 254, DstLength: 32, Type: 1, Scope: 253, Protocol: 4,
			Attributes: rtnetlink.RouteAttributes{Dst: to.AsSlice(), OutIface: index},
		})
	})
}

const familyIPv4 = 2 // AF_INET

// dropAddress takes away the address that the host had from the beginning.
func dropAddress(h *netem.Host) error {
	return onInterface(h, func(c *rtnetlink.Conn, index uint32) error {
		a := net.IP(h.Addr.AsSlice())
		return c.Address.Delete(&rtnetlink.AddressMessage{
			Family: familyIPv4, PrefixLength: 30, Index: index,
			Attributes: &rtnetlink.AddressAttributes{Address: a, Local: a},
		})
	})
}

func onInterface(h *netem.Host, f func(c *rtnetlink.Conn, index uint32) error) error {
	return h.In(func() error {
		c, err := rtnetlink.Dial(nil)
		if err != nil {
			return err
		}
		defer c.Close()
		i, err := net.InterfaceByName("netem0")
		if err != nil {
			return err
		}
		return f(c, uint32(i.Index))
	})
}
