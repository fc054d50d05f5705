package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/control"
	"github.com/sockemu/sockemu/internal/rundir"
)

// lister is a process as ls sees it.
type lister []control.Connection

func (l lister) Process() control.Process          { return control.Process{Version: "v9", Connections: len(l)} }
func (l lister) Connections() []control.Connection { return l }
func (l lister) Why(string) (control.Why, error)   { return control.Why{}, control.ErrNoConnection }

// runtimeDir gives the test, and what it starts, a runtime directory of its own, in a short path: the name of a socket has at
// most 107 bytes (unix(7)).
func runtimeDir(t *testing.T) string {
	t.Helper()
	base, err := os.MkdirTemp("", "ls")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(base) })
	t.Setenv("XDG_RUNTIME_DIR", base)
	d, err := rundir.Dir()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	return d
}

func serveControl(t *testing.T, conns ...control.Connection) {
	t.Helper()
	s, err := control.Serve(gid.NewProcessID(), lister(conns))
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
}

func listed() control.Connection {
	return control.Connection{
		GID: "0123456789abcdef0123456789abcdef", Role: "dialer", Peer: "10.0.0.2:7000", Substrate: "shm", State: "up", RTT: 4200, BytesOut: 1500,
		BytesIn: 3_000_000, Unacked: 12, LastEvent: "resumed\x1b[2J over shm", LastEventAt: time.Now().Add(-90 * time.Second),
	}
}

func TestLs(t *testing.T) {
	d := runtimeDir(t)
	status, out, errs := output(t, "ls")
	require.Equal(t, exitOK, status, errs)
	const header = "PID  PROGRAM  GID  ROLE  PEER  SUBSTRATE  STATE  RTT  SENT  RECEIVED  UNACKED  LAST EVENT\n"
	require.Equal(t, header, out)

	serveControl(t)
	_, out, _ = output(t, "ls")
	require.Equal(t, header+fmt.Sprintf("no connection in process %d (%.15s)\n", os.Getpid(), filepath.Base(os.Args[0])), out)

	serveControl(t, listed(), control.Connection{GID: "ff", State: "parked"})
	for _, args := range [][]string{{"ls"}, {"ls", "--dir", d}} {
		status, out, errs = output(t, args...)
		require.Equal(t, exitOK, status, errs)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		require.Len(t, lines, 3)
		require.Regexp(t, `^\d+ +sockemu\.test +01234567  dialer  10\.0\.0\.2:7000  shm        up      4\.2 us  1\.5 kB  3 MB      12 B     resumed\?\[2J over shm, 1m ago$`, lines[1])
		require.Regexp(t, `^\d+ +sockemu\.test +ff        -       -              -          parked  -       0 B     0 B       0 B      -$`, lines[2])
	}

	status, out, errs = output(t, "ls", "--json")
	require.Equal(t, exitOK, status, errs)
	var l listing
	require.NoError(t, json.Unmarshal([]byte(out), &l))
	require.Equal(t, os.Getpid(), l.Processes[0].PID)
	require.Equal(t, 2, l.Processes[0].Connections+l.Processes[1].Connections)
	require.Len(t, l.Processes, 2)
	require.Len(t, l.Connections, 2)
	require.Equal(t, os.Getpid(), l.Connections[0].PID)
	require.Contains(t, []string{l.Processes[0].Proc, l.Processes[1].Proc}, l.Connections[0].Proc)
	require.Equal(t, listed().GID, l.Connections[0].GID)
	require.Empty(t, l.Silent)
	for _, key := range []string{`"processes":[{`, `"connections":[{"pid":`, `"silent":[]`} {
		require.Contains(t, out, key)
	}
}

func TestLsFilters(t *testing.T) {
	runtimeDir(t)
	serveControl(t, listed(), control.Connection{GID: "ff", State: "parked", Role: "acceptor", Peer: "[fe80::1]:99"})
	me := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		args []string
		want []string // beginnings of GIDs
	}{
		{nil, []string{"01", "ff"}},
		{[]string{"--pid", me}, []string{"01", "ff"}}, {[]string{"--pid", "1"}, nil},
		{[]string{"--peer", "10.0."}, []string{"01"}}, {[]string{"--peer", ":99"}, []string{"ff"}},
		{[]string{"--substrate", "shm"}, []string{"01"}}, {[]string{"--substrate", "none"}, []string{"ff"}}, {[]string{"--substrate", "udp"}, nil},
		{[]string{"--state", "parked"}, []string{"ff"}}, {[]string{"--role", "dialer"}, []string{"01"}},
		{[]string{"--state", "parked", "--role", "dialer"}, nil},
	} {
		status, out, errs := output(t, append([]string{"ls", "--json"}, c.args...)...)
		require.Equal(t, exitOK, status, errs)
		var l listing
		require.NoError(t, json.Unmarshal([]byte(out), &l))
		var got []string
		for _, conn := range l.Connections {
			got = append(got, conn.GID[:2])
		}
		require.Equal(t, c.want, got, c.args)
		if c.want == nil {
			_, out, _ = output(t, append([]string{"ls"}, c.args...)...)
			require.Contains(t, out, "none of 2 connections matches")
		}
	}
	for _, args := range [][]string{{"--state", "down"}, {"--substrate", "sctp"}, {"--role", "server"}, {"--pid=-1"}} {
		status, _, errs := output(t, append([]string{"ls"}, args...)...)
		require.Equal(t, exitUsage, status, errs)
	}
}

