package bench

import "fmt"

const (
	// busyLoad is the load average per CPU above which somebody else was at work before the run.
	busyLoad = 0.5
	// aaLimit is how far from 1 the A/A control may be before one should ask why.
	aaLimit = 0.03
)

// judge notes what a reader should know before trusting the figures.
func (r *runner) judge() {
	note := func(format string, args ...any) {
		r.report.Notes = append(r.report.Notes, fmt.Sprintf(format, args...))
	}
	m := r.report.Machine
	if m.Load > busyLoad*float64(m.NCPU) {
		note("the machine was busy before the run: load %.2f on %d CPUs", m.Load, m.NCPU)
	}
	if r.cfg.Rounds < goodRounds {
		note("%d rounds are few: it takes %d for the ratios to mean much", r.cfg.Rounds, goodRounds)
	} else if r.short > 0 {
		note("%d of %d cases had less than %d rounds, for lack of time: give more, or measure less at once", r.short, len(r.cases), goodRounds)
	}
	if r.switched > 0 {
		note("%d connections weren't made under %s; they were switched afterwards, which may leave the pacing of the other one on: "+
			"their transport should use bench.Congestion", r.switched, m.Congestion)
	}
	off := 0
	for _, row := range r.report.Rows {
		if row.Mode == ModeRaw && (row.AALo > 1+aaLimit || row.AAHi < 1-aaLimit) {
			off++
		}
	}
	if off > 0 {
		note("in %d of %d cases the A/A control differs from 1 by more than %.0f %%: such differences mean nothing there", off, len(r.cases), aaLimit*100)
	}
}
