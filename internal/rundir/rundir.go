// Package rundir is the directory where the processes of one user on one host find each other: sockets and nothing else, for
// that user alone.
package rundir

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/internal/sys"
)

// grace is how old a socket must be before Sweep may remove it: its owner has bound it but may not listen yet, and until then
// connections are refused as if nobody owned it.
const grace = 10 * time.Second

// Dir returns the directory, and makes it if need be: sockemu-UID in $XDG_RUNTIME_DIR or the directory for temporary files. It
// refuses one that belongs to somebody else, that others may enter, or that is a symbolic link. Where ownership can't be
// checked the error wraps errors.ErrUnsupported.
func Dir() (string, error) {
	if runtime.GOOS != "linux" {
		return "", fmt.Errorf("a private directory for sockets: %w", errors.ErrUnsupported)
	}
	base := os.Getenv("XDG_RUNTIME_DIR")
	if base == "" {
		base = os.TempDir()
	}
	d := filepath.Join(base, fmt.Sprintf("sockemu-%d", os.Getuid()))
	if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	st, err := os.Lstat(d)
	if err != nil {
		return "", err
	}
	if !st.IsDir() || st.Mode().Perm()&0o077 != 0 || !sys.OwnedByUs(st) {
		return "", fmt.Errorf("%s is not this user's private directory", d)
	}
	return d, nil
}

// Sweep removes from directory d the sockets whose names end in suffix and that nobody listens on any more: those of killed
// processes. What it can't remove stays.
func Sweep(d, suffix string) {
	entries, err := os.ReadDir(d)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Type() != os.ModeSocket || !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		if info, err := e.Info(); err != nil || time.Since(info.ModTime()) < grace {
			continue
		}
		p := filepath.Join(d, e.Name())
		c, err := net.DialTimeout("unix", p, 100*time.Millisecond)
		if err == nil {
			c.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(p)
		}
	}
}
