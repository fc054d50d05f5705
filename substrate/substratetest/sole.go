package substratetest

import (
	"io"
	"os"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// A solely is a Sole link used as its Mover.
type solely struct {
	substrate.Link
	substrate.Mover
}

func (l solely) Send(off uint64, bufs [][]byte) (int, error) { return l.Mover.Send(off, bufs) }

func (l solely) Recv(p []byte) (int, error) { return l.Mover.Recv(p) }

// testSole: what a Sole link gives those who close it last moves bytes as the link does, heeds deadlines and Interrupt, and sees the end.
func testSole(h *harness) {
	la, lb := h.pair()
	sa, ok := la.(substrate.Sole)
	if !ok {
		h.Skip("links of this substrate keep Close apart from Send and Recv by themselves")
	}
	a, b := solely{la, sa.Sole()}, solely{lb, lb.(substrate.Sole).Sole()}
	ab, ba := h.stream(a, b, h.Dialer, sizes), h.stream(b, a, h.Listener, sizes)
	ab()
	ba()

	require.NoError(h, b.SetRecvDeadline(time.Now().Add(10*time.Millisecond)))
	_, err := b.Recv(make([]byte, 1))
	require.ErrorIs(h, err, os.ErrDeadlineExceeded)
	require.NoError(h, b.SetRecvDeadline(time.Time{}))

	received := h.start("receiving", func() {
		if n, err := a.Recv(make([]byte, 1)); n != 0 || err != substrate.ErrInterrupted {
			h.Errorf("Recv of an interrupted link: %d, %v", n, err)
		}
	})
	a.Interrupt()
	received()
	n, err := a.Send(substrate.Unkept, [][]byte{{1}})
	require.Zero(h, n)
	require.ErrorIs(h, err, substrate.ErrInterrupted)
	require.NoError(h, a.Close())
	_, err = b.Recv(make([]byte, 1))
	require.ErrorIs(h, err, io.EOF)
}
