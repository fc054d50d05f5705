package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/relay"
)

// A listeningPipe is a `sockemu pipe -l` that is ready for connections.
type listeningPipe struct {
	*exec.Cmd
	addr string
	out  bytes.Buffer // stdout, when it has ended
	errs sync.WaitGroup
}

// listenPipe starts a pipe on a free port; in is its stdin (nil: empty), out its stdout (nil: collected).
func listenPipe(t *testing.T, in io.Reader, out io.Writer, flags ...string) *listeningPipe {
	t.Helper()
	p := &listeningPipe{Cmd: program(t, append([]string{"pipe", "-l", "127.0.0.1:0"}, flags...)...)}
	p.Stdin, p.Stdout = in, out
	if out == nil {
		p.Stdout = &p.out
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	p.Stderr = w
	require.NoError(t, p.Start())
	t.Cleanup(func() { p.Process.Kill(); p.Wait() }) // of one that a failed test leaves
	w.Close()
	lines := bufio.NewReader(r)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	require.True(t, ok, line)
	p.addr = addr
	p.errs.Go(func() {
		io.Copy(os.Stderr, lines)
		r.Close()
	})
	return p
}

// wait waits for the end and returns the exit status.
func (p *listeningPipe) wait(t *testing.T) int {
	t.Helper()
	err := p.Wait()
	p.errs.Wait()
	return status(t, err)
}

// status is the exit status that an error of Run or Wait stands for.
func status(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return exitOK
	}
	var exit *exec.ExitError
	require.True(t, errors.As(err, &exit), "%v", err)
	return exit.ExitCode()
}

func throughRelay(t *testing.T, target string) *relay.Relay {
	t.Helper()
	r, err := relay.Start(target)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// cuttingReader hands out data and cuts everything after each megabyte.
type cuttingReader struct {
	data []byte
	pos  int
	rl   *relay.Relay
}

func (r *cuttingReader) Read(p []byte) (int, error) {
	if r.pos == len(r.data) {
		return 0, io.EOF
	}
	if r.pos > 0 && r.pos%(1<<20) == 0 {
		r.rl.CutAll()
	}
	n := copy(p[:min(len(p), 1<<20-r.pos%(1<<20))], r.data[r.pos:])
	r.pos += n
	return n, nil
}

func TestPipeIsByteExactThroughCuts(t *testing.T) {
	for name, flags := range map[string][]string{"bare": nil, "encrypted": {"--encrypt"}} {
		t.Run(name, func(t *testing.T) {
			data := randomBytes(8 << 20)
			server := listenPipe(t, nil, nil, flags...)
			rl := throughRelay(t, server.addr)
			client := program(t, append([]string{"pipe", rl.Addr()}, flags...)...)
			client.Stdin = &cuttingReader{data: data, rl: rl}
			client.Stderr = os.Stderr
			out, err := client.Output()
			require.Equal(t, exitOK, status(t, err))
			require.Equal(t, exitOK, server.wait(t))
			require.Empty(t, out)
			require.True(t, bytes.Equal(data, server.out.Bytes()), "got %d bytes of %d, or others", server.out.Len(), len(data))
			require.NotZero(t, rl.Stats().Cuts)
		})
	}
}

func TestPipeBothWaysThroughCuts(t *testing.T) {
	up, down := randomBytes(3<<20), randomBytes(3<<20)
	server := listenPipe(t, bytes.NewReader(down), nil)
	rl := throughRelay(t, server.addr)
	client := program(t, "pipe", rl.Addr())
	client.Stdin = &cuttingReader{data: up, rl: rl}
	client.Stderr = os.Stderr
	out, err := client.Output()
	require.Equal(t, exitOK, status(t, err))
	require.Equal(t, exitOK, server.wait(t))
	require.True(t, bytes.Equal(up, server.out.Bytes()))
	require.True(t, bytes.Equal(down, out))
}

func TestPipeWithNothingToSay(t *testing.T) {
	server := listenPipe(t, nil, nil)
	out, err := program(t, "pipe", server.addr).Output()
	require.Equal(t, exitOK, status(t, err))
	require.Empty(t, out)
	require.Equal(t, exitOK, server.wait(t))
}

// TestPipeTellsTheSenderWhenTheReceiverFails: delivery to the peer's machine isn't enough for an exit status of 0.
func TestPipeTellsTheSenderWhenTheReceiverFails(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	server := listenPipe(t, nil, w)
	w.Close()
	r.Close() // as `| head -c 0` does
	client := program(t, "pipe", server.addr)
	client.Stdin = bytes.NewReader(randomBytes(1 << 20))
	require.Equal(t, exitFailed, status(t, client.Run()))
	require.Equal(t, exitFailed, server.wait(t))
}

// TestPipeBothWaysInTurn: whoever reads the listener's stdout sees the end of what the client sent, and can answer then.
func TestPipeBothWaysInTurn(t *testing.T) {
	answer, in, err := os.Pipe()
	require.NoError(t, err)
	question, out, err := os.Pipe()
	require.NoError(t, err)
	server := listenPipe(t, answer, out)
	answer.Close()
	out.Close()
	got := make(chan int, 1)
	go func() {
		b, _ := io.ReadAll(question)
		fmt.Fprintln(in, len(b))
		in.Close()
		got <- len(b)
	}()
	client := program(t, "pipe", server.addr)
	client.Stdin = bytes.NewReader(randomBytes(100_000))
	said, err := client.Output()
	require.NoError(t, err)
	require.Equal(t, "100000\n", string(said))
	require.Equal(t, 100_000, <-got)
	require.Equal(t, exitOK, server.wait(t))
}

// TestPipeStdinFails: what is wrong with stdin is said, and not what came of it.
func TestPipeStdinFails(t *testing.T) {
	for range 10 { // reading and writing end at the same time
		server := listenPipe(t, nil, nil)
		client := program(t, "pipe", server.addr)
		dir, err := os.Open(t.TempDir())
		require.NoError(t, err)
		client.Stdin = dir
		var errs bytes.Buffer
		client.Stderr = &errs
		require.Equal(t, exitFailed, status(t, client.Run()))
		dir.Close()
		require.Contains(t, errs.String(), "read /dev/stdin: is a directory")
		require.Equal(t, exitFailed, server.wait(t))
	}
}

func TestPipeGivesUpWhenPatienceEnds(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	server := listenPipe(t, nil, w)
	w.Close()
	client := program(t, "pipe", "--patience=300ms", server.addr)
	stdin, err := client.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, client.Start())
	_, err = io.WriteString(stdin, "hello")
	require.NoError(t, err)
	_, err = io.ReadFull(r, make([]byte, 5))
	require.NoError(t, err)
	require.NoError(t, server.Process.Kill())
	server.Wait()
	server.errs.Wait()
	require.NoError(t, stdin.Close())
	require.Equal(t, exitFailed, status(t, client.Wait()))
}

