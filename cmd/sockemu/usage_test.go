package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestNoArguments: who types the bare name sees what there is.
func TestNoArguments(t *testing.T) {
	t.Parallel()
	status, out, errs := output(t)
	require.Equal(t, exitUsage, status)
	require.Empty(t, out)
	_, help, _ := output(t, "--help")
	require.Equal(t, help, errs)
	for _, want := range []string{"demo", "pipe", "probe", "bench", "netem ns", "Exit status: 0 success, 1 failure, 2 wrong usage"} {
		require.Contains(t, help, want)
	}
}

// TestWrongAddresses: what can never be an address is wrong usage, found before anything is tried.
func TestWrongAddresses(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"pipe nohost", `"nohost" is no peer: want HOST:PORT`},
		{"pipe 127.0.0.1:0", "nothing listens on port 0"},
		{"pipe 127.0.0.1:99999", "99999"},
		{"pipe -l 7000", `can't listen at "7000": want HOST:PORT`},
		{"pipe -l :nosuchservice", "nosuchservice"},
		{"netem udp --to x", "--to=x: want HOST:PORT"},
		{"netem udp --to 127.0.0.1:0", "nothing listens on port 0"},
		{"netem udp --to 127.0.0.1:9 --listen 9", "--listen=9: want HOST:PORT"},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			status, out, errs := output(t, strings.Fields(c.args)...)
			assert.Equal(t, exitUsage, status)
			assert.Empty(t, out)
			assert.Contains(t, errs, c.want)
			assert.Equal(t, 1, strings.Count(errs, "\n"), errs)
		})
	}
}

// TestWrongEnvironment: a policy that isn't one is wrong usage, whoever reads it.
func TestWrongEnvironment(t *testing.T) {
	t.Setenv(substrateVar, "smoke")
	for _, args := range []string{"demo --time 1s", "pipe 127.0.0.1:1", "probe 127.0.0.1:1"} {
		status, out, errs := output(t, strings.Fields(args)...)
		require.Equal(t, exitUsage, status, args)
		require.Empty(t, out)
		require.Regexp(t, `SOCKEMU_SUBSTRATE.*no substrate is called "smoke"`, errs)
	}
}

// TestBenchKeepsToItsSubstrate: rules of the environment are about programs, not about what is measured.
func TestBenchKeepsToItsSubstrate(t *testing.T) {
	t.Setenv("SOCKEMU_RULES", "/nonexistent")
	status, _, errs := output(t, "bench", "--mode", "thin", "--op", "rtt", "--size", "128", "--placement", "free", "--reps", "1", "--conns", "1", "--block", "1ms")
	require.Equal(t, exitOK, status, errs)
}
