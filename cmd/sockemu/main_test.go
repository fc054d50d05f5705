package main

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// asProgram makes the test binary the program itself, also in the children that it starts.
const asProgram = "SOCKEMU_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program returns a command that runs sockemu as a user does, in a process of its own; built with the race detector if the test is.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when a test is killed for taking too long
	return cmd
}
