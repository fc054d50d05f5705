package sys

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTUN: what a socket in a namespace sends comes out of the interface as an IP packet, complete with its checksum, and the
// caller's own network never sees the interface.
func TestTUN(t *testing.T) {
	ns, err := NewNetNS()
	if errors.Is(err, os.ErrPermission) {
		t.Skip(err)
	}
	require.NoError(t, err)
	defer ns.Close()
	prefix := netip.MustParsePrefix("10.78.0.1/24")
	var tun *os.File
	var mtu int
	err = InNetNS(ns, func() (err error) {
		if tun, err = TUN("tun7", prefix, 1400); err != nil {
			return err
		}
		i, err := net.InterfaceByName("tun7")
		if err == nil {
			mtu = i.MTU
		}
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		t.Skip(err)
	}
	require.NoError(t, err)
	defer tun.Close()
	require.Equal(t, 1400, mtu)
	_, err = net.InterfaceByName("tun7")
	require.Error(t, err, "only in its namespace")

	var c net.Conn
	require.NoError(t, InNetNS(ns, func() (err error) {
		c, err = net.Dial("udp4", "10.78.0.99:7") // within the prefix: no other route exists
		return err
	}))
	defer c.Close()
	_, err = c.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, tun.SetReadDeadline(time.Now().Add(10*time.Second)))
	p := make([]byte, 2000)
	n, err := tun.Read(p)
	require.NoError(t, err)
	require.Equal(t, 20+8+5, n)
	require.EqualValues(t, 0x45, p[0])
	require.Equal(t, prefix.Addr(), netip.AddrFrom4([4]byte(p[12:16])))
	require.Equal(t, "hello", string(p[28:n]))
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	require.EqualValues(t, 0xffff, sum>>16+sum&0xffff)

	require.Error(t, InNetNS(ns, func() error {
		_, err := TUN("a name that is too long for an interface", prefix, 1400)
		return err
	}))
	require.ErrorContains(t, InNetNS(ns, func() error {
		_, err := TUN("tun8", prefix, 1)
		return err
	}), "MTU")
}
