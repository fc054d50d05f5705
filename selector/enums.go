package selector

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// A Tier ranks paths before any number does.
type Tier uint8

// The tiers, worst first.
const (
	Rejected Tier = iota // can't be used, or was never seen to work
	Suspect              // worked, but died, fails its probes, or was not measured lately
	Healthy              // measured end to end, lately
	Pinned               // healthy, and demanded by a policy
)

var tierNames = []string{"rejected", "suspect", "healthy", "pinned"}

// String names the tier as it is shown to users.
func (t Tier) String() string { return nameOf(tierNames, int(t), "tier") }

// MarshalText writes the name.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the name.
func (t *Tier) UnmarshalText(b []byte) error {
	i := slices.Index(tierNames, string(b))
	if i < 0 {
		return fmt.Errorf("no tier is called %q", b)
	}
	*t = Tier(i)
	return nil
}

// An Action is what a decision tells the caller to do.
type Action uint8

// The actions.
const (
	Stay   Action = iota // nothing
	Switch               // open Decision.To, move over, tell Bound or Refused
	Fail                 // there is no path that the policy allows: tell the application
)

var actionNames = []string{"stay", "switch", "fail"}

// String names the action as it is shown to users.
func (a Action) String() string { return nameOf(actionNames, int(a), "action") }

// MarshalText writes the name.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// A Cause says why a decision was taken.
type Cause uint8

// The causes of switches, then those of staying, refusing and failing.
const (
	CauseNone       Cause = iota
	CauseInitial          // the first upgrade after connect
	CauseSight            // as initial: faster at first sight, before all was measured
	CauseLikely           // as initial: more likely faster, by little evidence
	CauseFaster           // another path was faster in several rounds running
	CausePathBack         // as faster: the path had been left because it died
	CausePathDied         // the current path died
	CauseSuspect          // the current path fails its probes
	CauseStale            // the current path was not measured for long, another was
	CausePreferred        // the policy prefers the other path
	CausePinned           // this end's policy doesn't allow the current path
	CausePeerPinned       // the peer's policy doesn't

	CauseBest       // the current path is the best
	CauseSmallGain  // another one is better by less than 20 %
	CauseNoise      // or by less than the noise
	CauseConfirming // or not yet in enough rounds
	CauseHoldDown   // the last switch was too short ago
	CauseRound      // current and best path were not measured in the same round
	CauseOnlyPath   // there is no other usable path
	CauseInProgress // a switch is under way
	CausePeerDecides
	CausePinWaits
	CausePinImpossible
	CauseNoPath
)

var causeNames = []string{"none", "initial", "sight", "likely", "faster", "path_back", "path_died", "suspect", "stale", "preferred", "pinned",
	"peer_pinned", "best", "small_gain", "noise", "confirming", "hold_down", "round", "only_path",
	"in_progress", "peer_decides", "pin_waits", "pin_impossible", "no_path"}

// String is the name that logs and JSON show.
func (c Cause) String() string { return nameOf(causeNames, int(c), "cause") }

// byChoice: numbers or preference called for a switch that has this cause, and were sure of it.
func (c Cause) byChoice() bool {
	return c == CauseInitial || c == CauseFaster || c == CausePathBack || c == CausePreferred
}

// unsure: there was no more than one comparison of figures to stay.
func (c Cause) unsure() bool {
	return c == CauseBest || c == CauseSmallGain || c == CauseNoise || c == CauseConfirming
}

// MarshalText writes the name.
func (c Cause) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func nameOf(names []string, i int, kind string) string {
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s %d", kind, i)
}

// Micros is a duration that JSON shows as a number of microseconds.
type Micros time.Duration

// String is as in "53.1 us".
func (m Micros) String() string { return fmt.Sprintf("%.1f us", m.us()) }

// MarshalJSON writes microseconds, to the nanosecond.
func (m Micros) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%.3f", m.us()), nil }

// UnmarshalJSON reads what MarshalJSON has written.
func (m *Micros) UnmarshalJSON(b []byte) error {
	us, err := strconv.ParseFloat(string(b), 64)
	*m = Micros(us * 1e3)
	return err
}

func (m Micros) us() float64 { return float64(m) / 1e3 }
