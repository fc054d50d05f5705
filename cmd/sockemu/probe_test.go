package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/sockemu"
)

// probe runs `sockemu probe` in this process.
func probe(t *testing.T, args ...string) (out, errs string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	code = run(ctx, append([]string{"probe"}, args...), strings.NewReader(""), &o, &e)
	return o.String(), e.String(), code
}

func TestProbe(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	p := listenPipe(t, nil, nil)
	out, errs, code := probe(t, p.addr)
	require.Equal(t, exitOK, code, errs)
	for _, want := range []string{"SUBSTRATE", "shm", "tcp", p.addr, "T(4K)", "choice: "} {
		require.Contains(t, out, want)
	}
	require.NotContains(t, out, "NaN")

	out, errs, code = probe(t, "--json", "--size", "128", "--size", "1048576", p.addr)
	require.Equal(t, exitOK, code, errs)
	var r selector.Report
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&r))
	require.Equal(t, p.addr, r.Peer)
	require.Len(t, r.Candidates, 2)
	require.NotEmpty(t, r.Choice.Substrate)
	require.NotEmpty(t, r.Choice.Why)
	for _, c := range r.Candidates {
		require.True(t, c.OK, c.Reason)
		require.Positive(t, c.Cost.RTT)
		require.Positive(t, c.Cost.MBPerSecond)
	}

	// A policy rules candidates out, and says so.
	out, _, code = probe(t, "--policy", "pin:tcp", p.addr)
	require.Equal(t, exitOK, code)
	require.Contains(t, out, "pinned to tcp")
	require.Contains(t, out, "choice: tcp: pinned")
	_, errs, code = probe(t, "--policy", "pin:udp", p.addr)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "what is pinned can't be had")
	_, errs, code = probe(t, "--policy", "pin:verbz", p.addr)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "verbz")

	out, _, code = probe(t, "--watch", "--count", "2", "--every", "10ms", p.addr)
	require.Equal(t, exitOK, code)
	require.Equal(t, 2, strings.Count(out, "choice: "))
}

// TestProbeNoPeer: whatever else is there, the answer is clear, comes in time, and the exit status is 1.
func TestProbeNoPeer(t *testing.T) {
	serve := func(f func(net.Conn)) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					f(c)
				}()
			}
		}()
		return l.Addr().String()
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed.Close()
	withKey := t.TempDir() + "/key"
	require.NoError(t, os.WriteFile(withKey, []byte("some key"), 0o600))
	for name, c := range map[string]struct {
		peer string
		want string
	}{
		"nobody listens":    {closed.Addr().String(), "nobody listens on that port"},
		"speaks first":      {serve(func(c net.Conn) { c.Write([]byte("SSH-2.0-x\r\n")); io.Copy(io.Discard, c) }), "no program with sockemu"},
		"silent":            {serve(func(c net.Conn) { io.Copy(io.Discard, c) }), "no program with sockemu"},
		"echo":              {serve(func(c net.Conn) { io.Copy(c, c) }), "no program with sockemu"},
		"hangs up":          {serve(func(net.Conn) {}), "no program with sockemu"},
		"drops packets":     {blackHole(t), "a firewall drops the packets"},
		"no such name":      {"no-such-host.invalid:1", "the name can't be resolved"},
		"no port":           {"127.0.0.1", "missing port"},
		"wrong cluster key": {listenPipe(t, nil, nil, "--key-file", withKey).addr, "cluster key"},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			out, errs, code := probe(t, "--timeout", "2s", c.peer)
			require.Equal(t, exitFailed, code, errs)
			require.Contains(t, errs, c.want)
			require.Empty(t, out)
			require.Less(t, time.Since(start), 10*time.Second)

			out, _, code = probe(t, "--json", "--timeout", "2s", c.peer)
			require.Equal(t, exitFailed, code)
			var r struct {
				Peer   string          `json:"peer"`
				Choice selector.Choice `json:"choice"`
				Error  string          `json:"error"`
			}
			require.NoError(t, json.Unmarshal([]byte(out), &r))
			require.Equal(t, c.peer, r.Peer)
			require.Empty(t, r.Choice.Substrate)
			require.Contains(t, r.Error, c.want)
		})
	}
}

// blackHole returns an address of which nothing ever comes back: the queue of a listener that accepts nothing is full, so the
// kernel drops what else comes, as a firewall would.
func blackHole(t *testing.T) string {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	sa, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: sa.(*syscall.SockaddrInet4).Port}).String()
	for range 8 {
		c, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the listener's queue does not fill")
	return ""
}

func TestProbeUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"why"}, {"a:1", "b:2"}, {"--self", "a:1"}, {"--size", "0", "a:1"}, {"--timeout", "0s", "a:1"}} {
		_, errs, code := probe(t, args...)
		require.Equal(t, exitUsage, code, "%q", args)
		require.Contains(t, errs, "sockemu: probe: ")
	}
}

func TestProbeWhy(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	_, errs, code := probe(t, "why", "00112233")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "no process of this user on this host has such a connection")

	substrates, reason := "auto", "faster for this connection's sizes"
	if raceOn {
		substrates, reason = "prefer:shm", "the policy prefers it"
	}
	e, err := sockemu.NewEndpoint(sockemu.Config{Substrates: substrates})
	require.NoError(t, err)
	defer e.Close()
	l, err := e.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c, err := e.Dial(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	peer, err := l.AcceptConn()
	require.NoError(t, err)
	defer peer.Close()
	defer c.SetLinger(0)
	require.Eventually(t, func() bool {
		c.Write([]byte("x")) // an idle connection is not measured again
		return c.Stats().Substrate == "shm"
	}, 20*time.Second, time.Millisecond)
	out, errs, code := probe(t, "why", c.GID().String()[:8])
	require.Equal(t, exitOK, code, errs)
	for _, want := range []string{c.GID().String(), "on shm", "tcp -> shm", reason, "as measured last", "choice: "} {
		require.Contains(t, out, want)
	}
	out, _, code = probe(t, "why", "--json", c.GID().String())
	require.Equal(t, exitOK, code)
	require.True(t, json.Valid([]byte(out)))

	out, errs, code = func() (string, string, int) {
		var o, e bytes.Buffer
		code := run(t.Context(), []string{"ls"}, strings.NewReader(""), &o, &e)
		return o.String(), e.String(), code
	}()
	require.Equal(t, exitOK, code, errs)
	require.Contains(t, out, c.GID().String()[:8])
	require.Contains(t, out, "shm")
}
