package main

import (
	"io"
	"os"
	"os/exec"
)

// self returns a command that runs this very program with other arguments, even if its file has been replaced or removed
// since. Its logs go to errs; its standard input and output are the caller's to connect. A child that must not outlive its
// parent should end when its standard input does: that also works when the parent is killed.
func self(errs io.Writer, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Stderr = errs
	return cmd
}
