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
	PID  int // by the name of its socket
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
			a.err = a.client.ask(ctx, "/v1/process", &a.client.Process)
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
		case errors.Is(a.err, syscall.ECONNREFUSED), errors.Is(a.err, os.ErrNotExist):
			// Killed before, or gone since the directory was read.
		default:
			silent = append(silent, &SilentError{PID: a.pid, Path: a.client.Path, Err: a.err})
		}
	}
	return found, silent
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
	err := c.ask(ctx, "/v1/connections", &list)
	return list, err
}

// Why explains the connection of the process whose GID begins with prefix. Its error wraps ErrNoConnection or ErrAmbiguous
// if there isn't exactly one.
func (c Client) Why(ctx context.Context, prefix string) (Why, error) {
	var why Why
	err := c.ask(ctx, "/v1/why?"+url.Values{"gid": {prefix}}.Encode(), &why)
	return why, err
}

// ask puts one question, and decodes the answer into v. It does without http.Client, whose goroutines outlive the answer.
func (c Client) ask(ctx context.Context, question string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", c.Path)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	req, err := http.NewRequest(http.MethodGet, "http://sockemu"+question, nil)
	if err != nil {
		return err
	}
	req.Close = true
	if err := c.exchange(conn, req, v); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx) // rather than the time-out of the connection that it brought about
		}
		return err
	}
	return nil
}

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
