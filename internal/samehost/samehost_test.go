package samehost

import (
	"context"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/rundir"
)

// TestAcceptAgain: a process that was out of descriptors for a while still takes pages afterwards.
func TestAcceptAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Host{closing: make(chan struct{}), done: make(chan struct{})}
		results := []error{syscall.EMFILE, syscall.EMFILE, syscall.EMFILE, nil, syscall.EMFILE, net.ErrClosed}
		met, start := 0, time.Now()
		h.loop(func() (*net.UnixConn, error) {
			err := results[0]
			results = results[1:]
			return nil, err
		}, func(*net.UnixConn) { met++ })
		<-h.done
		require.Equal(t, 1, met)
		require.Equal(t, (1+2+4+1)*acceptPause, time.Since(start))

		// Close doesn't wait for the pause to end.
		h = &Host{closing: make(chan struct{}), done: make(chan struct{})}
		close(h.closing)
		results = []error{syscall.EMFILE, net.ErrClosed}
		start = time.Now()
		h.loop(func() (*net.UnixConn, error) {
			err := results[0]
			results = results[1:]
			return nil, err
		}, nil)
		require.Zero(t, time.Since(start))
	})
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// meet returns the two views of one page.
func meet(t *testing.T) (*Page, *Page) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	proc := gid.NewProcessID()
	token := [TokenSize]byte{1, 2, 3}
	pages := make(chan *Page, 1)
	h, err := Listen(proc, func(got [TokenSize]byte, p *Page) bool {
		if got != token {
			return false
		}
		pages <- p
		return true
	})
	require.NoError(t, err)
	defer h.Close()
	_, err = Offer(context.Background(), proc, [TokenSize]byte{9})
	require.ErrorIs(t, err, ErrToken)
	a, err := Offer(context.Background(), proc, token)
	require.NoError(t, err)
	return a, <-pages
}

// TestSilentCaller: whoever connects and says nothing holds up neither Close nor, for longer than a meeting takes, others.
func TestSilentCaller(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	proc := gid.NewProcessID()
	h, err := Listen(proc, func([TokenSize]byte, *Page) bool { return true })
	require.NoError(t, err)
	d, err := rundir.Dir()
	require.NoError(t, err)
	silent, err := net.Dial("unix", path(d, proc))
	require.NoError(t, err)
	defer silent.Close()
	for h.meeting.Load() == nil { // it is being listened to
		runtime.Gosched()
	}
	start := time.Now()
	require.NoError(t, h.Close())
	require.Less(t, time.Since(start), meetTimeout*3/4)
}

// TestOfferEnds: a process that takes a page and doesn't answer holds up nobody whose context ends.
func TestOfferEnds(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	proc := gid.NewProcessID()
	d, err := rundir.Dir()
	require.NoError(t, err)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path(d, proc), Net: "unix"})
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		c, err := l.AcceptUnix()
		if err == nil {
			c.Read(make([]byte, 1)) // the offer is there
			cancel()
			defer c.Close()
		}
		<-t.Context().Done()
	}()
	start := time.Now()
	_, err = Offer(ctx, proc, [TokenSize]byte{1})
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, time.Since(start), meetTimeout*3/4)
}

func TestAcknowledge(t *testing.T) {
	a, b := meet(t)
	x, y := a.Slot(7, 3, true), b.Slot(7, 3, false)
	require.Zero(t, x.Acked())
	require.False(t, y.Publish(1000))
	require.EqualValues(t, 1000, x.Acked())
	require.Zero(t, y.Acked(), "each direction has its own word")

	x.Want(2000)
	require.False(t, y.Publish(1999))
	require.True(t, y.Publish(2000), "the other end waits for this")
	x.Want(0)
	require.False(t, y.Publish(3000))
}

func TestGenerations(t *testing.T) {
	a, b := meet(t)
	old, now := b.Slot(0, 1, false), a.Slot(0, 2, true)
	require.False(t, old.Publish(5000))
	require.Zero(t, now.Acked(), "an earlier connection's word")
	now.Want(10)
	require.False(t, old.Publish(6000))
}

func TestOffsetsBeyondTheWord(t *testing.T) {
	a, b := meet(t)
	x, y := a.Slot(1, 1, true), b.Slot(1, 1, false)
	y.Publish(maxOff)
	require.True(t, y.Publish(maxOff+1), "such news travel in records")
	require.Equal(t, uint64(maxOff), x.Acked())
	x.Want(maxOff + 1)
	require.False(t, y.Publish(5))
}

func TestNoSuchSlot(t *testing.T) {
	a, _ := meet(t)
	require.Nil(t, a.Slot(-1, 1, true))
	require.Nil(t, a.Slot(Slots, 1, true))
	require.NotNil(t, a.Slot(Slots-1, 1, true))
}

func TestNobodyThere(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	_, err := Offer(context.Background(), gid.NewProcessID(), [TokenSize]byte{})
	require.ErrorIs(t, err, os.ErrNotExist)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Offer(ctx, gid.NewProcessID(), [TokenSize]byte{})
	require.Error(t, err)
}

// TestStrangersMessage: bytes without memory end that meeting, not the meeting place.
func TestStrangersMessage(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	proc := gid.NewProcessID()
	h, err := Listen(proc, func([TokenSize]byte, *Page) bool { return true })
	require.NoError(t, err)
	defer h.Close()
	d, err := rundir.Dir()
	require.NoError(t, err)
	c, err := net.Dial("unix", path(d, proc))
	require.NoError(t, err)
	_, err = c.Write(make([]byte, TokenSize))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err, "no answer")
	c.Close()
	_, err = Offer(context.Background(), proc, [TokenSize]byte{1})
	require.NoError(t, err)
}
