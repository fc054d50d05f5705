package rdma

import (
	"bytes"
	"context"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
	"github.com/sockemu/sockemu/substrate"
)

var goodInfo = info{
	link: verbs.LinkEthernet, mtu: 1024, qp: 17, psn: 0xabcdef, slots: 160, payload: 16360,
	gid: verbs.GID{10: 0xff, 11: 0xff, 12: 10, 15: 1},
}

// TestInfoLayout holds the bytes that go over the wire.
func TestInfoLayout(t *testing.T) {
	require.Equal(t, []byte("SkRD\x01\x02\x00\x04\x11\x00\x00\x00\xef\xcd\xab\x00\x00\x00\xa0\x00\xe8\x3f\x00\x00"+
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x01"), goodInfo.put())
	var i info
	require.NoError(t, i.parse(goodInfo.put()))
	require.Equal(t, goodInfo, i)
	gid, err := PeerGID(goodInfo.put())
	require.NoError(t, err)
	require.Equal(t, "10.0.0.1", gid.String())
}

func TestInfoRefused(t *testing.T) {
	for name, change := range map[string]func(b []byte) []byte{
		"empty":      func(b []byte) []byte { return nil },
		"short":      func(b []byte) []byte { return b[:infoLen-1] },
		"long":       func(b []byte) []byte { return append(b, 0) },
		"magic":      func(b []byte) []byte { b[0]++; return b },
		"version":    func(b []byte) []byte { b[4]++; return b },
		"link":       func(b []byte) []byte { b[5] = 4; return b },
		"mtu":        func(b []byte) []byte { b[6] = 1; return b },
		"no qp":      func(b []byte) []byte { clear(b[8:12]); return b },
		"qp":         func(b []byte) []byte { b[11] = 1; return b },
		"psn":        func(b []byte) []byte { b[15] = 1; return b },
		"no slots":   func(b []byte) []byte { clear(b[18:20]); return b },
		"payload":    func(b []byte) []byte { clear(b[20:24]); return b },
		"payload 4G": func(b []byte) []byte { copy(b[20:24], "\xff\xff\xff\xff"); return b },
		"no gid":     func(b []byte) []byte { clear(b[24:]); return b },
		"no lid":     func(b []byte) []byte { b[5] = 1; return b },
	} {
		b := change(goodInfo.put())
		_, err := PeerGID(b)
		require.Error(t, err, name)
		s := simulated(t, sim.Config{})
		conn, err := s.a.Prepare(ConnConfig{})
		require.NoError(t, err)
		_, err = conn.Connect(b)
		require.ErrorIs(t, err, substrate.ErrProtocol, name)
		require.Zero(t, s.a.Usage().Registered, "nothing is left")
	}
}

func TestConnectRefuses(t *testing.T) {
	s := simulated(t, sim.Config{})
	conn, err := s.a.Prepare(ConnConfig{})
	require.NoError(t, err)
	other := goodInfo
	other.link, other.lid = verbs.LinkInfiniBand, 1
	_, err = conn.Connect(other.put())
	require.ErrorIs(t, err, substrate.ErrConfig)

	conn, err = s.a.Prepare(ConnConfig{})
	require.NoError(t, err)
	other = goodInfo
	other.gid[15] = 99 // no such host
	_, err = conn.Connect(other.put())
	require.Error(t, err)

	conn, err = s.a.Prepare(ConnConfig{})
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.Zero(t, s.a.Usage().Registered)
	for _, cfg := range []ConnConfig{{Payload: 1}, {Slots: 1 << 16}, {Retry: 7}, {SendSlots: 1}, {Timeout: 32}} {
		_, err = s.a.Prepare(cfg)
		require.ErrorIs(t, err, substrate.ErrConfig, "%+v", cfg)
	}
}

// FuzzInfo: whatever a peer says, it is refused or makes sense, and means the same when it is said again.
func FuzzInfo(f *testing.F) {
	f.Add(goodInfo.put())
	ib := goodInfo
	ib.link, ib.lid = verbs.LinkInfiniBand, 9
	f.Add(ib.put())
	iw := goodInfo
	iw.link, iw.lid = linkIWARP, 4791
	f.Add(iw.put())
	f.Add([]byte("SkRD\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var i info
		if i.parse(b) != nil {
			return
		}
		require.True(t, i.mtu >= 256 && i.mtu <= 4096 && i.slots > 0 && i.payload >= minPayload && i.payload <= maxPayload)
		require.True(t, bytes.Equal(b, i.put()))
	})
}

// TestIWARPRefuses: an end without an address, two ends that wait, two that connect, a peer that doesn't come.
func TestIWARPRefuses(t *testing.T) {
	s := simulated(t, sim.Config{IWARP: true})
	require.True(t, s.a.IWARP())
	for _, local := range []string{"", "::", "fe80::1%lo"} {
		cfg := ConnConfig{Await: true}
		cfg.Local, _ = netip.ParseAddr(local)
		_, err := s.a.Prepare(cfg)
		require.ErrorIs(t, err, substrate.ErrConfig, local)
		require.ErrorContains(t, err, "needs the address of this end")
	}
	for _, await := range []bool{false, true} {
		a, err := s.a.Prepare(iwarp(ConnConfig{}, await))
		require.NoError(t, err)
		b, err := s.b.Prepare(iwarp(ConnConfig{}, await))
		require.NoError(t, err)
		_, err = a.Connect(b.Local())
		require.ErrorIs(t, err, substrate.ErrConfig)
		_, err = b.Connect(a.Local())
		require.ErrorContains(t, err, "one is awaited")
	}
	a, err := s.a.Prepare(iwarp(ConnConfig{}, false))
	require.NoError(t, err)
	b, err := s.b.Prepare(iwarp(ConnConfig{}, true))
	require.NoError(t, err)
	theirs := b.Local()
	require.NoError(t, b.Close())
	_, err = a.Connect(theirs)
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.Zero(t, s.a.Usage().Registered+s.b.Usage().Registered, "nothing is left")
}

// TestIWARPAwaits: an end that is awaited gives up after a while.
func TestIWARPAwaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulated(t, sim.Config{IWARP: true})
		a, err := s.a.Prepare(iwarp(ConnConfig{}, false))
		require.NoError(t, err)
		b, err := s.b.Prepare(iwarp(ConnConfig{}, true))
		require.NoError(t, err)
		began := time.Now()
		_, err = b.Connect(a.Local())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, joinTime, time.Since(began))
		require.NoError(t, a.Close())
		require.NoError(t, s.a.Close())
		require.NoError(t, s.b.Close())
	})
}
