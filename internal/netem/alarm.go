package netem

import (
	"time"

	"github.com/sockemu/sockemu/internal/sys"
)

// An alarm wakes the one goroutine that waits for it.
type alarm interface {
	// set makes wait return true after d, instead of at the time set before.
	set(d time.Duration)
	// wait returns false when the alarm has been stopped.
	wait() bool
	stop()
}

// goAlarm is an alarm made of the runtime's timers: virtual in a bubble of testing/synctest, else true to a millisecond or so.
type goAlarm struct {
	timer   *time.Timer
	stopped chan struct{}
}

func newGoAlarm() *goAlarm {
	a := &goAlarm{timer: time.NewTimer(0), stopped: make(chan struct{})}
	a.timer.Stop()
	return a
}

func (a *goAlarm) set(d time.Duration) { a.timer.Reset(d) }

func (a *goAlarm) wait() bool {
	select {
	case <-a.timer.C:
		return true
	case <-a.stopped:
		return false
	}
}

func (a *goAlarm) stop() {
	a.timer.Stop()
	close(a.stopped)
}

// kernelAlarm is an alarm of the kernel, true to some tens of microseconds.
type kernelAlarm struct{ *sys.Alarm }

func (a kernelAlarm) set(d time.Duration) { _ = a.Set(d) } // fails only once it is stopped
func (a kernelAlarm) wait() bool          { return a.Wait() == nil }
func (a kernelAlarm) stop()               { a.Close() }

// bestAlarm returns the most precise alarm for real time that the system has.
func bestAlarm() alarm {
	if a, err := sys.NewAlarm(); err == nil {
		return kernelAlarm{a}
	}
	return newGoAlarm()
}
