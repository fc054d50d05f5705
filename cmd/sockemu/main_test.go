package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// asProgram makes the test binary the program itself, also in the children that it starts.
const asProgram = "SOCKEMU_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(tests(m))
}

// tests runs them in a runtime directory that is theirs. A goroutine that a test leaves is a failure.
func tests(m *testing.M) int {
	flag.Parse()
	// Most of them wait for other processes or for silence, not for a processor.
	if err := flag.Set("test.parallel", strconv.Itoa(max(8, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "cmd") // a short path: the name of a socket has at most 107 bytes (unix(7))
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	os.Setenv("XDG_RUNTIME_DIR", dir)
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
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
