package verbs

import (
	"errors"
	"fmt"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// TestLayout: providers hand these to C as they are.
func TestLayout(t *testing.T) {
	require.EqualValues(t, 96, unsafe.Sizeof(SendWR{}))
	require.EqualValues(t, 24, unsafe.Sizeof(RecvWR{}))
	require.EqualValues(t, 32, unsafe.Sizeof(Completion{}))
	require.EqualValues(t, 32, unsafe.Offsetof(SendWR{}.SGE))
}

func TestErrors(t *testing.T) {
	err := error(&Error{Op: "post", Device: "rxe0", Err: fmt.Errorf("%w: twelve", ErrFull)})
	require.ErrorIs(t, err, ErrFull)
	require.EqualError(t, err, "post on rxe0: queue full: twelve")
	require.ErrorIs(t, ErrUnavailable, errors.ErrUnsupported)
	require.EqualError(t, &StatusError{Status: StatusRetryExceeded, Op: OpSend, Vendor: 0x81},
		"send: retries exceeded: no answer from the peer (vendor code 0x81)")
	require.Equal(t, "completion status 99", Status(99).String())
}

func TestGID(t *testing.T) {
	g := GID{10: 0xff, 11: 0xff, 12: 10, 15: 1}
	require.Equal(t, "10.0.0.1", g.String())
	require.True(t, g.Addr().Is4())
	require.Equal(t, "gid 1 10.0.0.1 (RoCE v2, eth0)", GIDEntry{Index: 1, GID: g, Type: GIDRoCEv2, Netdev: "eth0"}.String())
	require.Equal(t, "fe80::1", GID{0: 0xfe, 1: 0x80, 15: 1}.String())
}

func TestBestGID(t *testing.T) {
	v4 := GIDEntry{Index: 3, GID: GID{10: 0xff, 11: 0xff, 12: 10, 15: 1}, Type: GIDRoCEv2}
	v6 := GIDEntry{Index: 2, GID: GID{0: 0xfd, 15: 1}, Type: GIDRoCEv2}
	local := GIDEntry{Index: 1, GID: GID{0: 0xfe, 1: 0x80, 15: 1}, Type: GIDRoCEv2}
	old := GIDEntry{Index: 0, GID: v4.GID, Type: GIDRoCEv1}
	for i, list := range [][]GIDEntry{{old, local, v6, v4}, {old, local, v6}, {old, local}, {old}} {
		best, ok := BestGID(list)
		require.True(t, ok)
		require.Equal(t, 3-i, best.Index)
	}
	_, ok := BestGID(nil)
	require.False(t, ok)
}
