package activemsg

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate_shm"
)

// shortDir is a folder for sockets, whose paths must be short.
func shortDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "am")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func init() {
	makers["shm"] = func(t testing.TB) (a, b Carrier) {
		return overSubstrate(t, shm.New(shm.Options{Dir: shortDir(t)}), "", FramedConfig{})
	}
}
