package bench

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/bench/internal/host"
)

// TestRun measures for real, raw beside raw, in processes of their own. Nothing is said about how fast: a shared machine
// may do anything.
func TestRun(t *testing.T) {
	cfg := config()
	cfg.Modes = []string{"same"}
	cfg.Ops, cfg.Sizes, cfg.Placements = []Op{RTT, BW}, []Size{128, 100_000}, Placements
	r, err := Run(t.Context(), cfg)
	require.NoError(t, err)
	cpus, err := host.CPUs()
	require.NoError(t, err)
	want := 3
	if len(cpus) < 2 {
		want = 2
		assert.Equal(t, []Skipped{{Placement: Two, Reason: "this process may use only one CPU"}}, r.Skipped)
	}
	require.Len(t, r.Rows, want*2*2*2)
	seen := make(map[string]bool)
	for _, row := range r.Rows {
		name := fmt.Sprint(row.Op, row.Mode, row.Substrate, row.Placement, row.Size)
		assert.False(t, seen[name], "%s twice", name)
		seen[name] = true
		assert.Equal(t, cfg.Rounds, row.Rounds)
		for _, x := range []float64{float64(row.N), row.P50Us, row.P99Us, row.MBs, row.RatioRaw, row.RatioQ1, row.RatioQ3, row.RatioLo, row.RatioHi, row.RatioMean, row.AARatio, row.AAQ1, row.AAQ3, row.AAMean} {
			assert.Positive(t, x, "%+v", row)
		}
		assert.LessOrEqual(t, row.P50Us, row.P99Us)
		assert.Less(t, row.AllocsOp, 5.0, "plain connections hardly allocate")
		if row.Mode == ModeRaw {
			assert.Equal(t, 1.0, row.RatioRaw)
		}
	}
	m := r.Machine
	for _, s := range []string{m.CPU, m.Kernel, m.Go, m.OS, m.Arch, m.Congestion, m.Time} {
		assert.NotEmpty(t, s, "%+v", m)
	}
	assert.Equal(t, len(cpus), m.NCPU)
	assert.Contains(t, strings.Join(r.Notes, "\n"), "3 rounds are few")
}

// TestBudget: a run that is short of time makes fewer rounds, but some.
func TestBudget(t *testing.T) {
	cfg := config()
	cfg.Rounds, cfg.Budget, cfg.Block = 10_000, time.Millisecond, 20*time.Microsecond
	r, err := Run(t.Context(), cfg)
	require.NoError(t, err)
	assert.Equal(t, minRounds, r.Rows[0].Rounds)
	assert.Contains(t, strings.Join(r.Notes, "\n"), "less than 30 rounds")
}

func TestRunAcrossNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces takes root")
	}
	before, err := net.Interfaces()
	require.NoError(t, err)
	cfg := config()
	cfg.NetNS = true
	r, err := Run(t.Context(), cfg)
	require.NoError(t, err)
	assert.Len(t, r.Rows, 1)
	assert.True(t, r.Method.NetNS)
	after, err := net.Interfaces()
	require.NoError(t, err)
	assert.Len(t, after, len(before))
}

// TestPinning: connections that don't follow the pinned congestion control are noticed.
func TestPinning(t *testing.T) {
	system, err := host.DefaultCongestion()
	require.NoError(t, err)
	cfg := config()
	cfg.Congestion = "reno"
	if system == cfg.Congestion {
		t.Skip("the system's congestion control is reno: nothing differs from it")
	}
	r, err := Run(t.Context(), cfg)
	require.NoError(t, err)
	assert.Equal(t, "reno", r.Machine.Congestion)
	assert.NotContains(t, strings.Join(r.Notes, "\n"), "switched")

	cfg.Modes = []string{"unpinned"}
	r, err = Run(t.Context(), cfg)
	require.NoError(t, err)
	assert.Contains(t, strings.Join(r.Notes, "\n"), "4 connections weren't made under reno", "two connections, two ends")

	cfg.Congestion = KeepCongestion
	r, err = Run(t.Context(), cfg)
	require.NoError(t, err)
	assert.Equal(t, system, r.Machine.Congestion)
	assert.NotContains(t, strings.Join(r.Notes, "\n"), "switched")
}

// TestRunErrors: whatever goes wrong in a worker, the error says where and why, and comes soon.
func TestRunErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   []string
	}{
		{"dial", func(c *Config) { c.Modes = []string{"undialable"} }, []string{"rtt of 128 bytes, placement free", "client", "undialable over tcp: dial 127.0.0.1:", "nobody there"}},
		{"listen", func(c *Config) { c.Modes = []string{"unlistenable"} }, []string{"server", "unlistenable over udp: listen at", "no ears"}},
		{"integrity", func(c *Config) { c.Modes = []string{"corrupt"} }, []string{"corrupt over udp: warm-up", "the echo differs"}},
		{"invalid", func(c *Config) { c.Rounds = 0 }, []string{"out of bounds"}},
		{"congestion", func(c *Config) { c.Congestion = "nonesuch" }, []string{`set congestion control "nonesuch"`}},
		{"no program", func(c *Config) { c.Command = func(string) *exec.Cmd { return exec.Command("/nonexistent/sockemu") } }, []string{"start the benchmark server", "no such file"}},
		{"another program", func(c *Config) { c.Command = func(string) *exec.Cmd { return exec.Command("true") } }, []string{"benchmark server ended too early"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config()
			c.change(&cfg)
			_, err := Run(t.Context(), cfg)
			for _, w := range c.want {
				require.ErrorContains(t, err, w)
			}
		})
	}
}

// TestRunIsCancelled: a run that would take hours ends with its context; that it ends at all means that its workers have.
func TestRunIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cfg := config()
	cfg.Log = slog.New(cancelOnLog{slog.DiscardHandler, cancel})
	_, err := Run(ctx, cfg)
	require.ErrorIs(t, err, errEnough)

	ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer stop()
	cfg = config()
	cfg.Rounds, cfg.Block = maxRounds, time.Second
	began := time.Now()
	_, err = Run(ctx, cfg)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(began), time.Minute)
}

var errEnough = fmt.Errorf("enough")

// cancelOnLog ends a run when it reports its first case.
type cancelOnLog struct {
	slog.Handler
	cancel context.CancelCauseFunc
}

func (cancelOnLog) Enabled(context.Context, slog.Level) bool { return true }

func (h cancelOnLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "measured" {
		h.cancel(errEnough)
	}
	return nil
}

// TestPlacements: workers see the CPUs they are given, and nothing else.
func TestPlacements(t *testing.T) {
	r := &runner{cpus: []int{3, 5, 7}}
	for p, want := range map[Placement][2][]int{Same: {{3}, {3}}, Two: {{5}, {3}}, Free: {nil, nil}} {
		server, client := r.places(p)
		assert.Equal(t, want, [2][]int{server.CPUs, client.CPUs}, p)
	}
}
