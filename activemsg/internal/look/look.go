// Package look decides for how long it pays to look for something that is about to come before going to sleep until it does.
//
// To be woken costs some ten microseconds on hardware, and a hundred times that on an emulated machine. Who looks instead has its news at once,
// and keeps a processor busy. So one looks if what was waited for of late came soon, twice as long as that took, and never longer than
// what was configured. What stays away for long is waited for asleep: an idle path costs nothing.
package look

import "time"

// Burst is how long one looks without letting other goroutines run.
const Burst = 20 * time.Microsecond

// A Looker remembers how long one goroutine's waits took. Its zero value never looks.
type Looker struct {
	most time.Duration
	mean time.Duration // of the last waits, decaying
	sat  uint8         // waits without looking, since the last try
}

const (
	// again is after how many waits asleep one looks nevertheless: what comes soon may seem late because waking up takes so long.
	again = 64
	// outlier bounds what a single wait counts, in times of most: a pause in a quick dialogue must not end it.
	outlier = 2
)

// New returns a Looker that looks for most at a time. It begins in good hope.
func New(most time.Duration) Looker { return Looker{most: most, mean: most / 2} }

// Limit says for how long to look now. 0 is not at all.
func (l *Looker) Limit() time.Duration {
	if l.most <= 0 {
		return 0
	}
	if l.mean <= l.most {
		return min(l.most, 2*l.mean+l.most/8)
	}
	if l.sat++; l.sat < again {
		return 0
	}
	l.sat = 0
	return l.most
}

// Took notes how long a wait has taken in all, asleep or awake.
func (l *Looker) Took(d time.Duration) {
	l.mean += (min(d, outlier*l.most) - l.mean) / 4
}
