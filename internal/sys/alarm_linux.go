package sys

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An Alarm is a timer of the kernel (timerfd_create(2)) for one goroutine to wait for. It rings on time to some tens of
// microseconds, where Go's own timers can be a millisecond late in an idle process: those end in an epoll_wait, whose unit that is.
type Alarm struct {
	file *os.File
	raw  syscall.RawConn
}

// NewAlarm returns an alarm that isn't set.
func NewAlarm() (*Alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	a := &Alarm{file: os.NewFile(uintptr(fd), "timer")}
	if a.raw, err = a.file.SyscallConn(); err != nil {
		a.file.Close()
		return nil, err
	}
	return a, nil
}

// Set makes the alarm ring once after d, at once if d isn't positive, instead of at the time set before. It may be called while
// another goroutine waits.
func (a *Alarm) Set(d time.Duration) error {
	var failed error
	err := a.raw.Control(func(fd uintptr) {
		spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(d, 1)))} // 0 would stop it
		failed = os.NewSyscallError("timerfd_settime", unix.TimerfdSettime(int(fd), 0, &spec, nil))
	})
	if err != nil {
		return err
	}
	return failed
}

// Wait returns when the alarm rings, or with an error after Close.
func (a *Alarm) Wait() error {
	var count [8]byte
	_, err := a.file.Read(count[:])
	return err
}

// Close ends the alarm, and Wait.
func (a *Alarm) Close() error { return a.file.Close() }
