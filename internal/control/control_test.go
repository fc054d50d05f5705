package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/rundir"
)

// What the test binary is besides: a process with a control socket, and one that asks at the socket that the value names.
const (
	asServer   = "SOCKEMU_TEST_CONTROL_SERVER"
	asStranger = "SOCKEMU_TEST_CONTROL_STRANGER"
)

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		serveUntilEOF()
	}
	if path := os.Getenv(asStranger); path != "" {
		askAndCount(path)
	}
	goleak.VerifyTestMain(m)
}

// serveUntilEOF says on standard output when the socket is there.
func serveUntilEOF() {
	s, err := Serve(gid.NewProcessID(), fixed{connections: []Connection{sample()}})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.Path())
	io.Copy(io.Discard, os.Stdin)
	if err := s.Close(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// askAndCount says how much of an answer there is.
func askAndCount(path string) {
	c, err := net.Dial("unix", path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	io.WriteString(c, "GET /v1/process HTTP/1.0\r\n\r\n")
	c.SetDeadline(time.Now().Add(20 * time.Second))
	b, _ := io.ReadAll(c) // the server may reset what it doesn't read
	fmt.Printf("connected, %d bytes\n", len(b))
	os.Exit(0)
}

// fixed is a Source that always says the same.
type fixed struct {
	connections []Connection
	why         *Why
	hold        chan struct{} // if not nil, Connections waits for it
}

func (f fixed) Process() Process {
	return Process{Version: "v9", Connections: len(f.connections), PID: -1}
}

func (f fixed) Connections() []Connection {
	if f.hold != nil {
		<-f.hold
	}
	return f.connections
}

func (f fixed) Why(prefix string) (Why, error) {
	if f.why != nil {
		return *f.why, nil
	}
	var match []Connection
	for _, c := range f.connections {
		if strings.HasPrefix(c.GID, prefix) {
			match = append(match, c)
		}
	}
	switch len(match) {
	case 0:
		return Why{}, fmt.Errorf("%s: %w", prefix, ErrNoConnection)
	case 1:
		return Why{
			Connection: match[0], Decisions: []json.RawMessage{[]byte(`{"round":1}`)},
			Text: []string{"tcp: the only one"}, Candidates: []byte(`[{"substrate":"tcp"}]`),
		}, nil
	}
	return Why{}, fmt.Errorf("%s: %w", prefix, ErrAmbiguous)
}

func sample() Connection {
	return Connection{
		GID: "0123456789abcdef0123456789abcdef", Role: "dialer", Local: "10.0.0.1:4000", Peer: "10.0.0.2:7000", PeerProcess: "deadbeef",
		Substrate: "tcp", Path: "10.0.0.1:4000 - 10.0.0.2:7000", State: "up", RTT: 42 * time.Microsecond, BytesIn: 1, BytesOut: 2,
		Unacked: 1, Links: 3, Switches: 1, LastEvent: "link lost", LastEventAt: time.Unix(1e9, 0).UTC(), Since: time.Unix(9e8, 0).UTC(),
	}
}

// private gives the test a runtime directory of its own, in a short path: the name of a socket has at most 107 bytes (unix(7)).
func private(t *testing.T) string {
	t.Helper()
	base, err := os.MkdirTemp("", "control")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(base) })
	t.Setenv("XDG_RUNTIME_DIR", base)
	d, err := rundir.Dir()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	return d
}

// serve starts a server and returns the one client that finds it.
func serve(t *testing.T, src Source) (*Server, Client) {
	t.Helper()
	s := serveOnly(t, src)
	found, silent := Processes(t.Context(), "")
	require.Empty(t, silent)
	require.Len(t, found, 1)
	return s, found[0]
}

