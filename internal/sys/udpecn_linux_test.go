package sys

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestUDPECN: every codepoint arrives, in batches and alone, over IPv4, IPv6, and IPv4 on a socket of IPv6.
func TestUDPECN(t *testing.T) {
	for _, c := range []struct {
		listen, to string
		v6         bool
	}{{"127.0.0.1:0", "127.0.0.1", false}, {"[::1]:0", "::1", true}, {"[::]:0", "::ffff:127.0.0.1", true}} {
		t.Run(c.to, func(t *testing.T) {
			open := func() (*net.UDPConn, uintptr) {
				pc, err := net.ListenPacket("udp", c.listen)
				if err != nil {
					t.Skip(err)
				}
				t.Cleanup(func() { pc.Close() })
				raw, err := pc.(*net.UDPConn).SyscallConn()
				require.NoError(t, err)
				var fd uintptr
				require.NoError(t, raw.Control(func(f uintptr) { fd = f }))
				_, _, err = SetUDPOptions(fd, c.v6, true)
				require.NoError(t, err)
				require.NoError(t, ReceiveUDPECN(fd, c.v6))
				return pc.(*net.UDPConn), fd
			}
			conn, a := open()
			peer, b := open()
			to := netip.AddrPortFrom(netip.MustParseAddr(c.to), peer.LocalAddr().(*net.UDPAddr).AddrPort().Port())
			r, err := NewUDPReader(4)
			require.NoError(t, err)
			msgs := make([]UDPMessage, 4)
			for i := range msgs {
				msgs[i].Buf = make([]byte, 1<<16)
			}
			var w UDPWriter
			receive := func(size int, ecn byte) {
				require.Eventually(t, func() bool {
					n, err := r.Recv(b, msgs)
					if err != nil {
						return false
					}
					for _, m := range msgs[:n] {
						require.Equal(t, ecn, m.ECN)
						size -= m.N
					}
					return size == 0
				}, 10*time.Second, time.Millisecond)
			}
			for ecn := byte(NotECT); ecn <= CE; ecn++ {
				require.NoError(t, w.Send(a, c.v6, to, [][]byte{[]byte("alone")}, 0, ecn))
				receive(5, ecn)
				require.NoError(t, w.Send(a, c.v6, to, [][]byte{make([]byte, 300)}, 100, ecn))
				receive(300, ecn)
				// And as net.UDPConn does it.
				_, _, err := conn.WriteMsgUDPAddrPort([]byte("net"), AppendUDPECN(nil, to.Addr(), ecn), to)
				require.NoError(t, err)
				ctl := make([]byte, 128)
				require.NoError(t, peer.SetReadDeadline(time.Now().Add(10*time.Second)))
				n, k, _, _, err := peer.ReadMsgUDPAddrPort(msgs[0].Buf, ctl)
				require.NoError(t, err)
				require.Equal(t, 3, n)
				require.Equal(t, ecn, UDPECN(ctl[:k]))
			}
		})
	}
	require.ErrorIs(t, ReceiveUDPECN(^uintptr(0), false), unix.EBADF)
	require.ErrorIs(t, ReceiveUDPECN(^uintptr(0), true), unix.EBADF)
}

// FuzzUDPControl: whatever the control messages, they are read within their bounds.
func FuzzUDPControl(f *testing.F) {
	f.Add(AppendUDPECN(AppendUDPECN(nil, netip.IPv6Loopback(), CE), netip.AddrFrom4([4]byte{}), ECT0))
	f.Fuzz(func(t *testing.T, ctl []byte) {
		segment, ecn := parseUDPControl(ctl, 7)
		require.Positive(t, segment)
		require.LessOrEqual(t, ecn, byte(CE))
	})
}
