package activemsg

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// inBubble runs f with two endpoints on a pipe whose faults start when f wants.
func inBubble(t *testing.T, ca, cb Config, h *Handlers, f func(t *testing.T, a, b *Endpoint, silence func())) {
	synctest.Test(t, func(t *testing.T) {
		fs := &faults{kind: "silence", off: true}
		a, b := endpoints(t, func(testing.TB) (Carrier, Carrier) {
			x, y := Pipe(PipeConfig{})
			var ab, ba meter
			return fs.wrap(x, 1, &ab, &ba), fs.wrap(y, 2, &ba, &ab)
		}, h, h, ca, cb)
		f(t, a, b, func() {
			fs.mu.Lock()
			defer fs.mu.Unlock()
			fs.off, fs.at = false, time.Now()
		})
	})
}

// TestIdle: heartbeats keep an idle path alive and measure it.
func TestIdle(t *testing.T) {
	inBubble(t, Config{}, Config{}, new(Handlers), func(t *testing.T, a, b *Endpoint, _ func()) {
		require.Zero(t, a.RTT())
		time.Sleep(time.Hour)
		require.NoError(t, a.Err())
		require.NoError(t, b.Err())
		require.NotZero(t, a.RTT())
		require.NotZero(t, b.RTT())
	})
}

// TestDeath: a peer that is heard of no more is dead in less than a second, whenever it died, and not before four fifths of Death.
func TestDeath(t *testing.T) {
	for wait := time.Duration(0); wait < time.Second; wait += 37 * time.Millisecond {
		for _, death := range []time.Duration{0, 300 * time.Millisecond} {
			inBubble(t, Config{Death: death}, Config{Death: death}, new(Handlers), func(t *testing.T, a, b *Endpoint, silence func()) {
				limit := death
				if limit == 0 {
					limit = defaultDeath
				}
				time.Sleep(wait)
				silence()
				begun := time.Now()
				for _, e := range []*Endpoint{a, b} {
					<-e.Done()
					require.ErrorIs(t, e.Err(), substrate.ErrPathDown)
				}
				took := time.Since(begun)
				require.LessOrEqual(t, took, limit)
				require.GreaterOrEqual(t, took, limit*2/5, "the last heartbeat may have been two beats before, the end comes with the fourth silent one")
			})
		}
	}
}

// TestDeathUnblocks: all that waits for the peer ends with it.
func TestDeathUnblocks(t *testing.T) {
	var h Handlers
	read := make(chan error, 1)
	h.Stream(idBlob, func(in *In) {
		_, err := io.Copy(io.Discard, in)
		read <- err
	})
	inBubble(t, Config{}, Config{Manual: true}, &h, func(t *testing.T, a, b *Endpoint, silence func()) {
		out, err := b.Begin(t.Context(), idBlob, 1<<20)
		require.NoError(t, err)
		require.NoError(t, out.Piece(make([]byte, b.Payload()+1)))
		synctest.Wait() // a's handler has the beginning
		ended := make(chan error, 3)
		go func() { ended <- send(a, idBlob, make([]byte, 100*a.Payload()), 1000) }()  // piece by piece
		go func() { ended <- send(a, idBlob, make([]byte, 200*a.Payload()), 1<<30) }() // at once
		go func() {
			for {
				if err := a.Short(t.Context(), idShort, [4]uint64{}); err != nil {
					ended <- err
					return
				}
			}
		}()
		synctest.Wait() // for credit, as b extracts nothing
		silence()
		begun := time.Now()
		for range 3 {
			require.ErrorIs(t, <-ended, substrate.ErrPathDown)
		}
		require.ErrorIs(t, <-read, substrate.ErrPathDown)
		require.Less(t, time.Since(begun), time.Second)
		<-b.Done()
		require.ErrorIs(t, out.End(), substrate.ErrPathDown)
	})
}

// TestSlowHandler: an endpoint whose receiving goroutine is busy doesn't take its peer for dead, but the peer can't tell.
func TestSlowHandler(t *testing.T) {
	var h Handlers
	h.Quick(idShort, func(m *Msg) { time.Sleep(3 * time.Second) }) // as one that breaks the rules
	inBubble(t, Config{Death: time.Minute}, Config{}, &h, func(t *testing.T, a, b *Endpoint, _ func()) {
		require.NoError(t, a.Short(t.Context(), idShort, [4]uint64{}))
		time.Sleep(5 * time.Second)
		require.NoError(t, b.Err())
		require.NoError(t, a.Err())
	})
}

// A wall is a carrier whose Send doesn't return before Close.
type wall struct {
	Carrier
	closed chan struct{}
}

func (w *wall) Send(*[HeaderLen]byte, [][]byte) error {
	<-w.closed
	return errors.New("closed")
}

func (w *wall) Close() error {
	close(w.closed)
	return w.Carrier.Close()
}

// A deaf carrier's peer takes nothing, but goes on talking.
type deaf struct{ *wall }

func (d deaf) Limits() Limits {
	l := d.wall.Limits()
	l.Waits = 1 << 20
	return l
}

// TestDeafPeer: one that only talks is given up as soon as one that is silent. It could go on for ever: segments of control need no credit.
func TestDeafPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := Pipe(PipeConfig{})
		defer y.Close()
		a, err := New(deaf{&wall{x, make(chan struct{})}}, new(Handlers), Config{})
		require.NoError(t, err)
		defer a.Close()
		go a.Short(t.Context(), 1, [4]uint64{})
		begun := time.Now()
		for a.Err() == nil && time.Since(begun) < time.Minute {
			var head [HeaderLen]byte
			(&header{id: controlGrant, flags: flagControl}).put(&head)
			require.NoError(t, y.Send(&head, nil))
			time.Sleep(10 * time.Millisecond)
		}
		require.ErrorIs(t, a.Err(), substrate.ErrPathDown)
		require.ErrorIs(t, a.Err(), errDeaf)
		require.LessOrEqual(t, time.Since(begun), defaultDeath+10*time.Millisecond)
	})
}