// serveOnly is serve without a first call, whose place the server may not have back yet.
func serveOnly(t *testing.T, src Source) *Server {
	t.Helper()
	private(t)
	s, err := Serve(gid.NewProcessID(), src)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// TestOnlySockets: nothing is asked that isn't a socket in the directory itself.
func TestOnlySockets(t *testing.T) {
	s := serveOnly(t, fixed{})
	d := filepath.Dir(s.Path())
	require.NoError(t, os.Symlink(s.Path(), filepath.Join(d, "1-link.ctl")))
	require.NoError(t, os.WriteFile(filepath.Join(d, "2-file.ctl"), nil, 0o600))
	found, silent := Processes(t.Context(), "")
	require.Empty(t, silent)
	require.Len(t, found, 1)
	require.Equal(t, s.Path(), found[0].Path)
}

func TestAnswers(t *testing.T) {
	second := sample()
	second.GID = "01" + strings.Repeat("f", 30)
	s, c := serve(t, fixed{connections: []Connection{sample(), second}})
	require.Equal(t, s.Path(), c.Path)
	p := c.Process
	require.Equal(t, os.Getpid(), p.PID, "the server knows better than its source")
	require.Equal(t, os.Args[0], p.Arg0)
	require.Equal(t, fmt.Sprintf("%d-%s.ctl", p.PID, p.Proc), filepath.Base(c.Path))
	require.NotEmpty(t, p.Executable)
	require.Equal(t, "v9", p.Version)
	require.Equal(t, 2, p.Connections)
	require.WithinDuration(t, time.Now(), p.Started, time.Minute)

	list, err := c.Connections(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Connection{sample(), second}, list)

	why, err := c.Why(t.Context(), "0123")
	require.NoError(t, err)
	require.Equal(t, sample(), why.Connection)
	require.Equal(t, []string{"tcp: the only one"}, why.Text)
	require.JSONEq(t, `{"round":1}`, string(why.Decisions[0]))
	require.JSONEq(t, `[{"substrate":"tcp"}]`, string(why.Candidates))

	_, err = c.Why(t.Context(), "01")
	require.ErrorIs(t, err, ErrAmbiguous)
	_, err = c.Why(t.Context(), "99")
	require.ErrorIs(t, err, ErrNoConnection)
	require.ErrorContains(t, err, "99")
	for _, bad := range []string{"", "xyz", "../", strings.Repeat("0", 33), "0&gid=1"} {
		_, err = c.Why(t.Context(), bad)
		require.ErrorContains(t, err, "hexadecimal", bad)
	}
	_, err = c.Why(t.Context(), "0123456789ABCDEF")
	require.NoError(t, err, "capitals are digits too")
}

func TestNoConnections(t *testing.T) {
	s, c := serve(t, fixed{})
	list, err := c.Connections(t.Context())
	require.NoError(t, err)
	require.Empty(t, list)
	require.Contains(t, raw(t, s, "GET /v1/connections HTTP/1.0\r\n\r\n"), "\r\n\r\n[]\n", "a list, not null")
}

// TestSourceWithoutJSON: what a source says wrongly is the caller's error, not a panic.
func TestSourceWithoutJSON(t *testing.T) {
	_, c := serve(t, fixed{why: &Why{Candidates: []byte("{")}})
	_, err := c.Why(t.Context(), "0")
	require.ErrorContains(t, err, "not valid JSON")
}

// TestJSONNames: scripts depend on them.
func TestJSONNames(t *testing.T) {
	b, err := json.Marshal(sample())
	require.NoError(t, err)
	require.JSONEq(t, `{"gid":"0123456789abcdef0123456789abcdef","role":"dialer","local":"10.0.0.1:4000","peer":"10.0.0.2:7000",
		"peer_process":"deadbeef","substrate":"tcp","path":"10.0.0.1:4000 - 10.0.0.2:7000","state":"up","rtt_ns":42000,"bytes_in":1,
		"bytes_out":2,"unacked":1,"links":3,"switches":1,"last_event":"link lost","last_event_at":"2001-09-09T01:46:40Z",
		"since":"1998-07-09T16:00:00Z"}`, string(b))
	b, err = json.Marshal(Process{})
	require.NoError(t, err)
	require.JSONEq(t, `{"pid":0,"executable":"","arg0":"","started":"0001-01-01T00:00:00Z","version":"","proc":"","connections":0}`, string(b))
}

// raw sends bytes as they are and returns everything that comes back until the server has enough.
func raw(t *testing.T, s *Server, request string) string {
	t.Helper()
	c, err := net.Dial("unix", s.Path())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	io.WriteString(c, request) // the server may have had enough before the end
	b, err := io.ReadAll(c)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the server neither answers nor hangs up")
	return string(b)
}

func TestHostileRequests(t *testing.T) {
	s, c := serve(t, fixed{connections: []Connection{sample()}})
	for name, request := range map[string]string{
		"not HTTP":           "\x00\x01\x02\x03 hello\r\n\r\n",
		"another method":     "POST /v1/process HTTP/1.0\r\nContent-Length: 99999999999\r\n\r\n",
		"another path":       "GET /v1/../../etc/passwd HTTP/1.0\r\n\r\n",
		"endless header":     "GET /v1/process HTTP/1.0\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
		"endless question":   "GET /v1/why?gid=" + strings.Repeat("0", 64<<10) + " HTTP/1.0\r\n\r\n",
		"half a request":     "GET /v1/pro",
		"no such version":    "GET /v1/process HTTP/9.9\r\n\r\n",
		"a body and no host": "GET /v1/process HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
	} {
		t.Run(name, func(t *testing.T) {
			answer := raw(t, s, request)
			require.NotContains(t, answer, `"pid"`)
			require.NotContains(t, answer, " 200 ")
			list, err := c.Connections(t.Context())
			require.NoError(t, err, "and others are still answered")
			require.Len(t, list, 1)
		})
	}
}

// TestCrowd: callers beyond the bound are turned away, and room made by one that leaves is used again.
func TestCrowd(t *testing.T) {
	hold := make(chan struct{})
	s := serveOnly(t, fixed{hold: hold})
	c := Client{Path: s.Path()}
	var crowd []net.Conn
	defer func() {
		for _, nc := range crowd {
			nc.Close()
		}
	}()
	for range maxCallers {
		nc, err := net.Dial("unix", s.Path())
		require.NoError(t, err)
		crowd = append(crowd, nc)
		_, err = io.WriteString(nc, "GET /v1/connections HTTP/1.0\r\n\r\n")
		require.NoError(t, err)
	}
	// The callers before are let in in the order of their arrival, so the next one finds no room.
	_, err := c.Connections(t.Context())
	require.Error(t, err)
	close(hold)
	for _, nc := range crowd {
		_, err := http.ReadResponse(bufio.NewReader(nc), nil)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		_, err := c.Connections(t.Context())
		return err == nil
	}, 10*time.Second, time.Millisecond)
}

