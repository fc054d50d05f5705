package sockemu_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/netem"
	"github.com/sockemu/sockemu/sockemu"
)

// rounds is how often a test that takes its time does what it does: few by default, more if the environment says so.
func rounds(t *testing.T, variable string, few int) int {
	if s := os.Getenv(variable); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err)
		return n
	}
	return few
}

// childCPU is in the environment of a serving child that is to run on one processor.
const childCPU = "SOCKEMU_TEST_CPU"

// serveAt is a child that accepts connections at addr, says where on stdout, and echoes until stdin ends.
func serveAt(addr string) int {
	if cpu, err := strconv.Atoi(os.Getenv(childCPU)); err == nil && cpu >= 0 {
		pin(cpu)
	}
	e, err := sockemu.NewEndpoint(quick(substrates(anySubstrate)))
	if err == nil {
		var l *sockemu.Listener
		if l, err = e.Listen(context.Background(), "tcp", addr); err == nil {
			fmt.Println(l.Addr())
			go func() {
				for {
					c, err := l.AcceptConn()
					if err != nil {
						return
					}
					go func() {
						io.Copy(c, c)
						c.Close()
					}()
				}
			}()
			io.Copy(io.Discard, os.Stdin)
			return 0
		}
	}
	fmt.Fprintln(os.Stderr, "child:", err)
	return 1
}

// dialFrom is a child that dials addr, waits until the connection is on shared memory, moves data both ways, and says what carried it.
func dialFrom(addr string) int {
	err := func() error {
		e, err := sockemu.NewEndpoint(quick(substrates(anySubstrate)))
		if err != nil {
			return err
		}
		c, err := e.Dial(context.Background(), "tcp", addr)
		if err != nil {
			return err
		}
		first := c.Stats().Substrate
		data := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
		deadline := time.Now().Add(30 * time.Second)
		for c.Stats().Substrate != "shm" && time.Now().Before(deadline) {
			<-time.After(time.Millisecond) // the paths are measured meanwhile; processors that are all taken make them look alike
			sent := make(chan error, 1)
			go func() {
				_, err := c.Write(data)
				sent <- err
			}()
			back := make([]byte, len(data))
			if _, err := io.ReadFull(c, back); err != nil {
				return err
			}
			if err := <-sent; err != nil || !bytes.Equal(back, data) {
				return fmt.Errorf("what came back differs (%w)", err)
			}
		}
		fmt.Println(first, c.Stats().Substrate)
		return c.Close()
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

// peerProcess starts a child that serves, and returns where.
func peerProcess(t *testing.T, start func(*exec.Cmd) error, addr string) (cmd *exec.Cmd, at string) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=serve "+addr)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, start(cmd))
	at, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return cmd, strings.TrimSpace(at)
}

// TestNamespaces: two processes in two network namespaces, joined by nothing but an emulated path, find the shared memory that the
// directory they both see gives them.
func TestNamespaces(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	p, err := netem.NewPath(netem.PathConfig{})
	if err != nil {
		t.Skip("no namespaces here: ", err)
	}
	defer p.Close()
	server, at := peerProcess(t, p.B.Start, p.B.Addr.String()+":0")
	defer server.Wait()
	defer server.Process.Kill()
	client := exec.Command("/proc/self/exe")
	client.Env = append(os.Environ(), childEnv+"=dial "+at)
	var out bytes.Buffer
	client.Stdout, client.Stderr = &out, os.Stderr
	require.NoError(t, p.A.Start(client))
	require.NoError(t, client.Wait())
	require.Equal(t, "tcp shm\n", out.String())
}

// TestPeerKilled: the other process is killed at random moments while it is talked to over shared memory. The survivor's calls end
// with the right error, in time, and nothing is left over.
func TestPeerKilled(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	cfg := quick(substrates("pin:shm")) // there before Dial returns
	cfg.Patience = 300 * time.Millisecond
	e := newEndpoint(t, cfg)
	var before int
	mapped := mappings(t) // by tests before this one, whose links are just going
	var longest time.Duration
	n := rounds(t, "SOCKEMU_TEST_KILLS", 4)
	for i := range n {
		cmd, at := peerProcess(t, (*exec.Cmd).Start, "127.0.0.1:0")
		c, err := e.Dial(t.Context(), "tcp", at)
		require.NoError(t, err)
		ends := make(chan error, 2)
		go func() {
			buf := make([]byte, 20_000)
			for {
				if _, err := c.Write(buf[:1+rand.IntN(len(buf))]); err != nil {
					ends <- err
					return
				}
			}
		}()
		go func() {
			_, err := io.Copy(io.Discard, c)
			ends <- err
		}()
		<-time.After(time.Duration(rand.IntN(20_000)) * time.Microsecond)
		require.NoError(t, cmd.Process.Kill())
		cmd.Wait()
		killed := time.Now()
		for range 2 {
			err := <-ends
			require.True(t, errors.Is(err, sockemu.ErrPatience) || errors.Is(err, sockemu.ErrPeerGone) || errors.Is(err, sockemu.ErrReset), "%v", err)
		}
		longest = max(longest, time.Since(killed))
		c.Close()
		if i == 2 {
			before = descriptors(t)
		}
	}
	t.Logf("%d kills; the longest took %v to be an error (Patience %v)", n, longest, cfg.Patience)
	require.Less(t, longest, 20*time.Second)
	require.Eventually(t, func() bool { return descriptors(t) <= before }, 10*time.Second, 10*time.Millisecond, "descriptors: %d, now %d", before, descriptors(t))
	require.Eventually(t, func() bool { return mappings(t) <= mapped }, 10*time.Second, 10*time.Millisecond, "mappings of links")
}

func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}

// mappings counts the links whose memory is mapped. (The pages for acknowledgements stay as long as ended connections are
// remembered.)
func mappings(t *testing.T) int {
	b, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return strings.Count(string(b), "/memfd:sockemu-shm ")
}
