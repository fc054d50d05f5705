package verbs

import (
	"context"
	"net/netip"
)

// A Joiner is a QP of an iWARP device, which speaks RDMA over TCP. Instead of Connect it has Join: the kernel makes the TCP connection.
//
// iWARP has rules of its own:
//
//   - The end that was awaited must not send before something of the other has arrived.
//   - There are no immediate values: OpSendImm and OpWriteImm are ErrInvalid.
//   - No piece of a request is empty: the kernel of Linux 6.1 breaks of one, so it is ErrInvalid. A request may have no piece at all.
//   - A completion of a send or write means that the bytes were given to TCP. The peer may not have got them, and if it refuses them (a wrong key, no
//     receive posted) that request succeeds nevertheless: the connection breaks, and later ones fail.
//   - A peer without a receive posted isn't waited for (RNR).
//   - Only the memory of a request with FlagSignaled may change when its completion was polled. That of others must stay as it is until the peer
//     is known to have it: the software driver may hand pages to TCP.
type Joiner interface {
	QP

	// Await makes this the end that is connected to, and returns where: at an address of the device's interface. It is called before the QP
	// of the other end joins, which must be told.
	Await(local netip.Addr) (netip.AddrPort, error)

	// Join waits until both ends are joined, or ctx ends. After an error the QP can only be closed. That may take minutes after ctx has ended: a driver that
	// connects as programs do (siw) waits as long as TCP.
	Join(ctx context.Context, j Joint) error
}

// A Joint is where two queue pairs meet.
type Joint struct {
	Local  netip.Addr     // of this end
	Remote netip.AddrPort // what Await of the peer returned; for the end that has awaited it is nothing
	Key    uint64         // of both ends the same: strangers don't know it
}
