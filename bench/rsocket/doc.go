// Package rsocket makes connections of librdmacm's rsockets: what sockets over RDMA are today without this project, and so a peer to
// compare with (rsocket(7)). It needs Linux, cgo to build and librdmacm.so.1 when it runs, which it looks for then: nothing of RDMA is
// needed to build it. The addresses are those of interfaces that have an RDMA device.
//
// It serves the benchmark: a connection is used by one goroutine for each direction, and a call that blocks holds a thread.
package rsocket
