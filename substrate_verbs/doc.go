// Package verbs is the substrate of RDMA: links over active messages (package activemsg) over reliable connected queue pairs. (The
// folder is called substrate_verbs like its sisters.)
//
// All links between two processes share one queue pair, so thousands of connections cost no more memory of the adapter than one. Each link
// has a window of its own, granted by its receiver: one that nobody reads holds up no other.
//
// # Set-up
//
// Listen opens a TCP port, the rendezvous: its address is what peers dial. The first Dial between two processes connects there, and the two
// tell each other what a queue pair needs to know. Nothing is believed until a message of the largest size has gone there and
// back over the queue pair itself, with the secrets that both have said on the TCP connection. Links are opened by a message each. The TCP
// connection stays, silent: the kernel closes it when the other process dies.
//
// # Copies
//
// Send copies the bytes once, into memory from which the adapter sends, if the carrier has such memory; there they stay until the peer's end
// of the link has taken them, for the session to send again elsewhere if the path breaks (substrate.Keeper). Recv gets them from
// the slot in which they arrived with one copy if it waits for them, with two if they were there first (docs/adr/0014). Who waits in Recv or Send
// polls the queue pair himself, for as long as that pays.
//
// # Ends
//
// A link ends with its Close at either side, and with the path: when the adapter says so, when the other process dies, or when nothing was heard
// from it for Options.Death. Links of a path that broke have class PathDown, whatever the cause: TCP finds out whether the peer still is
// there.
package verbs
