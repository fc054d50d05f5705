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

// runtimeVar is where a user's sessions have a directory of their own: the XDG Base Directory Specification.
const runtimeVar = "XDG_RUNTIME_DIR"

const (
	// maxPath is the length of a socket's path that unix(7) promises to take.
	maxPath = 107
	// longestName is that of the longest name of a socket here: package samehost's.
	longestName = 36
)

// Dir returns the directory, and makes it if need be: sockemu-UID in $XDG_RUNTIME_DIR, or in the directory for temporary files if that
// isn't set or can't be used: su(1) and sudo(8) may leave it pointing at what belongs to somebody else. It refuses one that is there
// but belongs to another user, that others may enter, or that is a symbolic link. Where ownership can't be checked the error wraps
// errors.ErrUnsupported.
func Dir() (string, error) {
	if runtime.GOOS != "linux" {
		return "", fmt.Errorf("a private directory for sockets: %w", errors.ErrUnsupported)
	}
	var unusable error
	if base := os.Getenv(runtimeVar); base != "" {
		d, err := dirIn(base)
		if err == nil || errors.Is(err, errNotOurs) {
			return d, err
		}
		unusable = fmt.Errorf("; nor in %s=%s: %w", runtimeVar, base, err)
	}
	d, err := dirIn(os.TempDir())
	switch {
	case err == nil || errors.Is(err, errNotOurs):
		return d, err
	case unusable == nil:
		return "", fmt.Errorf("no place for this user's processes to meet: %w (set %s to a directory of this user's own)", err, runtimeVar)
	}
	return "", fmt.Errorf("no place for this user's processes to meet: %w%w", err, unusable)
}

// errNotOurs is a directory that may be a trap: nothing is tried elsewhere, for somebody should look at it.
var errNotOurs = errors.New("is not this user's private directory (mode 0700)")

// dirIn is Dir for one directory to make it in.
func dirIn(base string) (string, error) {
	d := filepath.Join(base, fmt.Sprintf("sockemu-%d", os.Getuid()))
	if !filepath.IsAbs(d) {
		return "", fmt.Errorf("%s: not an absolute path", d)
	}
	if n := len(d) + 1 + longestName; n > maxPath {
		return "", fmt.Errorf("%s: with a socket's name the path would have %d bytes, at most %d work", d, n, maxPath)
	}
	if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	st, err := os.Lstat(d)
	if err != nil {
		return "", err
	}
	if !st.IsDir() || st.Mode().Perm()&0o077 != 0 || !sys.OwnedByUs(st) {
		return "", fmt.Errorf("%s %w", d, errNotOurs)
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
