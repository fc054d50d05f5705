package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDemoVerifiesEveryByte runs the demo as a script does. Beside other tests, and under the race detector, measurements would sometimes
// decide for TCP: here shared memory is preferred; `make demo`, which has the machine for itself, lets them decide.
func TestDemoVerifiesEveryByte(t *testing.T) {
	cmd := program(t, "demo", "--time=3s", "--json", "--cut-every=200ms")
	cmd.Env = append(cmd.Env, "SOCKEMU_SUBSTRATE=prefer:shm")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	require.NoError(t, err, "%s\n%s", out.String(), errs.String())
	var v verdict
	require.NoError(t, json.Unmarshal(out.Bytes(), &v), "stdout is one JSON object and nothing else")
	require.Equal(t, verdictOK, v.Verdict)
	assert.NotZero(t, v.BytesUp)
	assert.NotZero(t, v.BytesDown)
	assert.GreaterOrEqual(t, v.Cuts, uint64(3))
	assert.NotZero(t, v.Outages)
	assert.Equal(t, 1, v.Replacements)
	assert.NotEqual(t, v.PIDs.Server, v.PIDs.Replacement)
	assert.NotEmpty(t, v.PlainTCP.Err)
	assert.Empty(t, v.Fast.Missing)
	assert.Equal(t, 2, v.Fast.Moves)
	assert.Equal(t, 1, v.Fast.Failovers)
	assert.Positive(t, v.Fast.FailoverMS)
	assert.Positive(t, v.Fast.TCPRate)
	assert.Positive(t, v.Fast.SHMRate)
	assert.Contains(t, v.Fast.Choice, "shm")
	for _, pid := range []int{v.PIDs.Client, v.PIDs.Server, v.PIDs.Replacement} {
		assert.True(t, gone(pid), "process %d is left over", pid)
	}
}

// gone reports whether a process has ended. One whose parent ended before it may still await its burial by somebody else.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(state, "Z")
}

