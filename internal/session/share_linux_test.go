package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/internal/samehost"
)

// sharedPage returns both ends of a page of shared memory.
func sharedPage(t *testing.T) (ours, theirs *samehost.Page) {
	t.Helper()
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	proc, got := gid.NewProcessID(), make(chan *samehost.Page, 1)
	h, err := samehost.Listen(proc, func(_ [samehost.TokenSize]byte, p *samehost.Page) bool { got <- p; return true })
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	ours, err = samehost.Offer(t.Context(), proc, [samehost.TokenSize]byte{})
	require.NoError(t, err)
	return ours, <-got
}

// TestShareWakesWriter: a Write that waits for room when the two ends begin to share a page looks there: the peer says what it has nowhere else.
func TestShareWakesWriter(t *testing.T) {
	ours, theirs := sharedPage(t)

	const room = 64 << 10
	l := newFakeLink(nil)
	s := bound(t, l, Config{Linger: time.Millisecond, SendBuffer: room, ProbeEvery: time.Hour}, NewPool(0))
	defer finish(t, s, l)
	ch := &fakeChannel{}
	s.Attach(ch)
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		s.Write(make([]byte, room+1))
	}()
	for s.Snapshot().Sent < room || len(s.canTx) > 0 || s.next.Load() < room {
		<-time.After(time.Millisecond) // until it waits
	}
	theirs.Slot(0, 1, false).Publish(room)
	s.Share(ch, ours.Slot(0, 1, true))
	within(t, wrote, "it sleeps until the next probe")
}
