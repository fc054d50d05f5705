package samehost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/rundir"
	"github.com/sockemu/sockemu/internal/sys"
)

// TokenSize is the length of the token that tells which control channel a page belongs to.
const TokenSize = 32

// meetTimeout bounds a meeting.
const meetTimeout = 2 * time.Second

// Pauses after a failed accept.
const (
	acceptPause    = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// suffix of the sockets.
const suffix = ".ack"

func path(d string, proc gid.ProcessID) string {
	return filepath.Join(d, gid.GID(proc).String()+suffix)
}

// ErrToken: the process does not know the channel (yet).
var ErrToken = errors.New("the process there does not know the channel")

// A Host is where other processes of the same user on this host hand over pages.
type Host struct {
	l       *net.UnixListener
	closing chan struct{}
	done    chan struct{}
	meeting atomic.Pointer[net.UnixConn] // whoever is being listened to: Close doesn't wait for that
}

// Listen opens the meeting place of process proc. take is called for each page that comes, in a goroutine of its own, with
// the token that the other process sent; it returns false if the token is unknown.
func Listen(proc gid.ProcessID, take func(token [TokenSize]byte, p *Page) bool) (*Host, error) {
	d, err := rundir.Dir()
	if err != nil {
		return nil, err
	}
	rundir.Sweep(d, suffix)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path(d, proc), Net: "unix"})
	if err != nil {
		return nil, err
	}
	h := &Host{l: l, closing: make(chan struct{}), done: make(chan struct{})}
	go h.loop(l.AcceptUnix, func(c *net.UnixConn) { h.receive(c, take) })
	return h, nil
}

// loop lets others in until Close. A process without free descriptors, most likely, tries again.
func (h *Host) loop(accept func() (*net.UnixConn, error), meet func(*net.UnixConn)) {
	defer close(h.done)
	pause := time.Duration(0)
	for {
		c, err := accept()
		if err == nil {
			pause = 0
			meet(c)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		pause = min(max(2*pause, acceptPause), acceptPauseMax)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-h.closing:
		}
		t.Stop()
	}
}

func (h *Host) receive(c *net.UnixConn, take func([TokenSize]byte, *Page) bool) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(meetTimeout))
	h.meeting.Store(c)
	defer h.meeting.Store(nil)
	select {
	case <-h.closing: // Close may have looked too early
		return
	default:
	}
	if uid, err := sys.PeerUID(c); err != nil || uid != os.Getuid() {
		return
	}
	var token [TokenSize]byte
	f, err := sys.RecvFile(c, token[:])
	if err != nil {
		return
	}
	defer f.Close()
	p, err := newPage(f)
	answer := byte(0)
	if err == nil && take(token, p) {
		answer = 1
	}
	c.Write([]byte{answer})
}

// Close ends the meeting place. It is called once.
func (h *Host) Close() error {
	err := h.l.Close()
	close(h.closing)
	if c := h.meeting.Load(); c != nil {
		c.SetDeadline(time.Unix(1, 0))
	}
	<-h.done
	return err
}

// Offer makes a page and hands it to process proc, if that runs on this host under the same user.
func Offer(ctx context.Context, proc gid.ProcessID, token [TokenSize]byte) (*Page, error) {
	d, err := rundir.Dir()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, meetTimeout)
	defer cancel()
	var dialer net.Dialer
	nc, err := dialer.DialContext(ctx, "unix", path(d, proc))
	if err != nil {
		return nil, err
	}
	c := nc.(*net.UnixConn)
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if uid, err := sys.PeerUID(c); err != nil {
		return nil, fmt.Errorf("whose process is there: %w", err)
	} else if uid != os.Getuid() {
		return nil, fmt.Errorf("the process there runs as user %d", uid)
	}
	f, err := sys.SharedMemory("sockemu-acks", pageSize)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := newPage(f)
	if err != nil {
		return nil, err
	}
	var answer [1]byte
	if err = sys.SendFile(c, token[:], f); err == nil {
		_, err = c.Read(answer[:])
	}
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("no answer from the process there: %w", ctx.Err())
	case err != nil:
		return nil, err
	}
	if answer[0] != 1 {
		return nil, ErrToken
	}
	return p, nil
}