// TestCloseIsPrompt: a carrier that is stuck doesn't keep Close, nor who sends.
func TestCloseIsPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := Pipe(PipeConfig{})
		defer y.Close()
		e, err := New(&wall{x, make(chan struct{})}, new(Handlers), Config{})
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() { ended <- e.Short(t.Context(), 1, [4]uint64{}) }()
		synctest.Wait()
		require.NoError(t, e.TryShort(1, [4]uint64{}), "it is corked")
		begun := time.Now()
		require.NoError(t, e.Close())
		require.LessOrEqual(t, time.Since(begun), byeWait)
		require.ErrorIs(t, <-ended, net.ErrClosed)
		require.ErrorIs(t, e.Err(), net.ErrClosed)
		require.ErrorIs(t, e.TryShort(1, [4]uint64{}), net.ErrClosed)
	})
}

// TestGoodbyeIsHeard: a peer that has closed its endpoint is gone, not cut off, also if that is noticed first because nothing can be sent to it any more.
func TestGoodbyeIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := Pipe(PipeConfig{})
		late := &lateCarrier{y, make(chan struct{})}
		a, b := endpoints(t, func(testing.TB) (Carrier, Carrier) { return x, late }, new(Handlers), new(Handlers), Config{}, Config{})
		require.NoError(t, a.Close())
		require.ErrorIs(t, b.TryShort(1, [4]uint64{}), substrate.ErrPathDown, "a handler may call it, so it doesn't wait")
		require.ErrorIs(t, b.TryShort(1, [4]uint64{}), substrate.ErrPathDown)
		sent := make(chan error)
		go func() { sent <- b.Short(t.Context(), 1, [4]uint64{}) }()
		synctest.Wait()
		close(late.open)
		require.ErrorIs(t, <-sent, substrate.ErrPeerGone)
		require.ErrorIs(t, b.Err(), substrate.ErrPeerGone)
	})
}

// TestSendFails: where nothing more arrives, the endpoint soon ends with the error of what couldn't be sent.
func TestSendFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := Pipe(PipeConfig{})
		late := &lateCarrier{y, make(chan struct{})}
		_, b := endpoints(t, func(testing.TB) (Carrier, Carrier) { return x, late }, new(Handlers), new(Handlers), Config{}, Config{})
		require.NoError(t, x.Close())
		begun := time.Now()
		err := b.Short(t.Context(), 1, [4]uint64{})
		require.ErrorIs(t, err, substrate.ErrPathDown)
		require.ErrorIs(t, err, errEnded)
		require.Equal(t, byeWait, time.Since(begun))
		close(late.open)
	})
}

// A lateCarrier receives nothing before its time.
type lateCarrier struct {
	Carrier
	open chan struct{}
}

func (c *lateCarrier) Recv(batch []Segment) (int, error) {
	<-c.open
	return c.Carrier.Recv(batch)
}

// A sticky carrier doesn't come to its end before it is let go.
type sticky struct {
	*pipe
	let chan struct{}
}

func (s sticky) Close() error {
	s.pipe.Close()
	<-s.let
	return nil
}

// stuck makes an endpoint whose carrier doesn't let go of it, and its peer.
func stuck(t *testing.T, f func(t *testing.T, a, b *Endpoint, letGo func())) {
	synctest.Test(t, func(t *testing.T) {
		let := make(chan struct{})
		letGo := sync.OnceFunc(func() { close(let) })
		a, b := endpoints(t, func(testing.TB) (Carrier, Carrier) {
			x, y := Pipe(PipeConfig{})
			return sticky{x.(*pipe), let}, y
		}, new(Handlers), new(Handlers), Config{}, Config{})
		t.Cleanup(letGo)
		f(t, a, b, letGo)
	})
}

// TestEndDoesNotWaitForTheCarrier: who uses an endpoint whose path has broken hears of it while the carrier is still closing.
func TestEndDoesNotWaitForTheCarrier(t *testing.T) {
	stuck(t, func(t *testing.T, a, b *Endpoint, letGo func()) {
		begun := time.Now()
		time.AfterFunc(time.Minute, letGo)
		require.NoError(t, b.Close())
		var err error
		for err == nil {
			err = a.Short(t.Context(), 1, [4]uint64{})
		}
		require.ErrorIs(t, err, substrate.ErrPeerGone)
		<-a.Done()
		require.Less(t, time.Since(begun), time.Second)
		require.NoError(t, a.Close())
		require.Equal(t, time.Minute, time.Since(begun), "Close is what frees the carrier")
	})
}

// TestEndWaitsWherePosted: but as long as the peer may write into a posted buffer the endpoint hasn't ended.
func TestEndWaitsWherePosted(t *testing.T) {
	stuck(t, func(t *testing.T, a, b *Endpoint, letGo func()) {
		require.NoError(t, a.Post(1, 0, make([]byte, 8)))
		require.NoError(t, b.Close())
		synctest.Wait()
		require.NoError(t, a.Err())
		require.ErrorIs(t, a.Post(2, 0, make([]byte, 8)), ErrNoPost)
		letGo()
		<-a.Done()
		require.ErrorIs(t, a.Err(), substrate.ErrPeerGone)
	})
}
