package selector

import (
	"fmt"
	"strings"
	"time"
)

// A Decision is what a Binding decided, with everything that led to it.
type Decision struct {
	At     time.Time `json:"at"`
	Peer   string    `json:"peer"`
	Action Action    `json:"action"`
	Cause  Cause     `json:"cause"`
	From   Path      `json:"from"`
	To     Path      `json:"to"` // From, if it stays
	// Note is what the numbers don't say: how the path died, what the peer refused.
	Note string `json:"note,omitempty"`

	// The scores that were compared: what the connection pays now per message, what it would pay over there, the difference (as far as it
	// isn't one of jitter that may be chance), and the standard deviation of that difference. Zero if they played no part.
	FromScore Micros `json:"from_score_us"`
	ToScore   Micros `json:"to_score_us"`
	Gain      Micros `json:"gain_us"`
	Noise     Micros `json:"noise_us"`

	Leads   int `json:"leads,omitempty"`   // rounds running in which the other path was clearly better
	Repeats int `json:"repeats,omitempty"` // how often the same was decided since, without a change

	// Doubt: what was measured is too noisy to tell which path is the better one.
	Doubt bool `json:"doubt,omitempty"`
	// Again, if not zero, asks for another round so soon (Table.Hasten): a lead waits for confirmation, a doubt for a quieter moment, and a
	// switch that was made early for all figures.
	Again time.Duration `json:"-"`

	// Candidates are all paths to the peer, the best first, each with its reason if it wasn't taken.
	Candidates []Candidate `json:"candidates"`

	base    string
	ttl     time.Duration
	weights Weights
	needed  int // that Leads must come to
}

func (d *Decision) candidate(p Path) *Candidate {
	for i := range d.Candidates {
		if d.Candidates[i].Path == p {
			return &d.Candidates[i]
		}
	}
	return nil
}

// best is the first candidate, if it can be chosen.
func (d *Decision) best() *Candidate {
	if len(d.Candidates) > 0 && d.Candidates[0].OK {
		return &d.Candidates[0]
	}
	return nil
}

// measure notes the numbers of two paths; from may be nil.
func (d *Decision) measure(from, to *Candidate) {
	d.ToScore = to.Score
	if from == nil || from.Score == 0 || to.Score == 0 {
		return
	}
	d.FromScore = from.Score
	gain, sigma := compare(from, to, d.weights)
	d.Gain, d.Noise = Micros(gain), Micros(sigma)
}

// remember keeps d in the history; staying for the same reason as before only counts.
func (b *Binding) remember(d Decision) {
	if n := len(b.history); n > 0 && d.Action == Stay {
		if last := &b.history[n-1]; last.Action == Stay && last.Cause == d.Cause && last.From == d.From && last.To == d.To {
			d.Repeats = last.Repeats + 1
			*last = d
			return
		}
	}
	if len(b.history) == historyLen {
		copy(b.history, b.history[1:])
		b.history = b.history[:historyLen-1]
	}
	b.history = append(b.history, d)
}

// String is the decision as one log line, in plain words.
func (d Decision) String() string {
	var s strings.Builder
	from, to := d.label(d.From), d.label(d.To)
	switch d.Action {
	case Switch:
		fmt.Fprintf(&s, "%s -> %s (%s): %s", from, to, d.Peer, d.why())
	case Fail:
		fmt.Fprintf(&s, "no path (%s): %s", d.Peer, d.why())
	default:
		fmt.Fprintf(&s, "stays on %s (%s): %s", from, d.Peer, d.why())
	}
	switch {
	case d.Action == Switch && d.Again > 0:
		fmt.Fprintf(&s, "; measured again within %s", d.Again)
	case d.Doubt:
		fmt.Fprintf(&s, "; too noisy to tell, looks again within %s", d.Again)
	}
	sep := "; rejected: "
	for _, c := range d.Candidates {
		if c.Path == d.To || c.Path == d.From || c.Reason == "" {
			continue
		}
		s.WriteString(sep + d.label(c.Path) + ": " + c.Reason)
		sep = "; "
	}
	return s.String()
}

// label is the substrate, with the address where that isn't clear.
func (d *Decision) label(p Path) string {
	for _, c := range d.Candidates {
		if c.Substrate == p.Substrate && c.Path != p {
			return p.String()
		}
	}
	return p.Substrate
}

// why says the cause in words, with its numbers.
func (d *Decision) why() string {
	best := d.To
	if len(d.Candidates) > 0 {
		best = d.Candidates[0].Path
	}
	other := d.label(best)
	switch d.Cause {
	case CauseInitial, CauseFaster:
		return d.faster()
	case CauseSight:
		return "faster at first sight" + d.noted()
	case CauseLikely:
		return "little evidence, but it is more likely the faster one" + d.noted()
	case CausePathBack:
		return "it works again and is " + d.faster()
	case CausePathDied:
		return "the path broke" + d.noted() + d.scored()
	case CauseSuspect:
		return "the old path fails" + d.noted() + d.scored()
	case CauseStale:
		return "the old path was not measured for too long" + d.noted() + d.scored()
	case CausePreferred:
		return "the policy prefers it" + d.scored()
	case CausePinned:
		return "this end's policy" + d.noted()
	case CausePeerPinned:
		return "the peer's policy" + d.noted()
	case CauseBest:
		if d.Doubt {
			other = d.label(d.Candidates[1].Path)
			return fmt.Sprintf("it seems the best, but %s may be as good (%s)", other, d.numbers())
		}
		return "it is the best"
	case CauseSmallGain:
		return fmt.Sprintf("%s would gain less than %.0f %% (%s)", other, 100*(1-minRatio), d.numbers())
	case CauseNoise:
		return fmt.Sprintf("the gain of %s may be noise (%s)", other, d.numbers())
	case CauseConfirming:
		return fmt.Sprintf("%s was better in %d of %d rounds running (%s)", other, d.Leads, d.needed, d.numbers())
	case CauseHoldDown:
		return fmt.Sprintf("held for %s more after the last switch; %s waits (%s)", d.Again.Round(time.Millisecond), other, d.numbers())
	case CauseRound:
		return "not measured together with " + other + " lately" + d.noted()
	case CauseOnlyPath:
		return "no other path works"
	case CauseInProgress:
		return "the switch to " + d.label(d.To) + " is under way"
	case CausePeerDecides:
		return "the other end decides"
	case CausePinWaits:
		return "waits for a path that the policy allows" + d.noted()
	case CausePinImpossible:
		return "what is pinned can't be had" + d.noted()
	case CauseNoPath:
		return "no candidate works" + d.noted()
	}
	return d.Note
}

func (d *Decision) faster() string {
	return fmt.Sprintf("%.1fx faster for this connection's sizes (%s)", float64(d.FromScore)/float64(d.ToScore), d.numbers())
}

func (d *Decision) numbers() string {
	return fmt.Sprintf("score %s -> %s; gain %s, noise %s", d.FromScore, d.ToScore, d.Gain, d.Noise)
}

func (d *Decision) noted() string {
	if d.Note == "" {
		return ""
	}
	return ": " + d.Note
}

// scored tells the score of the new path where the choice was not made by comparing.
func (d *Decision) scored() string {
	switch {
	case d.Action != Switch:
		return ""
	case d.ToScore == 0:
		return "; last resort, not measured"
	}
	return fmt.Sprintf("; next best, score %s", d.ToScore)
}
