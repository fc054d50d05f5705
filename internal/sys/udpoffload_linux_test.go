package sys

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestUDPOffload: a kernel has both, or is older than the version that brought them.
func TestUDPOffload(t *testing.T) {
	gso, gro, err := UDPOffload()
	require.NoError(t, err)
	var u unix.Utsname
	require.NoError(t, unix.Uname(&u))
	if release := unix.ByteSliceToString(u.Release[:]); release[0] < '5' {
		t.Skipf("kernel %s may lack them", release)
	}
	require.True(t, gso)
	require.True(t, gro)
}
