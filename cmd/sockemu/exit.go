package main

import "errors"

// The exit statuses: scripts depend on them.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// A usageError is the caller's mistake rather than a failure. Commands return it for what only Run can find out; what the
// parser or a Validate method finds is one anyway.
type usageError struct{ error }

// Unwrap returns the mistake.
func (e usageError) Unwrap() error { return e.error }

// exitStatus is the exit status for what a command returned.
func exitStatus(err error) int {
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}
