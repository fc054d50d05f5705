package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/wire"
)

// probe runs `sockemu probe` in this process.
func probe(t *testing.T, args ...string) (out, errs string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	code = run(ctx, append([]string{"probe"}, args...), strings.NewReader(""), &o, &e)
	return o.String(), e.String(), code
}

func TestProbe(t *testing.T) {
	t.Parallel()
	p := listenPipe(t, nil, nil)
	out, errs, code := probe(t, p.addr)
	require.Equal(t, exitOK, code, errs)
	for _, want := range []string{"SUBSTRATE", "shm", "tcp", p.addr, "T(4K)", "choice: "} {
		require.Contains(t, out, want)
	}
	require.NotContains(t, out, "NaN")

	out, errs, code = probe(t, "--json", "--size", "128", "--size", "1M", p.addr)
	require.Equal(t, exitOK, code, errs)
	r := probeJSON(t, out)[0]
	require.Equal(t, p.addr, r.Peer)
	require.Empty(t, r.Error)
	require.InEpsilon(t, (64+1<<20)/2, r.Mean, .01, "the mean of the buckets of the sizes that were asked for")
	for _, c := range r.Curves {
		require.Len(t, c.Points, 2)
		require.Equal(t, 128, c.Points[0].Size)
		require.Positive(t, c.Points[0].Time)
		require.Less(t, c.Points[0].Time, c.Points[1].Time)
	}
	require.Len(t, r.Curves, 2)
	require.Len(t, r.Candidates, 3)
	require.NotEmpty(t, r.Choice.Substrate)
	require.NotEmpty(t, r.Choice.Why)
	for _, c := range r.Candidates {
		if c.Substrate == "verbs" && !c.OK { // as on most machines; with a device 127.0.0.1 still is none of its addresses
			require.NotEmpty(t, c.Reason)
			continue
		}
		require.True(t, c.OK, c.Reason)
		require.Positive(t, c.Cost.RTT)
		require.Positive(t, c.Cost.MBPerSecond)
	}

	// A policy rules candidates out, and says so.
	out, _, code = probe(t, "--policy", "pin:tcp", p.addr)
	require.Equal(t, exitOK, code)
	require.Contains(t, out, "pinned to tcp")
	require.Contains(t, out, "choice: tcp: pinned")
	out, errs, code = probe(t, "--policy", "pin:udp", p.addr)
	require.Equal(t, exitFailed, code)
	require.Contains(t, out, "udp: the peer does not offer it")
	require.Contains(t, errs, "no path can be chosen: what is pinned can't be had")
	out, _, code = probe(t, "--policy", "pin:udp", "--json", p.addr)
	require.Equal(t, exitFailed, code)
	r = probeJSON(t, out)[0]
	require.Contains(t, r.Error, "what is pinned can't be had")
	require.Len(t, r.Candidates, 4)
	require.Empty(t, r.Choice.Substrate)
	_, errs, code = probe(t, "--policy", "pin:verbz", p.addr)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "verbz")

	out, _, code = probe(t, "--watch", "--count", "2", "--every", "10ms", p.addr)
	require.Equal(t, exitOK, code)
	require.Equal(t, 2, strings.Count(out, "choice: "))
	require.Contains(t, out, ", round 2\n")
	require.NotContains(t, out, "\x1b", "nothing is redrawn where there is no terminal")
	out, _, code = probe(t, "--watch", "--json", "--count", "3", "--every", "10ms", p.addr)
	require.Equal(t, exitOK, code)
	require.Len(t, probeJSON(t, out), 3)
}

// probeJSON reads what --json has printed, of which it knows every field.
func probeJSON(t *testing.T, out string) (list []probeResult) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	for d.More() {
		var r probeResult
		require.NoError(t, d.Decode(&r))
		list = append(list, r)
	}
	require.NotEmpty(t, list)
	return list
}

