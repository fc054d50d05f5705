package bench

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// WriteTable writes r for people: a table for each operation and placement, a line for each size and mode, with plain TCP's
// figures beside each.
func (r *Report) WriteTable(w io.Writer) error {
	t := &table{Writer: tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight), r: r}
	m := r.Machine
	t.text("%s, %d CPUs %s apart, Linux %s, %s, %s, load %.2f, %s\n", m.CPU, m.NCPU, distance(m.CoreDistance), m.Kernel, m.Go, m.Congestion, m.Load, m.Time)
	network := "loopback"
	switch {
	case r.Method.NetNS:
		network = "veth pair"
	case r.Method.Host != "" && r.Method.Host != loopback:
		network = "at " + r.Method.Host
	}
	t.text("%s; medians of up to %d rounds of %d us blocks on %d connections each; [quartiles], (95 %% confidence of the median); A/A: raw beside raw\n",
		network, r.Method.Rounds, r.Method.BlockUs, r.Method.Conns)
	for _, op := range []Op{RTT, BW} {
		for _, p := range Placements {
			rows := slices.DeleteFunc(slices.Clone(r.Rows), func(row Row) bool { return row.Op != op || row.Placement != p })
			slices.SortStableFunc(rows, func(a, b Row) int { return cmp.Compare(a.Size, b.Size) })
			if len(rows) > 0 {
				t.group(op, p, rows)
			}
		}
	}
	for _, s := range r.Skipped {
		t.text("\nnot measured: %s\n", s)
	}
	if len(r.Notes) > 0 {
		t.text("\n")
	}
	for _, n := range r.Notes {
		t.text("note: %s\n", n)
	}
	return cmp.Or(t.err, t.Flush())
}

// distance shows a core distance.
func distance(ns int64) string {
	if ns == 0 {
		return "(unknown)"
	}
	return fmt.Sprintf("%.2f us", float64(ns)/1000)
}

// table keeps the first error of writing.
type table struct {
	*tabwriter.Writer
	r   *Report
	err error
}

// text writes a line that isn't part of a table, cells a line that is.
func (t *table) text(format string, args ...any) {
	t.err = cmp.Or(t.err, t.Flush())
	t.cells(format, args...)
	t.err = cmp.Or(t.err, t.Flush())
}

func (t *table) cells(format string, args ...any) {
	_, err := fmt.Fprintf(t, format, args...)
	t.err = cmp.Or(t.err, err)
}

// group writes the table of one operation and placement.
func (t *table) group(op Op, p Placement, rows []Row) {
	both := slices.ContainsFunc(rows, func(r Row) bool { return r.Mode != ModeRaw })
	if op == RTT {
		t.text("\nRound trip, us, placement %s (ratio to raw, of medians and of means: lower is better)\n", p)
		t.cells("size\tmode\traw p50\traw p99\tp50\tp99\tratio\t[quartiles]\t(95 %%)\tA/A\t[quartiles]\tmean\tA/A\tCPU us\tratio\tallocs/op\t\n")
	} else {
		t.text("\nBandwidth, MB/s, placement %s (ratio to raw: higher is better)\n", p)
		t.cells("size\tmode\traw MB/s\tMB/s\tratio\t[quartiles]\t(95 %%)\tA/A\t[quartiles]\tCPU us\tratio\tallocs/op\t\n")
	}
	for i := range rows {
		r, raw := &rows[i], t.r.raw(&rows[i])
		if both && r.Mode == ModeRaw || raw == nil {
			continue // its figures stand in each line
		}
		t.cells("%v\t%s/%s\t", r.Size, r.Mode, r.Substrate)
		if op == RTT {
			t.cells("%.2f\t%.1f\t%.2f\t%.1f\t", raw.P50Us, raw.P99Us, r.P50Us, r.P99Us)
		} else {
			t.cells("%.0f\t%.0f\t", raw.MBs, r.MBs)
		}
		t.cells("%.3f\t[%.3f %.3f]\t(%.3f %.3f)\t%.3f\t[%.3f %.3f]\t", r.RatioRaw, r.RatioQ1, r.RatioQ3, r.RatioLo, r.RatioHi, r.AARatio, r.AAQ1, r.AAQ3)
		if op == RTT {
			t.cells("%.3f\t%.3f\t", r.RatioMean, r.AAMean)
		}
		t.cells("%.2f\t%.3f\t%.2f\t\n", r.CPUUs, r.CPURaw, r.AllocsOp)
	}
}
