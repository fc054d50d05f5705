package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func report() *Report {
	row := func(op Op, mode string, size Size, ratio float64) Row {
		return Row{
			Op: op, Mode: mode, Substrate: "tcp", Placement: Same, Size: size, N: 1000, Rounds: 40, P50Us: 21.345, P99Us: 60.5, MBs: 4321,
			RatioRaw: ratio, RatioQ1: ratio - 0.01, RatioQ3: ratio + 0.01, RatioLo: ratio - 0.005, RatioHi: ratio + 0.005, RatioMean: ratio,
			AARatio: 1.001, AAQ1: 0.99, AAQ3: 1.01, AALo: 0.995, AAHi: 1.005, AAMean: 1.002, AllocsOp: 0.25, BytesOp: 16, CPUUs: 7.5, CPURaw: ratio, CoreNs: 250,
		}
	}
	return &Report{
		Schema:  Schema,
		Machine: Machine{CPU: "a CPU", NCPU: 2, Kernel: "6.1", Go: "go1", OS: "linux", Arch: "amd64", GOMAXPROCS: 2, Congestion: "cubic", CoreDistance: 250, Load: 0.5, Time: "2026-01-02T03:04:05Z"},
		Method:  Method{Rounds: 40, BlockUs: 4000, Conns: 8, Seed: 1},
		Rows: []Row{
			row(RTT, ModeRaw, 32768, 1), row(RTT, "thin", 32768, 1.06), row(RTT, ModeRaw, 128, 1), row(RTT, "thin", 128, 1.02),
			row(BW, ModeRaw, 128, 1), row(BW, "thin", 128, 0.9),
		},
		Skipped: []Skipped{{Placement: Two, Reason: "only one CPU"}},
		Notes:   []string{"a busy machine"},
	}
}

func TestReportJSON(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, report().WriteJSON(&b))
	text := b.String()
	back, err := ReadReport(&b)
	require.NoError(t, err)
	assert.Equal(t, report(), back)

	// Scripts depend on these names and on the kind of each value.
	var fields struct {
		Schema  int
		Machine map[string]any
		Rows    []map[string]any
	}
	require.NoError(t, json.Unmarshal([]byte(text), &fields))
	assert.Equal(t, 1, fields.Schema)
	assert.NotEmpty(t, fields.Machine)
	for name, want := range map[string]any{
		"op": "rtt", "mode": "raw", "substrate": "tcp", "size": 32768.0, "n": 1000.0, "p50_us": 21.345, "p99_us": 60.5, "mb_s": 4321.0,
		"ratio_raw": 1.0, "allocs_op": 0.25, "placement": "same", "aa_ratio": 1.001,
		"cpu_us": 7.5, "cpu_ratio": 1.0,
	} {
		assert.Equal(t, want, fields.Rows[0][name], name)
	}
}

func TestReadReportErrors(t *testing.T) {
	_, err := ReadReport(strings.NewReader(`{"schema":2}`))
	require.ErrorContains(t, err, "schema 2, want 1")
	_, err = ReadReport(strings.NewReader("a table"))
	require.Error(t, err)
}

func TestReportTable(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, report().WriteTable(&b))
	const want = `a CPU, 2 CPUs 0.25 us apart, Linux 6.1, go1, cubic, load 0.50, 2026-01-02T03:04:05Z
loopback; medians of up to 40 rounds of 4000 us blocks on 8 connections each; [quartiles], (95 % confidence of the median); A/A: raw beside raw

Round trip, us, placement same (ratio to raw, of medians and of means: lower is better)
   size      mode  raw p50  raw p99    p50   p99  ratio    [quartiles]         (95 %)    A/A    [quartiles]   mean    A/A  CPU us  ratio  allocs/op
    128  thin/tcp    21.34     60.5  21.34  60.5  1.020  [1.010 1.030]  (1.015 1.025)  1.001  [0.990 1.010]  1.020  1.002    7.50  1.020       0.25
  32768  thin/tcp    21.34     60.5  21.34  60.5  1.060  [1.050 1.070]  (1.055 1.065)  1.001  [0.990 1.010]  1.060  1.002    7.50  1.060       0.25

Bandwidth, MB/s, placement same (ratio to raw: higher is better)
  size      mode  raw MB/s  MB/s  ratio    [quartiles]         (95 %)    A/A    [quartiles]  CPU us  ratio  allocs/op
   128  thin/tcp      4321  4321  0.900  [0.890 0.910]  (0.895 0.905)  1.001  [0.990 1.010]    7.50  0.900       0.25

not measured: placement two: only one CPU

note: a busy machine
`
	assert.Equal(t, want, b.String())
}

func TestTableOfRawAlone(t *testing.T) {
	r := report()
	r.Rows = r.Rows[:1]
	var b bytes.Buffer
	require.NoError(t, r.WriteTable(&b))
	assert.Contains(t, b.String(), "raw/tcp", "its line is there when there is no other to show it in")
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestTableWriteError(t *testing.T) {
	require.ErrorContains(t, report().WriteTable(fullDisk{}), "disk full")
}

func TestJudge(t *testing.T) {
	cfg := config()
	r := &runner{cfg: &cfg, cases: make([]benchCase, 4), report: report()}
	r.report.Notes = nil
	cfg.Rounds = goodRounds
	r.judge()
	assert.Empty(t, r.report.Notes, "a quiet machine, enough rounds, a good control: nothing to say")

	r.report.Machine.Load = 3
	r.report.Rows[0].AALo, r.report.Rows[0].AAHi = 1.05, 1.1
	r.short, r.switched = 2, 3
	r.judge()
	notes := strings.Join(r.report.Notes, "\n")
	for _, want := range []string{"load 3.00 on 2 CPUs", "2 of 4 cases had less than 30 rounds", "3 connections weren't made under cubic", "in 1 of 4 cases the A/A control"} {
		assert.Contains(t, notes, want)
	}
	cfg.Rounds = 5
	r.report.Notes = nil
	r.judge()
	assert.Contains(t, strings.Join(r.report.Notes, "\n"), "5 rounds are few")
}
