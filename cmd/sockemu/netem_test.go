package main

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// needsNamespaces skips where network namespaces or TUN interfaces can't be made.
func needsNamespaces(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip(err)
	}
}

// counter returns what a row of the table says for both directions.
func counter(t *testing.T, table, row string) []string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^ *` + row + ` +(\d+) +(\d+)$`).FindStringSubmatch(table)
	require.NotNil(t, m, "no row %q in\n%s", row, table)
	return m[1:]
}

func TestNetemUDP(t *testing.T) {
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer server.Close()
	cmd := program(t, "netem", "udp", "--to", server.LocalAddr().String(), "--both=delay=1ms", "--up", "mtu=100,delay=5ms", "--seed=3")
	var out bytes.Buffer
	cmd.Stdout = &out
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(stderr)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	addr := regexp.MustCompile(`^forwarding (\S+) to \S+; up: mtu=100,delay=5ms; down: delay=1ms\n$`).FindStringSubmatch(line)
	require.NotNil(t, addr, line)
	client, err := net.Dial("udp", addr[1])
	require.NoError(t, err)
	defer client.Close()
	limit := time.Now().Add(20 * time.Second)
	require.NoError(t, client.SetDeadline(limit))
	require.NoError(t, server.SetDeadline(limit))
	_, err = client.Write(make([]byte, 101))
	require.NoError(t, err)
	_, err = client.Write([]byte("question"))
	require.NoError(t, err)
	p := make([]byte, 200)
	n, from, err := server.ReadFrom(p)
	require.NoError(t, err)
	require.Equal(t, "question", string(p[:n]))
	_, err = server.WriteTo([]byte("answer"), from)
	require.NoError(t, err)
	n, err = client.Read(p)
	require.NoError(t, err)
	require.Equal(t, "answer", string(p[:n]))
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait())
	require.Equal(t, []string{"2", "1"}, counter(t, out.String(), "packets"))
	require.Equal(t, []string{"1", "1"}, counter(t, out.String(), "delivered"))
	require.Equal(t, []string{"1", "0"}, counter(t, out.String(), "too large"))
	require.Equal(t, []string{"109", "6"}, counter(t, out.String(), "bytes"))
}

// TestNetemNS: a connection over two hosts with a bad path between them is byte-exact.
func TestNetemNS(t *testing.T) {
	t.Parallel()
	needsNamespaces(t)
	self, err := os.Executable()
	require.NoError(t, err)
	data := randomBytes(1 << 20)
	file := filepath.Join(t.TempDir(), "received")
	cmd := program(t, "netem", "ns", "--both=delay=1ms,loss=1%,dup=1%", "--wait=7000",
		"--server", "exec '"+self+"' pipe -l $NETEM_ADDR:7000 > '"+file+"'", "--",
		"/bin/sh", "-c", "echo $NETEM_ADDR $NETEM_PEER; exec '"+self+"' pipe $NETEM_PEER:7000")
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(data), &errs
	out, err := cmd.Output()
	require.Equal(t, exitOK, status(t, err), errs.String())
	require.Equal(t, "10.77.0.1 10.77.0.2\n", string(out))
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got), "%d bytes of %d, or others", len(got), len(data))
	require.NotEqual(t, "0", counter(t, errs.String(), "dropped: loss")[0])
}

func TestNetemNSFailures(t *testing.T) {
	t.Parallel()
	needsNamespaces(t)
	for want, args := range map[string][]string{
		"sh: exit status 3":                       {"--", "sh", "-c", "exit 3"},
		"no-such-program":                         {"--", "no-such-program"},
		"ended before it had port 7: exit status": {"--server=exit 4", "--wait=7", "--", "true"},
		"emulated path: MTU 3":                    {"--mtu=3", "--", "true"},
	} {
		cmd := program(t, append([]string{"netem", "ns"}, args...)...)
		var errs strings.Builder
		cmd.Stderr = &errs
		require.Equal(t, exitFailed, status(t, cmd.Run()), want)
		require.Contains(t, errs.String(), want)
	}
}

// TestNetemNSEndsTheServer: also one that has children and ignores a friendly word.
func TestNetemNSEndsTheServer(t *testing.T) {
	t.Parallel()
	needsNamespaces(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	cmd := program(t, "netem", "ns", "--server", `trap "" TERM; sleep 1000 & echo up; wait; sleep 1000`, "--",
		"sh", "-c", `read line`)
	gate, open, err := os.Pipe()
	require.NoError(t, err)
	defer open.Close()
	cmd.Stdin, cmd.Stderr = gate, w
	require.NoError(t, cmd.Start())
	gate.Close()
	w.Close()
	lines := bufio.NewReader(r)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "up\n", line)
	_, err = open.WriteString("go\n")
	require.NoError(t, err)
	require.NoError(t, r.SetReadDeadline(time.Now().Add(20*time.Second)))
	for err == nil {
		_, err = lines.ReadString('\n')
	}
	require.ErrorContains(t, err, "EOF", "nobody holds stderr any more")
	require.Equal(t, exitOK, status(t, cmd.Wait()))
}

func TestNetemUsage(t *testing.T) {
	for _, args := range [][]string{
		{"udp"}, {"udp", "--to=127.0.0.1:9", "--up=los=1%"}, {"udp", "--to=127.0.0.1:9", "--idle=0s"}, {"ns"}, {"ns", "--wait=7", "--", "true"},
		{"ns", "--wait=70000", "--", "true"},
	} {
		require.Equal(t, exitUsage, status(t, program(t, append([]string{"netem"}, args...)...).Run()), "%v", args)
	}
}

func TestNetemNSInterrupted(t *testing.T) {
	t.Parallel()
	needsNamespaces(t)
	cmd := program(t, "netem", "ns", "--", "sh", "-c", "echo up; exec sleep 1000")
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "up\n", line)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.Equal(t, exitFailed, status(t, cmd.Wait()))
	require.Contains(t, errs.String(), "interrupted")
}
