package bench

import (
	"encoding/json"
	"fmt"
	"io"
)

// Schema is the version of the JSON report. Fields may be added without a new one.
const Schema = 1

// A Report is the result of a run.
type Report struct {
	Schema  int       `json:"schema"`
	Machine Machine   `json:"machine"`
	Method  Method    `json:"method"`
	Rows    []Row     `json:"rows"`
	Skipped []Skipped `json:"skipped,omitempty"`
	Notes   []string  `json:"notes,omitempty"` // what a reader should know before trusting the figures
}

// A Machine is where the figures were taken.
type Machine struct {
	CPU          string  `json:"cpu"`
	NCPU         int     `json:"ncpu"` // that this process may use
	Kernel       string  `json:"kernel"`
	Go           string  `json:"go"`
	OS           string  `json:"os"`
	Arch         string  `json:"arch"`
	GOMAXPROCS   int     `json:"gomaxprocs"`       // of processes that aren't pinned
	Congestion   string  `json:"congestion"`       // congestion control of TCP
	CoreDistance int64   `json:"core_distance_ns"` // round trip of a word between two CPUs; 0: unknown
	Load         float64 `json:"load"`             // load average of the minute before
	Time         string  `json:"time"`             // RFC 3339
}

// A Method is how the figures were taken.
type Method struct {
	Rounds  int    `json:"rounds"` // asked for
	BlockUs int64  `json:"block_us"`
	Conns   int    `json:"connections"` // of each mode, used in turn
	Seed    uint64 `json:"seed"`
	NetNS   bool   `json:"netns"` // across a veth pair instead of the loopback
	Host    string `json:"host"`  // address that the server listens at
	Cold    bool   `json:"cold"`
}

// A Row is one way to connect, measured for one operation, size and placement.
//
// Round-trip times are those of single operations. A stream has none: there P50Us and P99Us are times per message, of
// blocks. MBs is what moved, in 10^6 bytes a second: for rtt it counts the message both ways.
//
// Ratios are to raw TCP in the same round. For rtt they compare the median round trip of a block, and lower is better;
// RatioMean compares the mean, which is noisier, but sees a cost that only every hundredth operation has. For bw they compare
// the bandwidth of a block, and higher is better. The A/A ratio is that of more raw connections, which is 1 but for the noise.
type Row struct {
	Op        Op        `json:"op"`
	Mode      string    `json:"mode"`
	Substrate string    `json:"substrate"`
	Placement Placement `json:"placement"`
	Size      Size      `json:"size"`
	N         int       `json:"n"`      // operations timed
	Rounds    int       `json:"rounds"` // ratios behind RatioRaw
	P50Us     float64   `json:"p50_us"`
	P99Us     float64   `json:"p99_us"`
	MBs       float64   `json:"mb_s"`
	RatioRaw  float64   `json:"ratio_raw"` // median over the rounds
	RatioQ1   float64   `json:"ratio_q1"`
	RatioQ3   float64   `json:"ratio_q3"`
	RatioLo   float64   `json:"ratio_lo"` // 95 % confidence interval of RatioRaw
	RatioHi   float64   `json:"ratio_hi"`
	RatioMean float64   `json:"ratio_mean"`
	AARatio   float64   `json:"aa_ratio"`
	AAQ1      float64   `json:"aa_q1"`
	AAQ3      float64   `json:"aa_q3"`
	AALo      float64   `json:"aa_lo"`
	AAHi      float64   `json:"aa_hi"`
	AAMean    float64   `json:"aa_mean"`
	AllocsOp  float64   `json:"allocs_op"`        // heap allocations per operation, of both processes
	BytesOp   float64   `json:"bytes_op"`         // their bytes
	CPUUs     float64   `json:"cpu_us"`           // processor time per operation, of both processes and the kernel for them
	CPURaw    float64   `json:"cpu_ratio"`        // its ratio to raw's
	CoreNs    int64     `json:"core_distance_ns"` // just before this case; 0: unknown
}

// A Skipped is what was asked for and can't be measured here: a placement, or a mode over a substrate.
type Skipped struct {
	Placement Placement `json:"placement,omitempty"`
	Mode      string    `json:"mode,omitempty"`
	Substrate string    `json:"substrate,omitempty"`
	Reason    string    `json:"reason"`
}

// String names what was skipped, and why.
func (s Skipped) String() string {
	if s.Mode != "" {
		return s.Mode + " over " + s.Substrate + ": " + s.Reason
	}
	return "placement " + string(s.Placement) + ": " + s.Reason
}

// WriteJSON writes r as one JSON object and a newline.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// ReadReport reads what WriteJSON wrote.
func ReadReport(rd io.Reader) (*Report, error) {
	var r Report
	if err := json.NewDecoder(rd).Decode(&r); err != nil {
		return nil, fmt.Errorf("read a benchmark report: %w", err)
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("read a benchmark report: schema %d, want %d", r.Schema, Schema)
	}
	return &r, nil
}

// raw returns the reference of row, or nil.
func (r *Report) raw(row *Row) *Row {
	for i := range r.Rows {
		c := &r.Rows[i]
		if c.Mode == ModeRaw && c.Op == row.Op && c.Size == row.Size && c.Placement == row.Placement {
			return c
		}
	}
	return nil
}
