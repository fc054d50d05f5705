package verbs

import (
	"sync"
	"time"
)

// A deadline calls late when its time has come.
type deadline struct {
	late func()

	mu      sync.Mutex
	at      time.Time
	timer   *time.Timer
	stopped bool
}

// set moves the deadline and says now, before a timer can, whether it has passed.
func (d *deadline) set(t time.Time, now func(passed bool)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = t
	if d.timer != nil {
		d.timer.Stop()
	}
	left := time.Until(t)
	now(!t.IsZero() && left <= 0)
	switch {
	case t.IsZero() || left <= 0 || d.stopped:
	case d.timer == nil:
		d.timer = time.AfterFunc(left, d.fire)
	default:
		d.timer.Reset(left)
	}
}

// fire may be that of a time that was moved just before.
func (d *deadline) fire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.at.IsZero() && time.Until(d.at) <= 0 {
		d.late()
	}
}

func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	if d.timer != nil {
		d.timer.Stop()
	}
}
