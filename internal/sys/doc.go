// Package sys holds the system calls that the standard library lacks, one small function each. No other package imports
// golang.org/x/sys. What a system can't do returns an error that wraps errors.ErrUnsupported there; callers carry on
// without it, tests skip and say why.
package sys