// TestProbeContract: scripts depend on these names.
func TestProbeContract(t *testing.T) {
	t.Parallel()
	out, _, code := probe(t, "--json", listenPipe(t, nil, nil).addr)
	require.Equal(t, exitOK, code)
	var r map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &r))
	require.ElementsMatch(t, []string{"peer", "policy", "mean_size", "candidates", "choice", "best", "curves"}, slices.Collect(maps.Keys(r)))
	choice := r["choice"].(map[string]any)
	require.Subset(t, slices.Collect(maps.Keys(choice)), []string{"substrate", "why"})
	for _, c := range r["candidates"].([]any) {
		c := c.(map[string]any)
		require.IsType(t, true, c["ok"])
		require.IsType(t, "", c["substrate"])
		require.IsType(t, "", c["reason"])
		if c["ok"] == true {
			require.Positive(t, c["cost"].(map[string]any)["rtt_us"])
		}
	}
}

// TestProbePolicies: --policy goes before the rules and the environment, which hold without it; the peer's policy holds anyway.
func TestProbePolicies(t *testing.T) {
	p := listenPipe(t, nil, nil)
	rules := t.TempDir() + "/rules"
	require.NoError(t, os.WriteFile(rules, []byte("127.0.0.0/8 !shm\n"), 0o600))
	policy := func(addr string, args ...string) string {
		t.Helper()
		out, errs, code := probe(t, append([]string{"--json", addr}, args...)...)
		require.Equal(t, exitOK, code, errs)
		return probeJSON(t, out)[0].Policy
	}
	t.Setenv("SOCKEMU_SUBSTRATE", "prefer:tcp")
	require.Equal(t, "prefer:tcp", policy(p.addr))
	t.Setenv("SOCKEMU_RULES", rules)
	require.Equal(t, "deny:shm", policy(p.addr))
	require.Equal(t, "prefer:shm", policy(p.addr, "--policy", "prefer:shm"))
	require.NoError(t, os.WriteFile(rules, []byte("nonsense\n"), 0o600))
	_, errs, code := probe(t, p.addr)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "line 1")

	t.Setenv("SOCKEMU_RULES", "")
	t.Setenv("SOCKEMU_SUBSTRATE", "tcp")
	pinned := listenPipe(t, nil, nil)
	t.Setenv("SOCKEMU_SUBSTRATE", "")
	require.Equal(t, "pin:tcp", policy(pinned.addr))
	_, errs, code = probe(t, "--policy", "shm", pinned.addr)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "this end pins shm, the peer pins tcp")
}

// TestProbeNoPeer: whatever else is there, the answer is clear, comes in time, and the exit status is 1.
func TestProbeNoPeer(t *testing.T) {
	serve := func(f func(net.Conn)) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					f(c)
				}()
			}
		}()
		return l.Addr().String()
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed.Close()
	withKey := t.TempDir() + "/key"
	require.NoError(t, os.WriteFile(withKey, []byte("some key"), 0o600))
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	for name, c := range map[string]struct{ peer, want string }{
		"nobody listens":    {closed.Addr().String(), "nobody listens on that port"},
		"HTTP":              {web.Listener.Addr().String(), `it answered "HTTP/1.1"`},
		"speaks first":      {serve(func(c net.Conn) { c.Write([]byte("SSH-2.0-x\r\n")); io.Copy(io.Discard, c) }), `it answered "SSH-2.0-"`},
		"silent":            {serve(func(c net.Conn) { io.Copy(io.Discard, c) }), "it said nothing for"},
		"echo":              {serve(func(c net.Conn) { io.Copy(c, c) }), "does not speak sockemu: it echoes"},
		"hangs up":          {serve(func(net.Conn) {}), "it closed the link"},
		"drops packets":     {blackHole(t), "a firewall drops the packets"},
		"no such name":      {"no..such..host:1", "there is no host of that name"}, // which no name server is asked for
		"wrong cluster key": {listenPipe(t, nil, nil, "--key-file", withKey).addr, "another cluster key"},
		"busy":              {serve(refuseAs(wire.StatusBusy)), "is busy"},
		"another version":   {serve(refuseAs(wire.StatusVersion)), "no version of the protocol in common"},
		"stalls":            {serve(stall), "does not answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timeout := "20s"
			switch name {
			case "silent", "stalls", "drops packets": // all of it is waited for; the others answer, however slow the machine
				timeout = "1s"
			}
			start := time.Now()
			out, errs, code := probe(t, "--timeout", timeout, c.peer)
			require.Equal(t, exitFailed, code, errs)
			require.Contains(t, errs, c.want)
			require.Empty(t, out)
			require.Less(t, time.Since(start), 20*time.Second)

			out, _, code = probe(t, "--json", "--timeout", timeout, c.peer)
			require.Equal(t, exitFailed, code)
			r := probeJSON(t, out)[0]
			require.Equal(t, c.peer, r.Peer)
			require.Empty(t, r.Choice.Substrate)
			require.NotEmpty(t, r.Choice.Why)
			require.Empty(t, r.Candidates)
			require.Contains(t, r.Error, c.want)
			require.Contains(t, out, `"candidates":[]`, "a list, not null")
		})
	}
}

