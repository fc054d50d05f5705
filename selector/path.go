package selector

import (
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sockemu/sockemu/substrate"
)

// A Path is one way to reach a peer: a substrate and the peer's address in that substrate's own form.
type Path struct {
	Substrate string `json:"substrate"`
	Addr      string `json:"addr,omitempty"`
}

// String is substrate@address, or the substrate alone if the address is empty.
func (p Path) String() string {
	if p.Addr == "" {
		return p.Substrate
	}
	return p.Substrate + "@" + p.Addr
}

// An Offer is a path that could be used, or the reason why it can't be.
type Offer struct {
	Path
	// Barred is the check that rules the path out before any probe ("no RDMA device here"); empty if none does. A barred path is
	// listed and explained, and never probed.
	Barred string
	// Prior is a guess at the cost. It orders probes; nothing is chosen on it.
	Prior substrate.Cost
}

// A Measurement is the outcome of probing one path in one round.
type Measurement struct {
	// Round is the ID of the round (Table.Round) that the probe belonged to.
	Round uint64
	// At is when the probe ended.
	At time.Time
	// Class is zero if the probe went through end to end, else what kind of failure it was, and Reason the check that failed.
	Class  substrate.Class
	Reason string
	// Cost is what was measured; its RTT is the median. Zero fields are unknown, and being unknown is never an advantage.
	Cost substrate.Cost
	// RTTMin and RTTP99 bound the RTTs that were seen.
	RTTMin, RTTP99 time.Duration
	// Turns, if not nil, are round-trip times that were measured in turns with the other paths of the round that have them: the i-th of each
	// were measured at about the same time, so that what the machine was busy with hit all of them alike.
	Turns []time.Duration
	// Partial: the round goes on, and what it brings replaces this.
	Partial bool
}

// RoundTrips returns what round trips measure: all of them, in any order, and quiet, those that count. Their median is the RTT, and how far they
// are from it the jitter. None measure nothing.
func RoundTrips(all, quiet []time.Duration) Measurement {
	if len(all) == 0 || len(quiet) == 0 {
		return Measurement{}
	}
	all = slices.Sorted(slices.Values(all))
	rtt := median(quiet)
	off := make([]time.Duration, len(quiet))
	for i, d := range quiet {
		off[i] = (d - rtt).Abs()
	}
	// The mean deviation of a normal variable is 1.2 times the median deviation.
	cost := substrate.Cost{RTT: rtt, Jitter: median(off) * 6 / 5, Samples: len(all), Source: substrate.SourceProbe}
	return Measurement{Cost: cost, RTTMin: all[0], RTTP99: all[len(all)*99/100]}
}

// OK reports that the probe succeeded.
func (m Measurement) OK() bool { return m.Class == 0 }

// The bounds of what is kept about a peer. Offers come from the peer's advert.
const (
	maxOffers = 64
	maxText   = 256
)

// tidy bounds a text that may come from a peer and makes it safe to print.
func tidy(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// plausible clears what can't be a cost: a peer's answers have an influence on what a probe measures.
func plausible(c substrate.Cost) substrate.Cost {
	c.RTT = max(c.RTT, 0)
	c.Jitter = max(c.Jitter, 0)
	c.SendOverhead = max(c.SendOverhead, 0)
	c.Samples = max(c.Samples, 0)
	if !(c.PerByte > 0) || math.IsInf(c.PerByte, 0) {
		c.PerByte = 0
	}
	if !(c.Loss > 0) {
		c.Loss = 0
	}
	c.Loss = min(c.Loss, 1)
	return c
}