// TestClose: the socket is gone, those who wait for an answer are let go of, and Close may be called again.
func TestClose(t *testing.T) {
	hold := make(chan struct{})
	s, c := serve(t, fixed{hold: hold})
	idle, err := net.Dial("unix", s.Path())
	require.NoError(t, err)
	defer idle.Close()
	result := make(chan error, 1)
	go func() {
		_, err := c.Connections(context.Background())
		result <- err
	}()
	time.AfterFunc(10*time.Millisecond, func() { close(hold) })
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	<-result // answered or refused, depending on who came first; but told
	_, err = os.Lstat(s.Path())
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = c.Connections(t.Context())
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestServeTwice(t *testing.T) {
	private(t)
	proc := gid.NewProcessID()
	s, err := Serve(proc, fixed{})
	require.NoError(t, err)
	defer s.Close()
	_, err = Serve(proc, fixed{})
	require.ErrorContains(t, err, "control socket")
}

func TestNoPrivateDirectory(t *testing.T) {
	d := private(t)
	require.NoError(t, os.Chmod(d, 0o777))
	_, err := Serve(gid.NewProcessID(), fixed{})
	require.ErrorContains(t, err, "private")
	_, silent := Processes(t.Context(), "")
	require.Len(t, silent, 1)
	require.ErrorContains(t, silent[0], "private")
	_, silent = Processes(t.Context(), filepath.Join(d, "missing"))
	require.Len(t, silent, 1)
	require.ErrorIs(t, silent[0], os.ErrNotExist)
}

func TestSocketNames(t *testing.T) {
	for name, want := range map[string]int{"12-abcd.ctl": 12, "12-.ctl": 12, "12.ctl": 0, "-5-a.ctl": 0, "0-a.ctl": 0, "x-a.ctl": 0, "12-a.ack": 0, ".ctl": 0} {
		pid, ok := socketPID(name)
		require.Equal(t, want != 0, ok, name)
		if ok {
			require.Equal(t, want, pid, name)
		}
	}
}

// TestHostileServer: what something else answers on a socket of the right name is an error, whatever it is.
func TestHostileServer(t *testing.T) {
	huge := bytes.Repeat([]byte("X-Y: "+strings.Repeat("z", 1<<10)+"\r\n"), 1<<10)
	for name, answer := range map[string]string{
		"nothing":         "",
		"not HTTP":        "SSH-2.0-x\r\n\r\n",
		"not JSON":        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]",
		"another type":    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
		"too short":       "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{}",
		"bare refusal":    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
		"negative length": "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
		"long header":     "HTTP/1.1 200 OK\r\n" + string(huge),
	} {
		t.Run(name, func(t *testing.T) {
			d := private(t)
			l, err := net.Listen("unix", filepath.Join(d, "7-x.ctl"))
			require.NoError(t, err)
			served := make(chan struct{})
			go func() {
				defer close(served)
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				http.ReadRequest(bufio.NewReader(c))
				io.WriteString(c, answer)
			}()
			found, silent := Processes(t.Context(), "")
			l.Close()
			<-served
			require.Empty(t, found)
			require.Len(t, silent, 1)
			var e *SilentError
			require.ErrorAs(t, silent[0], &e)
			require.Equal(t, os.Getpid(), e.PID)
			require.ErrorContains(t, e, fmt.Sprintf("process %d does not answer", os.Getpid()))
			require.NotErrorIs(t, e, ErrNoConnection)
		})
	}
}
