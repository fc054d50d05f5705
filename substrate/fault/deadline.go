package fault

import (
	"sync"
	"time"
)

// A deadline makes those who wait give up. The lock that is passed to reset guards it.
type deadline struct {
	timer   *time.Timer
	set     int // how often it was set: a timer that fires late must not expire a newer deadline
	expired bool
}

// reset sets the deadline to t, none if t is zero; wake is called, with mu held, when it has passed.
func (d *deadline) reset(t time.Time, mu *sync.Mutex, wake func()) {
	d.stop()
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.expired = true
		wake()
		return
	}
	set := d.set
	d.timer = time.AfterFunc(left, func() {
		mu.Lock()
		defer mu.Unlock()
		if d.set == set {
			d.expired = true
			wake()
		}
	})
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.set++
	d.expired = false
}
