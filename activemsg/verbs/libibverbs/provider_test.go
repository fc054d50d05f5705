package libibverbs

import (
	"net/netip"
	"os"
	"strconv"
	"testing"

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
