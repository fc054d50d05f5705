package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/gid"
)

// A child is another process with a control socket.
type child struct {
	*exec.Cmd
	stdin io.Closer
	path  string
}

func start(t *testing.T) *child {
	t.Helper()
	return startIn(t, 0)
}

// startIn is start in new namespaces: clone(2)'s flags.
func startIn(t *testing.T, namespaces uintptr) *child {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), asServer+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: namespaces}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	err = cmd.Start()
	if namespaces != 0 && errors.Is(err, os.ErrPermission) {
		t.Skipf("new namespaces: %v", err)
	}
	require.NoError(t, err)
	c := &child{Cmd: cmd, stdin: stdin}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	c.path = strings.TrimSpace(line)
	require.True(t, strings.HasSuffix(c.path, suffix), c.path)
	return c
}

func TestOtherProcesses(t *testing.T) {
	private(t)
	a, b := start(t), start(t)
	found, silent := Processes(t.Context(), "")
	require.Empty(t, silent)
	require.Len(t, found, 2)
	pids := []int{found[0].Process.PID, found[1].Process.PID}
	require.ElementsMatch(t, []int{a.Process.Pid, b.Process.Pid}, pids)
	require.IsIncreasing(t, pids)
	list, err := found[0].Connections(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Connection{sample()}, list)

	// One ends in order and takes its socket along.
	require.NoError(t, a.stdin.Close())
	require.NoError(t, a.Wait())
	require.NoFileExists(t, a.path)
	found, silent = Processes(t.Context(), "")
	require.Empty(t, silent)
	require.Len(t, found, 1)
	require.Equal(t, b.Process.Pid, found[0].Process.PID)
}

// TestProcessInNamespace: what counts is the process's id here, not that in a container, where it is 1.
func TestProcessInNamespace(t *testing.T) {
	private(t)
	c := startIn(t, syscall.CLONE_NEWPID)
	require.Contains(t, filepath.Base(c.path), "1-")
	found, silent := Processes(t.Context(), "")
	require.Empty(t, silent)
	require.Len(t, found, 1)
	require.Equal(t, c.Process.Pid, found[0].Process.PID)

	require.NoError(t, c.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	_, err := syscall.Wait4(c.Process.Pid, &status, syscall.WUNTRACED, nil)
	require.NoError(t, err)
	require.True(t, status.Stopped())
	found, silent = Processes(t.Context(), "")
	require.Empty(t, found)
	require.Len(t, silent, 1)
	require.EqualError(t, silent[0], fmt.Sprintf("process %d does not answer: nothing came for 2s: is it stopped?", c.Process.Pid))
	require.ErrorIs(t, silent[0], context.DeadlineExceeded)
	require.NoError(t, c.Process.Kill())
	c.Wait()
	_, err = Client{Path: c.path}.Connections(t.Context())
	require.True(t, Gone(err), "%v", err)
}

// TestKilledProcess: its socket stays, is passed over, and goes when the next process starts.
func TestKilledProcess(t *testing.T) {
	private(t)
	c := start(t)
	require.NoError(t, c.Process.Kill())
	c.Wait()
	_, err := os.Lstat(c.path)
	require.NoError(t, err)
	found, silent := Processes(t.Context(), "")
	require.Empty(t, found)
	require.Empty(t, silent)

	then := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(c.path, then, then))
	s, err := Serve(gid.NewProcessID(), fixed{})
	require.NoError(t, err)
	defer s.Close()
	_, err = os.Lstat(c.path)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestStoppedProcess: it is listed as silent, doesn't hold up the others, and answers again when it goes on.
func TestStoppedProcess(t *testing.T) {
	private(t)
	stopped, running := start(t), start(t)
	require.NoError(t, stopped.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	_, err := syscall.Wait4(stopped.Process.Pid, &status, syscall.WUNTRACED, nil)
	require.NoError(t, err)
	require.True(t, status.Stopped())
	found, silent := Processes(t.Context(), "")
	require.Len(t, found, 1)
	require.Equal(t, running.Process.Pid, found[0].Process.PID)
	require.Len(t, silent, 1)
	var e *SilentError
	require.ErrorAs(t, silent[0], &e)
	require.Equal(t, stopped.Process.Pid, e.PID)
	require.ErrorIs(t, e, context.DeadlineExceeded)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, silent = Processes(ctx, "")
	require.Len(t, silent, 2)
	require.ErrorIs(t, silent[0], context.Canceled)

	require.NoError(t, stopped.Process.Signal(syscall.SIGCONT))
	found, silent = Processes(t.Context(), "")
	require.Empty(t, silent)
	require.Len(t, found, 2)
}

// TestStranger: another user who gets as far as the socket gets no answer from it, and others still do.
func TestStranger(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to become another user")
	}
	s, c := serve(t, fixed{connections: []Connection{sample()}})
	// As if the directory were not private.
	d := filepath.Dir(s.Path())
	for path, mode := range map[string]os.FileMode{filepath.Dir(d): 0o755, d: 0o755, s.Path(): 0o777} {
		require.NoError(t, os.Chmod(path, mode))
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe") // the path of the test binary may be closed to the other user
	cmd.Env = append(os.Environ(), asStranger+"="+s.Path())
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "connected, 0 bytes\n", string(out))
	_, err = c.Connections(t.Context())
	require.NoError(t, err)
}