// TestLsNowhere: with --json there is an object whatever happens, and it says why the exit status is 1.
func TestLsNowhere(t *testing.T) {
	d := runtimeDir(t)
	require.NoError(t, os.Chmod(d, 0o755)) // a directory that others may enter is refused
	status, out, errs := output(t, "ls", "--json")
	require.Equal(t, exitFailed, status)
	require.Contains(t, errs, "private directory")
	var l listing
	require.NoError(t, json.Unmarshal([]byte(out), &l))
	require.Contains(t, l.Error, "private directory")
	require.Contains(t, out, `{"processes":[],"connections":[],"silent":[],"error":`)

	status, out, _ = output(t, "ls")
	require.Equal(t, exitFailed, status)
	require.Empty(t, out)

	status, _, errs = output(t, "probe", "why", "12")
	require.Equal(t, exitFailed, status)
	require.Regexp(t, `^sockemu probe: 12: the processes of this user can't be asked: .*private directory`, errs)
}

// TestLsSilentProcess: one that doesn't answer is in the list, and the exit status says that the list isn't complete.
func TestLsSilentProcess(t *testing.T) {
	d := runtimeDir(t)
	serveControl(t, listed())
	l, err := net.Listen("unix", filepath.Join(d, "4242-silent.ctl")) // nobody accepts, as when the process is stopped
	require.NoError(t, err)
	defer l.Close()
	var g sync.WaitGroup // both wait for the silent one
	g.Go(func() {
		status, out, errs := output(t, "ls")
		assert.Equal(t, exitFailed, status)
		assert.Contains(t, out, "01234567")
		assert.Regexp(t, `(?m)^\d+ .* no answer .* nothing came for 2s: is it stopped\?$`, out)
		assert.Contains(t, errs, fmt.Sprintf("no answer from 1 of 2 processes: %d", os.Getpid()))
	})
	g.Go(func() {
		status, out, _ := output(t, "ls", "--json")
		assert.Equal(t, exitFailed, status)
		var got listing
		assert.NoError(t, json.Unmarshal([]byte(out), &got))
		assert.Equal(t, []silentProcess{{os.Getpid(), "nothing came for 2s: is it stopped?"}}, got.Silent)
		assert.Len(t, got.Connections, 1)
	})
	g.Wait()
}

// TestLsWatch prints until it is interrupted, which is no failure.
func TestLsWatch(t *testing.T) {
	runtimeDir(t)
	serveControl(t, listed())
	cmd := program(t, "ls", "--watch", "--every", "10ms", "--json")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(stdout)
	for range 3 {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, line, listed().GID)
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	for err == nil {
		_, err = lines.ReadString('\n')
	}
	require.NoError(t, cmd.Wait())
}

func TestLsUsage(t *testing.T) {
	d := runtimeDir(t)
	for _, args := range [][]string{{"ls", "--every", "1ns"}, {"ls", "--dir", d + "/missing"}, {"ls", "extra"}} {
		status, _, errs := output(t, args...)
		require.Equal(t, exitUsage, status, args)
		require.Contains(t, errs, "sockemu: ")
	}
	require.NoError(t, os.Chmod(d, 0o777))
	status, out, errs := output(t, "ls")
	require.Equal(t, exitFailed, status)
	require.Empty(t, out)
	require.Contains(t, errs, "private directory")
}

func TestLsTexts(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "", 900: "0.9 us", 123456: "123 us", 45 * time.Millisecond: "45 ms", 1500 * time.Millisecond: "1.5 s"} {
		require.Equal(t, want, rttText(d))
	}
	for d, want := range map[time.Duration]string{-1: "0s", 59 * time.Second: "59s", time.Hour - 1: "59m", 47 * time.Hour: "47h", 50 * time.Hour: "2d"} {
		require.Equal(t, want, ageText(d))
	}
	var b bytes.Buffer
	listing{Silent: []silentProcess{{7, "broken"}}}.table(&b, time.Now())
	require.Regexp(t, `(?m)^7    -        -    -     -     -          no answer  -    -     -         -        broken$`, b.String())
	require.Equal(t, "up", listedConnection{Connection: control.Connection{LastEvent: "up"}}.lastEvent(time.Now()))

	_, err := listAll(context.Background(), t.TempDir())
	require.NoError(t, err)
}
