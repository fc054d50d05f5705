// Package ucx makes connections of UCX's stream interface (ucp_stream_send_nbx, ucp_stream_recv_data_nb; openucx.org), to compare with over
// shared memory. (Over the kernel's software RDMA, UCX 1.13 finds no way to its peer.) It needs
// Linux, cgo to build and libucp.so.0 when it runs, which it looks for then: nothing of UCX is needed to build it. UCX progresses only
// inside calls: they spin for a moment, then sleep on UCX's event.
//
// It serves the benchmark: a connection is used by one goroutine, what it took is not given back before the process ends, and a call that
// blocks holds a thread.
package ucx