// refuseAs answers a Hello as a process with sockemu does that refuses.
func refuseAs(st wire.Status) func(net.Conn) {
	return func(c net.Conn) {
		c.Write(wire.Reply{Version: wire.Version, Status: st}.Append(nil))
		io.Copy(io.Discard, c)
	}
}

// stall begins an answer and never goes on.
func stall(c net.Conn) {
	c.Write([]byte(wire.Magic))
	io.Copy(io.Discard, c)
}

// TestProbeKeys: a key on one side only, another one, none in the file, and the right one.
func TestProbeKeys(t *testing.T) {
	t.Parallel()
	key := func(name, text string) string {
		file := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	right := key("right", "the key\n")
	open, closed := listenPipe(t, nil, nil), listenPipe(t, nil, nil, "--key-file", right)
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{exitFailed, "only one end has one", []string{open.addr, "--key-file", right}},
		{exitFailed, "another cluster key", []string{closed.addr, "--key-file", key("wrong", "no key")}},
		{exitUsage, "holds no key", []string{closed.addr, "--key-file", key("empty", " \n")}},
		{exitOK, "", []string{closed.addr, "--key-file", right}},
	} {
		_, errs, code := probe(t, c.args...)
		require.Equal(t, c.code, code, errs)
		require.Contains(t, errs, c.want)
	}
}

// TestProbeBusyPeer: one that says that it serves as many probes as it admits.
func TestProbeBusyPeer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := io.ReadFull(c, make([]byte, wire.HelloSize)); err == nil {
				c.Write(wire.Reply{Version: wire.Version, Status: wire.StatusBusy, Proc: gid.NewProcessID()}.Append(nil))
				c.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, c) // until the other end hangs up, lest a reset overtakes the answer
			}
			c.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	_, errs, code := probe(t, l.Addr().String())
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "is busy")
}

// TestProbeOutOfTime: a path that is not measured by then is explained, and takes nothing from those that are.
func TestProbeOutOfTime(t *testing.T) {
	t.Parallel()
	p := listenPipe(t, nil, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { // of two TCP connections the first leads to the peer, the second one nowhere
		defer close(done)
		for i := 0; ; i++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			if i%2 != 0 {
				continue
			}
			peer, err := net.Dial("tcp", p.addr)
			if !assert.NoError(t, err) {
				return
			}
			go func() {
				io.Copy(peer, c)
				peer.Close() // or the peer would wait for more questions
			}()
			io.Copy(c, peer)
		}
	}()
	defer func() { l.Close(); <-done }()
	// Less than the second that one path may take. On a slow machine that may not be enough for what works either: then once more.
	until := func(code int, out, errs string, args ...string) {
		t.Helper()
		for attempt := 1; ; attempt++ {
			o, e, c := probe(t, append([]string{"--timeout", "900ms", l.Addr().String()}, args...)...)
			if c == code && strings.Contains(o, "tcp: probe failed: the time for all probes was over before this one was done") &&
				strings.Contains(o, out) && strings.Contains(e, errs) {
				return
			}
			require.Less(t, attempt, 10, "exit status %d\n%s%s", c, o, e)
		}
	}
	until(exitOK, "choice: shm: the only path that works", "")
	until(exitFailed, "", "no path can be chosen: no candidate works", "--policy", "!shm")
}

