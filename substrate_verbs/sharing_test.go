package verbs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/substrate"
)

// two returns two substrates over pipes, which stand for two processes.
func two(t testing.TB, o Options) (a, b *Substrate, f *Pipes) {
	f = NewPipes(activemsg.PipeConfig{})
	o.Fabric = f
	return newTest(t, o), newTest(t, o), f
}

// TestOneQueuePair: all links between two processes share a queue pair, however many dial at a time, and to whichever listener; those that
// are dialled the other way, too.
func TestOneQueuePair(t *testing.T) {
	a, b, f := two(t, Options{})
	_, _, l1 := join(t, a, b)
	_, _, l2 := join(t, a, b)
	var all sync.WaitGroup
	for _, l := range []substrate.Listener{l1, l2} {
		for range 20 {
			all.Go(func() {
				k, err := a.Dial(t.Context(), l.Addr().String())
				if err != nil {
					t.Errorf("Dial: %v", err)
					return
				}
				k.Close()
			})
		}
	}
	all.Wait()
	join(t, b, a)
	require.Equal(t, 2, f.Made())
}

// TestTogether: many dial for the first time at once, and get one queue pair.
func TestTogether(t *testing.T) {
	a, b, f := two(t, Options{})
	l, err := b.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			k, err := a.Dial(t.Context(), l.Addr().String())
			if err != nil {
				t.Errorf("Dial: %v", err)
				return
			}
			k.Close()
		})
	}
	all.Wait()
	require.Equal(t, 2, f.Made())
}

// TestKnownBeforeUse: who is dialled knows the queue pair before the dialler may use it. Else a link that is dialled back at once gets another.
func TestKnownBeforeUse(t *testing.T) {
	m := &mute{Pipes: NewPipes(activemsg.PipeConfig{})}
	a := newTest(t, Options{Fabric: m.Pipes})
	b := newTest(t, Options{Fabric: m})
	var known []int
	m.before = func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		known = append(known, len(b.pairs))
	}
	join(t, a, b)
	b.mu.Lock()
	defer b.mu.Unlock()
	require.NotEmpty(t, known)
	require.Equal(t, 1, known[0], "when it says that the path is verified")
}

// TestReaderThatDoesNotRead: a link whose reader sleeps is full after its window, and holds up none of the others.
func TestReaderThatDoesNotRead(t *testing.T) {
	a, b, _ := two(t, Options{})
	stuck, sleeper, l := join(t, a, b)
	stopped := make(chan int, 1)
	go func() {
		n, _ := stuck.Send(0, [][]byte{make([]byte, 64<<20)})
		stopped <- n
	}()
	const size = 8 << 20
	from, to := joinTo(t, a, l)
	want := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	go func() {
		from.Send(0, [][]byte{want})
		from.Close()
	}()
	got, err := io.ReadAll(readerFunc(to.Recv))
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	sleeper.rcv.Lock()
	held := sleeper.in.Len()
	sleeper.rcv.Unlock()
	require.LessOrEqual(t, held, firstWindow)
	stuck.Interrupt()
	require.LessOrEqual(t, <-stopped, firstWindow)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestWindowGrows: where the reader keeps up the window doubles up to its bound, and the memory for it is given back.
func TestWindowGrows(t *testing.T) {
	for name, memory := range map[string]int64{"enough": 1 << 30, "none": 1} {
		t.Run(name, func(t *testing.T) {
			a, b, _ := two(t, Options{Memory: memory})
			from, to, _ := join(t, a, b)
			go func() {
				from.Send(0, [][]byte{make([]byte, 32<<20)})
				from.Close()
			}()
			_, err := io.Copy(io.Discard, readerFunc(to.Recv))
			require.NoError(t, err)
			from.snd.Lock()
			window := from.window
			from.snd.Unlock()
			if memory > 1 {
				require.EqualValues(t, lastWindow, window)
				require.EqualValues(t, lastWindow-firstWindow, b.ahead.Load())
			} else {
				require.EqualValues(t, firstWindow, window)
			}
			require.NoError(t, to.Close())
			require.Zero(t, b.ahead.Load())
		})
	}
}

// TestClosedWindow: a Recv that comes back when its link has just been closed takes no memory for a larger window, which nobody would give back.
func TestClosedWindow(t *testing.T) {
	a, b, _ := two(t, Options{})
	_, y, _ := join(t, a, b)
	require.NoError(t, y.Close())
	y.rcv.Lock()
	defer y.rcv.Unlock()
	require.True(t, y.took(2*firstWindow))
	require.Zero(t, b.ahead.Load())
}

// TestNumbersReturn: links that come and go leave nothing behind at either end.
func TestNumbersReturn(t *testing.T) {
	a, b, _ := two(t, Options{})
	x, y, l := join(t, a, b)
	for range 300 {
		from, to := joinTo(t, a, l)
		_, err := from.Send(0, [][]byte{{1, 2, 3}})
		require.NoError(t, err)
		require.NoError(t, to.Close())
		require.NoError(t, from.Close())
	}
	for _, p := range []*peer{x.p, y.p} {
		require.Eventually(t, func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.live == 1 && len(p.free) == len(p.links)-1
		}, patience, time.Millisecond)
	}
}