// TestDemoStopsOnInterrupt interrupts a demo in mid-stream: it says so, fails, and leaves no process.
func TestDemoStopsOnInterrupt(t *testing.T) {
	cmd := program(t, "demo", "--time=1h", "--cut-every=100ms")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var out bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(out.String(), phaseStream) {
		n, err := stdout.Read(buf)
		require.NoError(t, err, out.String())
		out.Write(buf[:n])
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	rest := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	defer rest.Stop()
	_, err = out.ReadFrom(stdout) // ends when every process that has it open is gone
	require.NoError(t, err)
	var exit *exec.ExitError
	require.True(t, errors.As(cmd.Wait(), &exit))
	require.Equal(t, exitFailed, exit.ExitCode(), out.String())
	require.Contains(t, out.String(), "FAILED")
	require.Contains(t, out.String(), "interrupted")
}

func TestDemoRefusesNonsense(t *testing.T) {
	for _, flag := range []string{"--time=1ms", "--cut-every=0s", "--size=0"} {
		var exit *exec.ExitError
		require.True(t, errors.As(program(t, "demo", flag).Run(), &exit), flag)
		require.Equal(t, exitUsage, exit.ExitCode(), flag)
	}
}

// goodState is a demo that went well.
func goodState() (demoState, verdict) {
	st := demoState{
		Client: nodeEvent{Ev: evDone, nodeCounts: nodeCounts{Sent: 10, Received: 20, SentSum: "a", ReceivedSum: "b"}},
		Server: nodeEvent{Ev: evDone, nodeCounts: nodeCounts{Sent: 20, Received: 10, SentSum: "b", ReceivedSum: "a"}},
	}
	return st, verdict{BytesUp: 10, BytesDown: 20, Cuts: 1, Replacements: 1, Fast: fastResult{Moves: 2, Failovers: 1}}
}

// TestVerdictIsOnlyOKWhenEverythingHappened breaks each condition in turn.
func TestVerdictIsOnlyOKWhenEverythingHappened(t *testing.T) {
	st, v := goodState()
	v.judge(&st, nil)
	require.Equal(t, verdictOK, v.Verdict, v.Reason)
	for name, spoil := range map[string]func(*demoState, *verdict){
		"client not done":   func(st *demoState, _ *verdict) { st.Client.Ev = evStats },
		"server not done":   func(st *demoState, _ *verdict) { st.Server.Ev = evStats },
		"bytes lost up":     func(st *demoState, _ *verdict) { st.Server.Received-- },
		"bytes lost down":   func(st *demoState, _ *verdict) { st.Client.Received-- },
		"other bytes up":    func(st *demoState, _ *verdict) { st.Server.ReceivedSum = "x" },
		"other bytes down":  func(st *demoState, _ *verdict) { st.Client.ReceivedSum = "x" },
		"no sum":            func(st *demoState, _ *verdict) { st.Client.SentSum, st.Server.ReceivedSum = "", "" },
		"nothing moved":     func(_ *demoState, v *verdict) { v.BytesUp = 0 },
		"nothing cut":       func(_ *demoState, v *verdict) { v.Cuts = 0 },
		"never upgraded":    func(_ *demoState, v *verdict) { v.Fast.Moves = 0 },
		"never returned":    func(_ *demoState, v *verdict) { v.Fast.Moves = 1 },
		"never failed":      func(_ *demoState, v *verdict) { v.Fast.Failovers = 0 },
		"nothing exchanged": func(_ *demoState, v *verdict) { v.Replacements = 0 },
	} {
		st, v := goodState()
		spoil(&st, &v)
		v.judge(&st, nil)
		require.Equal(t, verdictFailed, v.Verdict, name)
		require.NotEmpty(t, v.Reason, name)
	}
	v.Fast = fastResult{Missing: "no memfd"}
	v.judge(&st, nil)
	require.Equal(t, verdictOK, v.Verdict, "what a host doesn't have can't be shown")
	v.judge(&st, errors.New("no luck"))
	require.Equal(t, verdictFailed, v.Verdict)
}

// TestVerdictTellsOnlyWhatHappened: a demo that failed early says nothing of what it has not come to.
func TestVerdictTellsOnlyWhatHappened(t *testing.T) {
	text := func(v verdict) string {
		var b strings.Builder
		v.print(&b)
		return b.String()
	}
	early := text(verdict{Verdict: verdictFailed, Reason: "start the server: too many open files", Seed: 5})
	assert.Contains(t, early, "FAILED (--seed 5): start the server: too many open files")
	for _, never := range []string{"shared memory", "its failure", "longest gap", "sha256", "returned"} {
		assert.NotContains(t, early, never)
	}
	midway := text(verdict{Verdict: verdictFailed, Reason: "x", GID: "ab", BytesUp: 1000, Fast: fastResult{Moves: 1, Choice: "tcp -> shm (a:1): 2x faster"}})
	assert.Contains(t, midway, "client → server  1 kB\n")
	assert.Contains(t, midway, "tcp -> shm: 2x faster")
	assert.NotContains(t, midway, "its failure")
	fell := text(verdict{Verdict: verdictFailed, Reason: "x", GID: "ab", Fast: fastResult{Moves: 1, Failovers: 1, FailoverMS: 3}})
	assert.Contains(t, fell, "3.0 ms without a byte, then TCP\n")
	whole := text(verdict{Verdict: verdictOK, GID: "ab", SHA256Up: "0123456789abcdef0", Fast: fastResult{Moves: 2, Failovers: 1, FailoverMS: 3}})
	assert.Contains(t, whole, "sha256 0123456789abcdef\n")
	assert.Contains(t, whole, "returned when it worked again")
	assert.Contains(t, text(verdict{GID: "ab", Fast: fastResult{Missing: "no memfd"}}), "not here: no memfd")
}

func TestTexts(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1 kB", 1234567: "1.23 MB", 999_600_000: "1 GB", 12_300_000_000: "12.3 GB"} {
		assert.Equal(t, want, bytesText(n))
	}
	for n, want := range map[uint64]string{0: "0", 123: "123", 1234: "1,234", 1234567: "1,234,567"} {
		assert.Equal(t, want, grouped(n))
	}
	for text, want := range map[string]string{
		"tcp@127.0.0.1:5 -> shm (127.0.0.1:5): faster": "tcp -> shm: faster", "shm -> tcp@[::1]:5 (host:5): it broke": "shm -> tcp: it broke", "tcp -> shm (h:1): x": "tcp -> shm: x",
	} {
		assert.Equal(t, want, choiceAddrs.ReplaceAllString(text, " -> $1"))
	}
	s := newSpark()
	at := time.Unix(1000, 0)
	for i := range uint64(3) {
		s.add(at.Add(time.Duration(i)*time.Second), i*i*1000)
	}
	assert.Equal(t, uint64(3000), s.now())
	assert.Equal(t, "▃█", strings.TrimSpace(s.String()))
}
