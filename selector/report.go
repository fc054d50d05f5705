package selector

import (
	"fmt"
	"time"
)

// A Report is everything about the paths to a peer, as `sockemu probe --json` prints it. Scripts depend on its field names.
type Report struct {
	Peer       string      `json:"peer"`
	Policy     string      `json:"policy"`
	Mean       float64     `json:"mean_size"` // of the messages that scores are for, in bytes
	Candidates []Candidate `json:"candidates"`
	Choice     Choice      `json:"choice"`
	// Best: which path is the fastest from which message size on.
	Best []Stretch `json:"best"`
	// Curves are the expected one-way times by size of the paths that work.
	Curves []PathCurve `json:"curves"`
}

// A Choice is the path that would be taken now, and why. Its substrate is empty if there is none.
type Choice struct {
	Path
	Why string `json:"why"`
}

// A PathCurve is the cost of one path by message size.
type PathCurve struct {
	Path
	Points []Point `json:"points"`
}

// Report describes the paths to the peer as a new connection with this policy and these sizes would find them. It has no
// memory of connections: hysteresis is theirs (Binding.History). curve are the message sizes to evaluate; nil for Buckets.
func (t *Table) Report(now time.Time, policy Policy, w Weights, curve []int) Report {
	cs := t.Candidates(now, w, policy)
	r := Report{Peer: t.peer, Policy: policy.String(), Mean: w.Mean(), Candidates: cs, Best: Envelope(cs), Choice: choose(cs, w, policy, t.cfg.Base)}
	if r.Best == nil {
		r.Best = []Stretch{} // scripts expect a list
	}
	if curve == nil {
		curve = Buckets[:]
	}
	r.Curves = []PathCurve{}
	for _, c := range cs {
		if c.OK {
			r.Curves = append(r.Curves, PathCurve{Path: c.Path, Points: Curve(c.cost, curve)})
		}
	}
	explainLosers(cs, r.Choice.Path)
	return r
}

// choose picks the best candidate, or the base path if none was measured and the policy allows it.
func choose(cs []Candidate, w Weights, policy Policy, base string) Choice {
	among := ""
	if len(policy.Deny) > 0 { // others may work as well
		among = " of those that the policy admits (policy " + policy.String() + ")"
	}
	if len(cs) > 0 && cs[0].OK {
		best := Choice{Path: cs[0].Path, Why: "the only path that works" + among}
		switch {
		case cs[0].Tier == Pinned:
			best.Why = "pinned (policy " + policy.String() + ")"
		case cs[0].preference < len(policy.Prefer):
			best.Why = "preferred (policy " + policy.String() + ")"
		case len(cs) > 1 && cs[1].OK:
			best.Why = fmt.Sprintf("%.1fx faster than %s (score %s to %s)", cs[1].score/cs[0].score, cs[1].Substrate, cs[0].Score, cs[1].Score)
			if gain, sigma := compare(&cs[1], &cs[0], w); gain <= sigmas*sigma {
				best.Why = fmt.Sprintf("about as fast as %s, the difference may be noise (score %s to %s; gain %s, noise %s)",
					cs[1].Substrate, cs[0].Score, cs[1].Score, Micros(gain), Micros(sigma))
			}
		}
		return best
	}
	for _, c := range cs {
		if c.Substrate == base && c.cond == pending && policy.Allows(base) {
			return Choice{Path: c.Path, Why: "the base path; nothing is measured yet"}
		}
	}
	if policy.Required() {
		return Choice{Why: "what is pinned can't be had (policy " + policy.String() + ")"}
	}
	return Choice{Why: "no candidate works" + among}
}
