package netem

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/internal/sys"
)

var codepoints = []ECN{NotECT, ECT1, ECT0, CE}

// TestMarking: behind the threshold packets that know of ECN are marked, others wait as ever; nobody is dropped before the queue is full.
func TestMarking(t *testing.T) {
	p := NewPipe(MustParse("rate=8mbit,queue=5000,ecn=2500"), 1)
	for i := range 7 {
		ecn := codepoints[i%4]
		ds := p.AdmitECN(epoch, 1000, ecn)
		if i >= 5 {
			require.Empty(t, ds)
			continue
		}
		require.Len(t, ds, 1)
		want := ecn
		if i >= 2 && ecn != NotECT {
			want = CE
		}
		require.Equal(t, want, ds[0].ECN, "packet %d", i)
	}
	s := p.Stats()
	require.EqualValues(t, 1, s.Marked, "one came with the mark, one knew nothing")
	require.EqualValues(t, 2, s.QueueFull)
	require.Equal(t, (1+2+3+4+5)*time.Millisecond, s.Waited)
	require.Equal(t, 3*time.Millisecond, s.MeanWait())
	require.Equal(t, ECT0, p.AdmitECN(epoch.Add(4*time.Millisecond), 1000, ECT0)[0].ECN, "it is short again")
	require.Zero(t, new(Stats).MeanWait())
}

// TestBleachAndMangle: what the path does to codepoints, it does to all, also to those it has marked, and to copies.
func TestBleachAndMangle(t *testing.T) {
	for spec, want := range map[string]func(ECN) ECN{
		"dup=100%": func(e ECN) ECN { return e },
		"rate=8mbit,ecn=1,dup=100%": func(e ECN) ECN {
			if e == NotECT {
				return e
			}
			return CE
		},
		"rate=8mbit,ecn=1,dup=100%,bleach": func(ECN) ECN { return NotECT },
		"dup=100%,mangle":                  func(ECN) ECN { return CE },
	} {
		p := NewPipe(MustParse(spec), 1)
		for _, e := range codepoints {
			ds := p.AdmitECN(epoch, 100, e)
			require.Len(t, ds, 2)
			require.Equal(t, want(e), ds[0].ECN, "%s: %v", spec, e)
			require.Equal(t, want(e), ds[1].ECN, "%s: %v", spec, e)
		}
	}
	require.Equal(t, "Not-ECT ECT(1) ECT(0) CE ECN(9)", NotECT.String()+" "+ECT1.String()+" "+ECT0.String()+" "+CE.String()+" "+ECN(9).String())
}

// TestSetECN: an IP packet gets the codepoint, its header's checksum stays right, and nothing else changes.
func TestSetECN(t *testing.T) {
	sum := func(h []byte) uint16 {
		var s uint32
		for i := 0; i < len(h); i += 2 {
			s += uint32(binary.BigEndian.Uint16(h[i:]))
		}
		for s > 0xffff {
			s = s&0xffff + s>>16
		}
		return uint16(s)
	}
	rapid.Check(t, func(t *rapid.T) {
		e := rapid.SampledFrom(codepoints).Draw(t, "codepoint")
		b := rapid.SliceOfN(rapid.Byte(), 40, 60).Draw(t, "packet")
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[10:], 0)
		binary.BigEndian.PutUint16(b[10:], ^sum(b[:20]))
		was := append([]byte(nil), b...)
		setECN(b, e)
		require.Equal(t, e, ecnOf(b))
		require.EqualValues(t, 0xffff, sum(b[:20]))
		setECN(b, ecnOf(was))
		require.EqualValues(t, 0xffff, sum(b[:20]))
		b[10], b[11] = was[10], was[11] // the other zero of one's complement is as good
		require.Equal(t, was, b)

		b[0] = 0x60
		was = append(was[:0], b...)
		setECN(b, e)
		require.Equal(t, e, ecnOf(b))
		setECN(b, ecnOf(was))
		require.Equal(t, was, b)

		short := rapid.SliceOfN(rapid.Byte(), 0, 39).Draw(t, "short")
		setECN(short, ecnOf(short))
	})
}

// TestForwardUDPCarriesECN: codepoints of real sockets come through, marked or cleared on the way as the path says.
func TestForwardUDPCarriesECN(t *testing.T) {
	server, client := udpSocket(t), udpSocket(t)
	prepare(server)
	prepare(client)
	f := forward(t, UDPConfig{Down: MustParse("mangle")}, server)
	to := f.Addr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
	p, ctl := make([]byte, 100), make([]byte, controlSize)
	if sys.AppendUDPECN(nil, to.Addr(), byte(CE)) == nil {
		t.Skip("no codepoints on this system")
	}
	for _, e := range codepoints {
		_, _, err := client.WriteMsgUDPAddrPort([]byte("up"), markFor(to.Addr(), e), to)
		require.NoError(t, err)
		n, k, _, from, err := server.ReadMsgUDPAddrPort(p, ctl)
		require.NoError(t, err)
		require.Equal(t, "up", string(p[:n]))
		require.Equal(t, e, ECN(sys.UDPECN(ctl[:k])))
		_, _, err = server.WriteMsgUDPAddrPort([]byte("down"), markFor(from.Addr(), e), from)
		require.NoError(t, err)
		_, k, _, _, err = client.ReadMsgUDPAddrPort(p, ctl)
		require.NoError(t, err)
		require.Equal(t, CE, ECN(sys.UDPECN(ctl[:k])))
	}
}