func TestPipeKeepsListening(t *testing.T) {
	server := listenPipe(t, nil, nil, "-k")
	var want bytes.Buffer
	for range 3 {
		data := randomBytes(100_000)
		want.Write(data)
		client := program(t, "pipe", server.addr)
		client.Stdin = bytes.NewReader(data)
		client.Stderr = os.Stderr
		require.Equal(t, exitOK, status(t, client.Run()))
	}
	require.NoError(t, server.Process.Signal(os.Interrupt))
	require.Equal(t, exitOK, server.wait(t), "that is how it ends")
	require.True(t, bytes.Equal(want.Bytes(), server.out.Bytes()))
}

// TestPipeKeepInterrupted: a transfer that an interrupt ends is a failure, though others may have come to their end.
func TestPipeKeepInterrupted(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	server := listenPipe(t, nil, w, "-k")
	w.Close()
	client := program(t, "pipe", server.addr)
	stdin, err := client.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, client.Start())
	_, err = stdin.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(r, make([]byte, 1)) // it is under way
	require.NoError(t, err)
	require.NoError(t, server.Process.Signal(os.Interrupt))
	require.Equal(t, exitFailed, server.wait(t))
	stdin.Close()
	require.Equal(t, exitFailed, status(t, client.Wait()))
}

func TestPipeKeys(t *testing.T) {
	key := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	mine := key("mine", "a key of thirty-two bytes or more\n")
	server := listenPipe(t, nil, nil, "--key-file="+mine)
	client := program(t, "pipe", "--key-file="+key("other", "another one"), server.addr)
	client.Stdin = strings.NewReader("not for you")
	require.Equal(t, exitFailed, status(t, client.Run()))
	client = program(t, "pipe", server.addr)
	client.Stdin = strings.NewReader("nor that")
	require.Equal(t, exitFailed, status(t, client.Run()))
	client = program(t, "pipe", "--key-file="+mine, server.addr)
	client.Stdin = strings.NewReader("for you")
	require.Equal(t, exitOK, status(t, client.Run()))
	require.Equal(t, exitOK, server.wait(t))
	require.Equal(t, "for you", server.out.String())
	require.Equal(t, exitUsage, status(t, program(t, "pipe", "--key-file="+key("empty", "\n"), server.addr).Run()))
}

func TestPipeUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"-k", "localhost:1"}, {"--patience=0s", "localhost:1"}, {"--key-file=/nonexistent", "localhost:1"}} {
		require.Equal(t, exitUsage, status(t, program(t, append([]string{"pipe"}, args...)...).Run()), "%v", args)
	}
	c := program(t, "pipe", "localhost:1")
	c.Env = append(c.Environ(), "SOCKEMU_SUBSTRATE=pin:smoke signals")
	require.Equal(t, exitUsage, status(t, c.Run()))
}

// TestPipeExplains: who can't be connected to is told of with what it means and what to do.
func TestPipeExplains(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	status, _, errs := output(t, "pipe", ln.Addr().String())
	require.Equal(t, exitFailed, status)
	require.Contains(t, errs, ln.Addr().String()+": the host answers, but nobody listens on that port")
	require.NotContains(t, errs, "--timeout", "a pipe has no such flag")

	server := listenPipe(t, nil, nil)
	status, _, errs = output(t, "pipe", "--encrypt", server.addr)
	require.Equal(t, exitFailed, status)
	require.Contains(t, errs, "only one end demands encryption or a key")
}
