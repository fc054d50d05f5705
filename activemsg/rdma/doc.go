// Package rdma carries active messages over reliable connected queue pairs of RDMA devices.
//
//	adapter, err := rdma.Open(device, rdma.Config{})       // of a verbs.Provider
//	conn, err := adapter.Prepare(rdma.ConnConfig{})
//	theirs := exchange(conn.Local())                        // by any path there is: 40 bytes each way
//	carrier, err := conn.Connect(theirs)
//	confirm()                                               // both ends have connected
//	ep, err := activemsg.New(carrier, handlers, activemsg.Config{})
//
// # How a segment goes
//
// The receiver has as many receives posted as it has slots, each with memory for a whole segment; the credits of package activemsg see to it
// that a message always finds one. A slot that is given back is posted again before anything is sent that could tell the peer so.
// A short segment goes inline, in the request itself. A longer one is copied into one of a few registered slots, and is the caller's
// again at once. Payload in memory of Adapter.Alloc is sent as it is: then it must not change until the peer is known to have it.
//
// # Placement
//
// Memory that the peer may write into comes from Carrier.Alloc and nowhere else. Its key opens this whole memory, so that Expose and Hide cost
// nothing: a peer that breaks the rules can change what it had placed before, but nothing that other peers sent, and no other
// memory of the process. ConnConfig.Strict registers each exposed buffer by itself instead, and takes it back: slower by two calls
// of the kernel, and a stale key then breaks the connection.
//
// # Waiting
//
// Who waits looks again and again, for twice as long as what came of late took, then sleeps until the device wakes it. What takes longer
// than ConnConfig.Spin is waited for asleep. On machines with few processors other threads get their turn between looks. A Carrier is an
// activemsg.Poller, so that the goroutine which wants a message looks for it itself.
//
// # The end
//
// The device gives up after ConnConfig.Retry time-outs, half a second; activemsg's heartbeat may be earlier, and a port that goes
// down ends its carriers at once. All of these are substrate.PathDown.
package rdma