// TestProbeStoppedPeer: its kernel accepts connections, and nobody answers. When it goes on it is measured.
func TestProbeStoppedPeer(t *testing.T) {
	t.Parallel()
	p := listenPipe(t, nil, nil)
	require.NoError(t, p.Process.Signal(syscall.SIGSTOP))
	_, errs, code := probe(t, "--timeout", "1s", p.addr)
	require.NoError(t, p.Process.Signal(syscall.SIGCONT))
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "it may also be stopped")
	_, errs, code = probe(t, p.addr)
	require.Equal(t, exitOK, code, errs)
}

// TestProbeFirewall: real packets that a path between two hosts loses, from a process as users start it.
func TestProbeFirewall(t *testing.T) {
	t.Parallel()
	needsNamespaces(t)
	self, err := os.Executable()
	require.NoError(t, err)
	for want, args := range map[string][]string{
		"a firewall drops the packets": {"--both=loss=100%", "--", self, "probe", "--timeout", "1s", "10.77.0.2:7000"},
		"nobody listens on that port":  {"--", self, "probe", "10.77.0.2:7000"},
		"the host can't be reached":    {"--", self, "probe", "10.78.0.2:7000"},
	} {
		cmd := program(t, append([]string{"netem", "ns"}, args...)...)
		var errs strings.Builder
		cmd.Stderr = &errs
		require.Equal(t, exitFailed, status(t, cmd.Run()), errs.String())
		require.Contains(t, errs.String(), "sockemu probe: 10.7")
		require.Contains(t, errs.String(), want)
	}
}

// TestProbeProcess: the exit statuses are those of the process, too, and a watch ends in order when it is interrupted.
func TestProbeProcess(t *testing.T) {
	t.Parallel()
	p := listenPipe(t, nil, nil)
	require.Equal(t, exitOK, status(t, program(t, "probe", p.addr).Run()))
	require.Equal(t, exitFailed, status(t, program(t, "probe", "--policy", "pin:udp", p.addr).Run()))
	require.Equal(t, exitUsage, status(t, program(t, "probe", "nowhere").Run()))

	watch := program(t, "probe", "--watch", "--every", "10ms", "--json", p.addr)
	out, err := watch.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, watch.Start())
	lines := bufio.NewReader(out)
	for range 2 {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		probeJSON(t, line)
	}
	require.NoError(t, watch.Process.Signal(os.Interrupt))
	rest, err := io.ReadAll(lines)
	require.NoError(t, err)
	if len(rest) > 0 {
		probeJSON(t, string(rest)) // whole lines
	}
	require.Equal(t, exitOK, status(t, watch.Wait()))
}

// blackHole returns an address of which nothing ever comes back: the queue of a listener that accepts nothing is full, so the
// kernel drops what else comes, as a firewall would.
func blackHole(t *testing.T) string {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	sa, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: sa.(*syscall.SockaddrInet4).Port}).String()
	for range 8 {
		c, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the listener's queue does not fill")
	return ""
}

func TestProbeUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"why"}, {"why", "xyz"}, {"why", strings.Repeat("0", 33)}, {"a:1", "b:2"}, {"a"}, {"127.0.0.1"}, {"a:0"}, {"a:99999"}, {"http://a:1/"},
		{"--self", "a:1"}, {"--self", "--watch"}, {"why", "00", "--watch"}, {"why", "00", "--size", "1"}, {"--size", "0", "a:1"},
		{"--timeout", "0s", "a:1"}, {"--count", "2", "a:1"}, {"--watch", "--count", "-1", "a:1"}, {"--watch", "--every", "1ms", "a:1"},
		{"--key-file", "/no/such/file", "a:1"}, {"--size", "2048M", "a:1"}, {"--size", "9223372036854775807", "a:1"}, {"--size", "1T", "a:1"},
		{"--policy", "pin:smh", "a:1"}, {"--policy", "must:shm", "a:1"},
	} {
		_, errs, code := probe(t, args...)
		require.Equal(t, exitUsage, code, "%q", args)
		require.Contains(t, errs, "sockemu: ")
		require.Contains(t, errs, "--help shows the usage")
	}
}