// TestIdle: a queue pair without links ends after a while, at both ends, and the next Dial makes a new one.
func TestIdle(t *testing.T) {
	a, b, f := two(t, Options{Idle: 20 * time.Millisecond})
	x, y, l := join(t, a, b)
	require.NoError(t, x.Close())
	require.NoError(t, y.Close())
	for _, p := range []*peer{x.p, y.p} {
		await(t, p.gone)
	}
	joinTo(t, a, l)
	require.Equal(t, 4, f.Made())
}

// TestProcessDies: the kernel closes the TCP connection of a process that was killed; its peers' links break at once.
func TestProcessDies(t *testing.T) {
	a, b, _ := two(t, Options{Death: time.Hour})
	x, y, _ := join(t, a, b)
	require.NoError(t, x.p.conn.(*net.TCPConn).CloseWrite())
	_, err := y.Recv(make([]byte, 1))
	require.ErrorIs(t, err, substrate.ErrPathDown)
	require.ErrorContains(t, err, "the peer's process is gone")
}

// TestSilence: a path that doesn't carry anything any more, without a word, is noticed within Options.Death, though nobody sends.
func TestSilence(t *testing.T) {
	m := &mute{Pipes: NewPipes(activemsg.PipeConfig{})}
	s := newTest(t, Options{Fabric: m, Death: 200 * time.Millisecond})
	x, y, _ := join(t, s, s)
	m.silent.Lock()
	defer m.silent.Unlock()
	for _, l := range []*link{x, y} {
		_, err := l.Recv(make([]byte, 1))
		require.ErrorIs(t, err, substrate.ErrPathDown)
	}
}

// mute is a Fabric whose carriers take segments and lose them while silent is locked.
type mute struct {
	*Pipes
	silent sync.RWMutex
	before func() // if not nil: called for each segment
}

func (m *mute) Open(local, remote netip.Addr, dialled bool) (Half, error) {
	h, err := m.Pipes.Open(local, remote, dialled)
	return muteHalf{h, m}, err
}

type muteHalf struct {
	Half
	m *mute
}

func (h muteHalf) Connect(info []byte) (activemsg.Carrier, error) {
	c, err := h.Half.Connect(info)
	return muteCarrier{c, h.m}, err
}

type muteCarrier struct {
	activemsg.Carrier
	m *mute
}

func (c muteCarrier) Send(head *[activemsg.HeaderLen]byte, payload [][]byte) error {
	if c.m.before != nil {
		c.m.before()
	}
	if !c.m.silent.TryRLock() {
		return nil
	}
	defer c.m.silent.RUnlock()
	return c.Carrier.Send(head, payload)
}

// TestClosedSubstrate: nothing begins after Close, and what there was has ended.
func TestClosedSubstrate(t *testing.T) {
	a, b, _ := two(t, Options{})
	x, y, l := join(t, a, b)
	require.NoError(t, b.Close())
	for _, k := range []*link{x, y} {
		_, err := k.Recv(make([]byte, 1))
		require.ErrorIs(t, err, substrate.ErrPathDown)
	}
	_, err := l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = b.Listen(t.Context(), "127.0.0.1:0")
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = b.Dial(t.Context(), closedPort(t, "127.0.0.1"))
	require.ErrorIs(t, err, net.ErrClosed)
}

// TestDialOutlivesPeer: a dial that hears of the path's end only when nothing is left of the peer fails like any other.
func TestDialOutlivesPeer(t *testing.T) {
	a, b, _ := two(t, Options{Death: time.Hour})
	x, y, _ := join(t, a, b)
	y.p.mu.Lock() // its messages aren't handled, so that the credits run out
	defer y.p.mu.Unlock()
	for {
		err := x.p.ep.TryShort(msgTaken, [4]uint64{uint64(x.theirs)})
		if errors.Is(err, activemsg.ErrNoCredit) {
			break
		}
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := x.p.open(lateContext{ctx, func() { abort(x); await(t, x.p.gone) }}, 0)
	require.ErrorIs(t, err, context.Canceled)
}

// A lateContext does something before it says that it has ended.
type lateContext struct {
	context.Context
	before func()
}

func (c lateContext) Err() error {
	c.before()
	return c.Context.Err()
}

// TestDialGivenUp: a link whose dialler has gone away before the answer is closed at the other end.
func TestDialGivenUp(t *testing.T) {
	m := &mute{Pipes: NewPipes(activemsg.PipeConfig{})}
	s := newTest(t, Options{Fabric: m, Death: time.Hour})
	_, _, l := join(t, s, s)
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if k, err := s.Dial(ctx, l.Addr().String()); err == nil {
			k.Close()
		}
		cancel()
	}
	// What was opened for nobody ends; the one that is wanted works.
	k, err := s.Dial(t.Context(), l.Addr().String())
	require.NoError(t, err)
	defer k.Close()
	_, err = k.Send(0, [][]byte{{7}})
	require.NoError(t, err)
	for {
		b, err := l.Accept()
		require.NoError(t, err)
		p := make([]byte, 1)
		_, err = b.Recv(p)
		b.Close()
		if err == nil {
			require.Equal(t, []byte{7}, p)
			return
		}
		require.ErrorIs(t, err, io.EOF)
	}
}
