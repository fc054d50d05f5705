package rundir

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// private gives the test a runtime directory of its own, in a short path: the name of a socket has at most 107 bytes (unix(7)).
func private(t *testing.T) string {
	t.Helper()
	base, err := os.MkdirTemp("", "rundir")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(base) })
	t.Setenv("XDG_RUNTIME_DIR", base)
	d, err := Dir()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	return d
}

func TestDir(t *testing.T) {
	d := private(t)
	again, err := Dir()
	require.NoError(t, err)
	require.Equal(t, d, again)
	st, err := os.Stat(d)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), st.Mode().Perm())

	require.NoError(t, os.Chmod(d, 0o770))
	_, err = Dir()
	require.ErrorContains(t, err, "private", "others may enter")

	require.NoError(t, os.Remove(d))
	elsewhere := t.TempDir()
	require.NoError(t, os.Chmod(elsewhere, 0o700))
	require.NoError(t, os.Symlink(elsewhere, d))
	_, err = Dir()
	require.ErrorContains(t, err, "private", "a link may lead anywhere")
}

// TestUnusable: what su or a container leaves behind in XDG_RUNTIME_DIR doesn't keep processes from meeting; if nothing can be used the
// error says what was tried.
func TestUnusable(t *testing.T) {
	d := private(t)
	tmp := filepath.Dir(d)
	t.Setenv("TMPDIR", tmp)
	for name, base := range map[string]string{
		"missing": filepath.Join(d, "missing"), "relative": "run", "a file": "/proc/self/status", "not writable": "/proc/self",
		"too long": filepath.Join(d, strings.Repeat("x", maxPath)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_RUNTIME_DIR", base)
			got, err := Dir()
			require.NoError(t, err)
			require.Equal(t, d, got)

			t.Setenv("TMPDIR", filepath.Join(d, "missing too"))
			_, err = Dir()
			require.ErrorIs(t, err, os.ErrNotExist)
			require.ErrorContains(t, err, "XDG_RUNTIME_DIR="+base)
		})
	}
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("TMPDIR", filepath.Join(tmp, strings.Repeat("x", maxPath)))
	_, err := Dir()
	require.ErrorContains(t, err, "at most 107")
	require.ErrorContains(t, err, "set XDG_RUNTIME_DIR")
}

// TestLongestName: the longest directory that is accepted has room for the longest name.
func TestLongestName(t *testing.T) {
	base := filepath.Dir(private(t))
	own := len("/sockemu-") + len(strconv.Itoa(os.Getuid()))
	base = filepath.Join(base, strings.Repeat("x", maxPath-longestName-1-own-len(base)-1))
	require.NoError(t, os.Mkdir(base, 0o700))
	t.Setenv("XDG_RUNTIME_DIR", base)
	d, err := Dir()
	require.NoError(t, err)
	require.Equal(t, base, filepath.Dir(d))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(d, strings.Repeat("y", longestName)), Net: "unix"})
	require.NoError(t, err)
	l.Close()
}

// TestSweep: only sockets without an owner, of the right name and old enough, go.
func TestSweep(t *testing.T) {
	d := private(t)
	at := func(name string, listening, old bool) string {
		p := filepath.Join(d, name)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p, Net: "unix"})
		require.NoError(t, err)
		if listening {
			t.Cleanup(func() { l.Close() })
		} else {
			l.SetUnlinkOnClose(false)
			require.NoError(t, l.Close())
		}
		if old {
			then := time.Now().Add(-time.Hour)
			require.NoError(t, os.Chtimes(p, then, then))
		}
		return p
	}
	alive, dead, young, other := at("1.ctl", true, true), at("2.ctl", false, true), at("3.ctl", false, false), at("4.ack", false, true)
	file := filepath.Join(d, "5.ctl")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	then := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(file, then, then))

	Sweep(d, ".ctl")
	require.NoFileExists(t, dead)
	for _, p := range []string{alive, young, other, file} {
		_, err := os.Lstat(p)
		require.NoError(t, err, p)
	}
	Sweep(filepath.Join(d, "missing"), ".ctl")
}
