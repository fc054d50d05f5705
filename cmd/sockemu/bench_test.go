package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/bench"
)

// output runs the program and returns its exit status and what it wrote.
func output(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	cmd := program(t, args...)
	cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0") // the race detector ends with a nap of a second
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		require.True(t, ok, "%v", err)
		status = exit.ExitCode()
	}
	return status, o.String(), e.String()
}

func TestBenchUsage(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"size", []string{"--size", "128,huge"}, []string{"--size", `"huge" is no size`, "128, 32K or 1M"}},
		{"size 0", []string{"--size", "0"}, []string{`"0" is no size`}},
		{"large size", []string{"--size", "65M"}, []string{"8 to 64M"}},
		{"mode", []string{"--mode", "raw,thic"}, []string{`unknown mode "thic": there is raw`}},
		{"substrate", []string{"--substrate", "ib"}, []string{`unknown substrate "ib": there is tcp`}},
		{"op", []string{"--op", "latency"}, []string{`unknown operation "latency": there is rtt, bw`}},
		{"placement", []string{"--placement", "one"}, []string{`unknown placement "one": there is same, two, free`}},
		{"reps", []string{"--reps", "0"}, []string{"0 repetitions are out of bounds"}},
		{"reps is no number", []string{"--reps", "many"}, []string{"--reps", `"many"`}},
		{"conns", []string{"--conns=-3"}, []string{"-3 connections are out of bounds"}},
		{"no conns", []string{"--conns=0"}, []string{"--conns and --block must be positive"}},
		{"no block", []string{"--block=0s"}, []string{"--conns and --block must be positive"}},
		{"long block", []string{"--block=1h"}, []string{"blocks of 1h0m0s are out of bounds: at most 10s"}},
		{"time", []string{"--time", "soon"}, []string{"--time", `"soon"`}},
		{"flag", []string{"--sise", "128"}, []string{"unknown flag --sise", "did you mean", "--size"}},
		{"argument", []string{"fast"}, []string{"unexpected argument fast"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, out, errs := output(t, append([]string{"bench"}, c.args...)...)
			assert.Equal(t, exitUsage, status)
			assert.Empty(t, out)
			assert.Equal(t, 1, strings.Count(errs, "\n"), "one line: %s", errs)
			for _, w := range append(c.want, "sockemu:", "--help") {
				assert.Contains(t, errs, w)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	status, _, errs := output(t)
	assert.Equal(t, exitUsage, status)
	assert.Contains(t, errs, "bench")
	status, _, errs = output(t, "bensh")
	assert.Equal(t, exitUsage, status)
	assert.Contains(t, errs, `did you mean "bench"`)
	status, out, _ := output(t, "--help")
	assert.Equal(t, exitOK, status)
	assert.Contains(t, out, "version")
	assert.NotContains(t, out, "bench-server", "a worker is nothing for people")
}

// quick are the flags of a run that takes little more than its processes do.
var quick = []string{"bench", "--mode", "raw", "--op", "rtt,bw", "--size", "128,4K", "--placement", "same", "--reps", "3", "--conns", "1"}

func TestBenchJSON(t *testing.T) {
	status, out, errs := output(t, append(quick, "--json", "-")...)
	require.Equal(t, exitOK, status, errs)
	assert.Empty(t, errs)
	r, err := bench.ReadReport(strings.NewReader(out))
	require.NoError(t, err, "standard output is the object and nothing else")
	require.Len(t, r.Rows, 4)
	for i, want := range []struct {
		op   bench.Op
		size bench.Size
	}{{bench.RTT, 128}, {bench.RTT, 4096}, {bench.BW, 128}, {bench.BW, 4096}} {
		row := r.Rows[i]
		assert.Equal(t, bench.Row{Op: want.op, Size: want.size, Mode: "raw", Substrate: "tcp", Placement: bench.Same, Rounds: 3, RatioRaw: 1},
			bench.Row{Op: row.Op, Size: row.Size, Mode: row.Mode, Substrate: row.Substrate, Placement: row.Placement, Rounds: row.Rounds, RatioRaw: row.RatioRaw})
		assert.Positive(t, row.AARatio)
	}
}

func TestBenchFileAndTable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.json")
	require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte("x"), 1<<16), 0o644), "an older, longer report")
	status, out, errs := output(t, append(quick, "--json", file)...)
	require.Equal(t, exitOK, status, errs)
	assert.Contains(t, out, "Round trip, us, placement same")
	assert.Contains(t, out, "Bandwidth, MB/s, placement same")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	r, err := bench.ReadReport(bytes.NewReader(b))
	require.NoError(t, err)
	assert.Len(t, r.Rows, 4)
}

