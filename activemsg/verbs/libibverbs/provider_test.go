package libibverbs

import (
	"context"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/activemsg/verbs"
	"github.com/sockemu/sockemu/activemsg/verbs/verbstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAvailable says what there is, or why there is nothing.
func TestAvailable(t *testing.T) {
	list, err := New().Devices()
	if err != nil {
		require.ErrorIs(t, err, verbs.ErrUnavailable)
		t.Logf("no verbs here: %v", err)
		_, err = New().Open("rxe0")
		require.Error(t, err)
		return
	}
	t.Logf("devices: %+v", list)
	_, err = New().Open("no such device")
	require.ErrorIs(t, err, verbs.ErrNoDevice)
}

// TestDeviceRules runs the rules of verbs on the device that SOCKEMU_TEST_RDMA_DEVICE names; SOCKEMU_TEST_RDMA_PORT and
// SOCKEMU_TEST_RDMA_GID choose its port and address.
func TestDeviceRules(t *testing.T) {
	name := os.Getenv("SOCKEMU_TEST_RDMA_DEVICE")
	if name == "" {
		_, err := New().Devices()
		t.Skipf("SOCKEMU_TEST_RDMA_DEVICE names no device (%v)", err)
	}
	verbstest.Run(t, func(t *testing.T) (a, b verbstest.End) { return end(t, name), end(t, name) })
}

func end(t *testing.T, name string) verbstest.End {
	d, err := New().Open(name)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	e := verbstest.End{Device: d, Port: 1}
	if s := os.Getenv("SOCKEMU_TEST_RDMA_ADDR"); s != "" {
		e.Addr, err = netip.ParseAddr(s)
		require.NoError(t, err)
	}
	if s := os.Getenv("SOCKEMU_TEST_RDMA_PORT"); s != "" {
		e.Port, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	if s := os.Getenv("SOCKEMU_TEST_RDMA_GID"); s != "" {
		e.GIDIndex, err = strconv.Atoi(s)
		require.NoError(t, err)
		return e
	}
	list, err := d.GIDs(e.Port)
	require.NoError(t, err)
	best, ok := verbs.BestGID(list)
	require.True(t, ok, "no address in %v", list)
	e.GIDIndex = best.Index
	return e
}

// TestDeviceSilence: of a peer that iWARP can't reach and hears nothing from, Join tires before the kernel does, and Close waits for the kernel.
func TestDeviceSilence(t *testing.T) {
	name := os.Getenv("SOCKEMU_TEST_RDMA_DEVICE")
	if name == "" || os.Getenv("SOCKEMU_TEST_VM") == "" || os.Getenv("SOCKEMU_TEST_ROLE") != "" {
		t.Skip("needs a machine of its own, where packets get lost: make test-siw")
	}
	e := end(t, name)
	pd, err := e.Device.NewPD()
	require.NoError(t, err)
	defer pd.Close()
	cq, err := e.Device.NewCQ(8)
	require.NoError(t, err)
	defer cq.Close()
	qp, err := pd.NewQP(verbs.QPConfig{SendCQ: cq, RecvCQ: cq, SendDepth: 4, RecvDepth: 4, SGE: 1, Port: e.Port, GIDIndex: e.GIDIndex})
	require.NoError(t, err)
	defer qp.Close()
	j, ok := qp.(verbs.Joiner)
	if !ok {
		t.Skip("not iWARP")
	}
	const retries = "/proc/sys/net/ipv4/tcp_syn_retries" // 6 would be two minutes
	before, err := os.ReadFile(retries)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(retries, []byte("1"), 0))
	defer os.WriteFile(retries, before, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	// A dummy interface loses what isn't for its own address.
	err = j.Join(ctx, verbs.Joint{Local: e.Addr, Remote: netip.AddrPortFrom(netip.MustParseAddr("10.9.0.77"), 7), Key: 1})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	tired := time.Since(began)
	require.NoError(t, j.Close())
	t.Logf("Join ended after %v, Close after %v", tired, time.Since(began))
	require.Less(t, tired, time.Since(began)/2)
}
