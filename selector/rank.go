package selector

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/sockemu/sockemu/substrate"
)

// A Candidate is a path as a decision saw it.
type Candidate struct {
	Path
	Tier Tier `json:"tier"`
	// OK: the path could be chosen. If not, Reason is the check that it failed.
	OK     bool   `json:"ok"`
	Reason string `json:"reason"`
	// Score is the expected cost of one message of this connection; 0 if unknown. Sigma is how much it varies between rounds.
	Score Micros  `json:"score_us"`
	Sigma Micros  `json:"sigma_us"`
	Cost  Figures `json:"cost"`
	// About says more of the path, if its substrate does: by which device it leads, how it is tuned. It decides nothing.
	About string `json:"about,omitempty"`

	cond       condition
	preference int // position in Policy.Prefer; its length if not there
	score      float64
	sigma      float64
	cost       substrate.Cost
	at         time.Time // when it was measured; zero if that brought no figure
	round      uint64    // in which it was measured
	turns      []time.Duration
	perByte    float64 // that of cost, or what an unknown one is taken for
	record     record
}

// Figures are a measured cost as JSON shows it. A zero is unknown.
type Figures struct {
	RTT          Micros  `json:"rtt_us"`
	RTTMin       Micros  `json:"rtt_min_us"`
	RTTP99       Micros  `json:"rtt_p99_us"`
	Jitter       Micros  `json:"jitter_us"`
	SendOverhead Micros  `json:"send_overhead_us"`
	NsPerByte    float64 `json:"ns_per_byte"`
	MBPerSecond  float64 `json:"mb_s"`
	Loss         float64 `json:"loss"`
	Samples      int     `json:"samples"`
	AgeSeconds   float64 `json:"age_s"`
}

func figures(m Measurement, age time.Duration) Figures {
	f := Figures{
		RTT:          Micros(m.Cost.RTT),
		RTTMin:       Micros(m.RTTMin),
		RTTP99:       Micros(m.RTTP99),
		Jitter:       Micros(m.Cost.Jitter),
		SendOverhead: Micros(m.Cost.SendOverhead),
		NsPerByte:    m.Cost.PerByte,
		Loss:         m.Cost.Loss,
		Samples:      m.Cost.Samples,
		AgeSeconds:   age.Seconds(),
	}
	if f.NsPerByte > 0 {
		f.MBPerSecond = 1e3 / f.NsPerByte
	}
	return f
}

// Candidates returns every path to the peer as policy and weights make it look, the best first.
func (t *Table) Candidates(now time.Time, w Weights, policy Policy) []Candidate {
	t.mu.Lock()
	defer t.mu.Unlock()
	cs := make([]Candidate, 0, len(t.entries))
	worst := 0.0 // what an unknown time per byte is taken for: not knowing is no advantage
	for _, e := range t.entries {
		if c, _ := t.condition(e, now); c == fine {
			worst = max(worst, e.good.Cost.PerByte)
		}
	}
	if worst == 0 {
		worst = unknownByte
	}
	for _, e := range t.entries {
		cs = append(cs, t.candidate(e, now, w, policy, worst))
	}
	slices.SortFunc(cs, byRank)
	return cs
}

// byRank orders candidates, the best first: tiers before preferences before numbers, names to make the order definite.
func byRank(a, b Candidate) int {
	return cmp.Or(
		-cmp.Compare(a.Tier, b.Tier),
		cmp.Compare(a.preference, b.preference),
		cmp.Compare(a.score, b.score),
		cmp.Compare(a.Substrate, b.Substrate),
		cmp.Compare(a.Addr, b.Addr),
	)
}

// explainLosers gives a reason to those that could have been chosen and were not.
func explainLosers(cs []Candidate, chosen Path) {
	i := slices.IndexFunc(cs, func(c Candidate) bool { return c.Path == chosen })
	if i < 0 {
		return
	}
	won := cs[i]
	for i := range cs {
		switch c := &cs[i]; {
		case !c.OK || c.Path == chosen:
		case c.preference != won.preference:
			c.Reason = "the policy prefers " + won.Substrate
		case c.score > 0 && won.score > 0:
			c.Reason = fmt.Sprintf("costs %.2f times as much as %s", c.score/won.score, won.Substrate)
		}
	}
}

// candidate wants mu.
func (t *Table) candidate(e *entry, now time.Time, w Weights, policy Policy, worst float64) Candidate {
	c := Candidate{Path: e.Path, preference: policy.preference(e.Substrate)}
	c.cond, c.Reason = t.condition(e, now)
	if !e.good.At.IsZero() {
		age := now.Sub(e.good.At)
		c.cost, c.round, c.turns, c.record = e.good.Cost, e.good.Round, e.good.Turns, e.record
		c.cost.Jitter = e.record.jitter()
		c.Cost = figures(e.good, age)
		known := c.cost
		if known.PerByte == 0 {
			known.PerByte = worst
		}
		c.perByte = known.PerByte
		if known.RTT > 0 {
			c.score = score(known, w, age, t.cfg.TTL)
			c.at = e.good.At
			c.sigma = noise(known, &e.record, w)
			c.Score, c.Sigma = Micros(math.Ceil(c.score)), Micros(c.sigma) // what is known is never shown as 0
		}
	}
	switch why := policy.objection(e.Substrate); {
	case why != "":
		c.Tier, c.Reason = Rejected, why
	case c.cond == fine && policy.Required():
		c.Tier, c.OK = Pinned, true
	case c.cond == fine:
		c.Tier, c.OK = Healthy, true
	case c.cond == stale:
		c.Tier = Suspect
	case c.cond == failing && !e.good.At.IsZero() && e.fails < dropAfter:
		c.Tier = Suspect
	case c.cond == failing && e.fails >= dropAfter:
		c.Reason = fmt.Sprintf("%d probes in a row failed, the last: %s", e.fails, cmp.Or(e.last.Reason, e.last.Class.String()))
	}
	return c
}