// TestBenchThin: the library can be measured too, whatever comes out.
func TestBenchThin(t *testing.T) {
	status, out, errs := output(t, append(quick, "--mode", "thin", "--json", "-")...)
	require.Equal(t, exitOK, status, errs)
	r, err := bench.ReadReport(strings.NewReader(out))
	require.NoError(t, err)
	require.Len(t, r.Rows, 8)
	assert.Equal(t, "thin", r.Rows[1].Mode)
	assert.NotContains(t, strings.Join(r.Notes, "\n"), "switched", "its sockets are pinned from the start")
}

// TestBenchBare: so can a link of shared memory without a session.
func TestBenchBare(t *testing.T) {
	status, out, errs := output(t, append(quick, "--substrate", "shm", "--mode", "bare", "--json", "-")...)
	require.Equal(t, exitOK, status, errs)
	assert.Empty(t, errs)
	r, err := bench.ReadReport(strings.NewReader(out))
	require.NoError(t, err)
	require.Len(t, r.Rows, 8)
	assert.Equal(t, "bare", r.Rows[1].Mode)
}

func TestBenchFails(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"congestion", []string{"--congestion", "nonesuch"}, `set congestion control "nonesuch"`},
		{"file", []string{"--json", filepath.Join(t.TempDir(), "no", "such", "folder")}, "no such file or directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, out, errs := output(t, append(quick, c.args...)...)
			assert.Equal(t, exitFailed, status)
			assert.Empty(t, out)
			assert.Contains(t, errs, "sockemu bench: ")
			assert.Contains(t, errs, c.want)
			assert.Equal(t, 1, strings.Count(errs, "\n"), "one line: %s", errs)
		})
	}
}

// TestBenchIsInterrupted: the command ends soon, with what it has measured, and so do its workers: their logs go to the same pipe, which doesn't end before they do.
func TestBenchIsInterrupted(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			cmd := program(t, "--log-level", "debug", "bench", "--op", "rtt", "--size", "128,1M", "--reps", "50", "--time", "0", "--placement", "free")
			cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0")
			pr, pw, err := os.Pipe()
			require.NoError(t, err)
			defer pr.Close()
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, pw
			require.NoError(t, cmd.Start())
			require.NoError(t, pw.Close())
			var errs bytes.Buffer
			for !strings.Contains(errs.String(), "measured") { // the first of two cases; the other has begun
				buf := make([]byte, 512)
				n, err := pr.Read(buf)
				require.NoError(t, err, errs.String())
				errs.Write(buf[:n])
			}
			require.NoError(t, cmd.Process.Signal(sig))
			_, err = errs.ReadFrom(pr)
			require.NoError(t, err)
			require.Error(t, cmd.Wait())
			if sig != syscall.SIGKILL {
				assert.Equal(t, exitFailed, cmd.ProcessState.ExitCode())
				assert.Contains(t, errs.String(), "sockemu bench: ")
				assert.Regexp(t, `(?m)^ +128 +thin/tcp `, out.String(), "the case that was measured is reported")
				assert.Contains(t, out.String(), "note: not complete: 1 of 2 cases were measured, then: rtt of ")
			}
		})
	}
}

// TestBareAcceptFails: no connection comes with an error, which whoever serves would close.
func TestBareAcceptFails(t *testing.T) {
	l, err := bareSHM().Listen(t.Context(), "")
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	require.NoError(t, l.Close())
	c, err := l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	require.Nil(t, c)
}
