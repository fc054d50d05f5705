//go:build !linux

package sys

import (
	"errors"
	"fmt"
	"time"
)

// An Alarm is a timer of the kernel; this system has none that Go can wait for.
type Alarm struct{}

var errAlarm = fmt.Errorf("timerfd: %w", errors.ErrUnsupported)

// NewAlarm returns an error that wraps errors.ErrUnsupported.
func NewAlarm() (*Alarm, error) { return nil, errAlarm }

// Set, Wait and Close are never reached: there is no Alarm.
func (*Alarm) Set(time.Duration) error { return errAlarm }

// Wait is never reached.
func (*Alarm) Wait() error { return errAlarm }

// Close is never reached.
func (*Alarm) Close() error { return errAlarm }
