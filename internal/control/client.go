package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sockemu/sockemu/internal/rundir"
	"github.com/sockemu/sockemu/internal/sys"
)

const (
	// askTimeout bounds one question to one process: much longer than an answer takes, short enough for somebody who waits.
	askTimeout = 2 * time.Second
	// maxAnswer bounds what is read of an answer, in bytes: some 100,000 connections.
	maxAnswer = 64 << 20
	// maxAsking is how many processes are asked at once.
	maxAsking = 16
)

// A Client asks one process. It is safe for concurrent use, and holds nothing open between questions.
type Client struct {
	Process Process // as it was when Processes found it
	Path    string  // of its control socket
}

// A SilentError is a process that is there but doesn't answer: stopped, overloaded, or speaking something else.
type SilentError struct {
	PID  int // as this process sees it, if it was reached; else by the name of its socket
	Path string
	Err  error
}

// Error names the process and the cause.
func (e *SilentError) Error() string {
	return fmt.Sprintf("process %d does not answer: %v", e.PID, e.Err)
}

// Unwrap returns the cause.
func (e *SilentError) Unwrap() error { return e.Err }

// Processes returns the processes of this user on this host that answer, in order of their process ids, and a *SilentError
// for each one that doesn't within two seconds. dir is another directory to look in (root may look into that of another
// user); "" is this user's own. If the directory can't be read that is the only error.
func Processes(ctx context.Context, dir string) ([]Client, []error) {
	if dir == "" {
		own, err := rundir.Dir()
		if err != nil {
			return nil, []error{err}
		}
		dir = own
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, []error{err}
	}
	type answer struct {
		client Client
		pid    int
		err    error
	}
	var answers []*answer
	var asking sync.WaitGroup
	slots := make(chan struct{}, maxAsking)
	for _, e := range entries {
		pid, ok := socketPID(e.Name())
		if !ok || e.Type() != os.ModeSocket { // a link may lead to anything, which root is not to be made to talk to
			continue
		}
		a := &answer{client: Client{Path: filepath.Join(dir, e.Name())}, pid: pid}
		answers = append(answers, a)
		asking.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			var pid int
			pid, a.err = a.client.ask(ctx, "/v1/process", &a.client.Process)
			if pid > 0 { // in a namespace of its own it has another one, which it knows
				a.pid, a.client.Process.PID = pid, pid
			}
		})
	}
	asking.Wait()
	slices.SortStableFunc(answers, func(a, b *answer) int { return a.pid - b.pid })
	var found []Client
	var silent []error
	for _, a := range answers {
		switch {
		case a.err == nil:
			found = append(found, a.client)
		case Gone(a.err):
		default:
			silent = append(silent, &SilentError{PID: a.pid, Path: a.client.Path, Err: a.err})
		}
	}
	return found, silent
}

// Gone reports whether an error of a question says that the process isn't there any more: it was killed before, or has ended since.
func Gone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}

// socketPID returns the process id in the name of a control socket.
func socketPID(name string) (int, bool) {
	name, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return 0, false
	}
	digits, _, ok := strings.Cut(name, "-")
	pid, err := strconv.Atoi(digits)
	return pid, ok && err == nil && pid > 0
}

// Connections returns the process's connections.
func (c Client) Connections(ctx context.Context) ([]Connection, error) {
	var list []Connection
	_, err := c.ask(ctx, "/v1/connections", &list)
	return list, err
}

// Why explains the connection of the process whose GID begins with prefix. Its error wraps ErrNoConnection or ErrAmbiguous
// if there isn't exactly one.
func (c Client) Why(ctx context.Context, prefix string) (Why, error) {
	var why Why
	_, err := c.ask(ctx, "/v1/why?"+url.Values{"gid": {prefix}}.Encode(), &why)
	return why, err
}

// ask puts one question, and decodes the answer into v. It does without http.Client, whose goroutines outlive the answer. It returns the id of
// the process that has opened the socket, 0 if that isn't known.
func (c Client) ask(ctx context.Context, question string, v any) (pid int, err error) {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(asking, "unix", c.Path)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if u, ok := conn.(*net.UnixConn); ok {
		if n, _, err := sys.PeerProcess(u); err == nil {
			pid = n
		}
	}
	defer context.AfterFunc(asking, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	req, err := http.NewRequest(http.MethodGet, "http://sockemu"+question, nil)
	if err != nil {
		return pid, err
	}
	req.Close = true
	err = c.exchange(conn, req, v)
	switch { // rather than the time-out of the connection that it brought about
	case err == nil:
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case asking.Err() != nil:
		err = silence{}
	}
	return pid, err
}

// silence is that askTimeout has passed.
type silence struct{}

// Error says what may be the matter.
func (silence) Error() string { return fmt.Sprintf("nothing came for %v: is it stopped?", askTimeout) }

// Is makes it a time-out like others.
func (silence) Is(target error) bool { return target == context.DeadlineExceeded }

func (c Client) exchange(conn net.Conn, req *http.Request, v any) error {
	if err := req.Write(conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxAnswer)), req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp, body)
	}
	return json.Unmarshal(body, v)
}

// refusal is the error that a process answered with.
func refusal(resp *http.Response, body []byte) error {
	var p problem
	if err := json.Unmarshal(body, &p); err != nil || p.Error == "" {
		return errors.New(resp.Status)
	}
	switch resp.StatusCode {
	case http.StatusNotFound:
		return said{p.Error, ErrNoConnection}
	case http.StatusConflict:
		return said{p.Error, ErrAmbiguous}
	}
	return errors.New(p.Error)
}

// said is an error in the words of the process, with its meaning.
type said struct {
	words   string
	meaning error
}

// Error returns the words.
func (e said) Error() string { return e.words }

// Unwrap returns the meaning.
func (e said) Unwrap() error { return e.meaning }
