package main

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/control"
	"github.com/sockemu/sockemu/sockemu"
)

func TestProbeWhy(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	_, errs, code := probe(t, "why", "00112233")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "no process of this user on this host has such a connection")
	out, _, code := probe(t, "why", "--json", "00112233")
	require.Equal(t, exitFailed, code)
	var failure struct{ GID, Error string }
	require.NoError(t, json.Unmarshal([]byte(out), &failure))
	require.Equal(t, "00112233", failure.GID)
	require.Contains(t, failure.Error, "such a connection")

	// One that can't be asked may have it.
	p := listenPipe(t, nil, nil)
	require.NoError(t, p.Process.Signal(syscall.SIGSTOP))
	_, err := syscall.Wait4(p.Process.Pid, nil, syscall.WUNTRACED, nil)
	require.NoError(t, err)
	_, errs, code = probe(t, "why", "00112233")
	require.NoError(t, p.Process.Signal(syscall.SIGCONT))
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "not all could: process "+strconv.Itoa(p.Process.Pid))

	e, err := sockemu.NewEndpoint(sockemu.Config{Substrates: "prefer:shm"}) // what is faster depends on what else runs here
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
	}, time.Minute, time.Millisecond)
	out, errs, code = probe(t, "why", strings.ToUpper(c.GID().String()[:8]))
	require.Equal(t, exitOK, code, errs)
	for _, want := range []string{c.GID().String(), "on shm", "tcp -> shm", "the policy prefers it", "as measured last", "choice: "} {
		require.Contains(t, out, want)
	}
	out, _, code = probe(t, "why", "--json", c.GID().String())
	require.Equal(t, exitOK, code)
	var w control.Why
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&w))
	require.Equal(t, c.GID().String(), w.Connection.GID)
	require.Equal(t, "dialer", w.Connection.Role, "the end that decides")
	require.Positive(t, w.Connection.RTT, "of shared memory itself nothing is known: as it was measured")
	require.NotEmpty(t, w.Decisions)
	require.Len(t, w.Text, len(w.Decisions))

	out, errs, code = func() (string, string, int) {
		var o, e bytes.Buffer
		code := run(t.Context(), []string{"ls"}, strings.NewReader(""), &o, &e)
		return o.String(), e.String(), code
	}()
	require.Equal(t, exitOK, code, errs)
	require.Contains(t, out, c.GID().String()[:8])
	require.Contains(t, out, "shm")
}

// TestProbeWhyProcesses: of two processes that have an end each, the one that decides is listened to; without it the other one says so.
func TestProbeWhyProcesses(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	server := listenPipe(t, nil, nil, "-k")
	client := program(t, "pipe", server.addr)
	stdin, err := client.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, client.Start())
	t.Cleanup(func() { client.Process.Kill(); client.Wait() })
	_, err = stdin.Write([]byte("hello"))
	require.NoError(t, err)
	var gid string
	require.Eventually(t, func() bool {
		l, err := listAll(t.Context(), "")
		if err != nil || len(l.Connections) != 2 || l.Connections[0].GID != l.Connections[1].GID {
			return false
		}
		gid = l.Connections[0].GID
		return true
	}, time.Minute, 10*time.Millisecond)

	var out, errs string
	var code int
	require.Eventually(t, func() bool { // there is a decision after the first measurement
		out, errs, code = probe(t, "why", gid[:12])
		return code == exitOK && strings.Contains(out, "as measured last:")
	}, time.Minute, 10*time.Millisecond, errs)
	require.Contains(t, out, "dialer in process "+strconv.Itoa(client.Process.Pid))
	require.Empty(t, errs)

	require.NoError(t, client.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	_, err = syscall.Wait4(client.Process.Pid, &status, syscall.WUNTRACED, nil) // it stops a moment later
	require.NoError(t, err)
	require.True(t, status.Stopped())
	out, errs, code = probe(t, "why", gid)
	require.NoError(t, client.Process.Signal(syscall.SIGCONT))
	require.Equal(t, exitOK, code, errs)
	require.Contains(t, out, "acceptor in process "+strconv.Itoa(server.Process.Pid))
	require.Contains(t, out, "the other end, which has dialled the connection, decides")
	require.Contains(t, errs, "may be incomplete")
	require.NoError(t, stdin.Close())
	require.NoError(t, client.Wait())
}

// TestProbeWhyAmbiguous: of 17 GIDs two begin with the same digit.
func TestProbeWhyAmbiguous(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	e, err := sockemu.NewEndpoint(sockemu.Config{Substrates: "tcp"})
	require.NoError(t, err)
	defer e.Close()
	l, err := e.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	first := make(map[byte]int)
	for range 17 {
		c, err := e.Dial(t.Context(), "tcp", l.Addr().String())
		require.NoError(t, err)
		defer c.SetLinger(0)
		peer, err := l.AcceptConn()
		require.NoError(t, err)
		defer peer.Close()
		first[c.GID().String()[0]]++
	}
	for digit, n := range first {
		_, errs, code := probe(t, "why", string(digit))
		if n == 1 {
			require.Equal(t, exitOK, code, errs)
			continue
		}
		require.Equal(t, exitFailed, code)
		require.Contains(t, errs, string(digit)+": several connections begin with these digits: give more of them")
	}
}
