// Package tcp is the substrate over kernel TCP: the base case, there wherever two hosts can talk at all. A link is a bare
// byte stream over one connection; nothing is added to what the session sends, so Send and Recv are one system call each.
//
// The folder is called substrate_tcp, like its siblings substrate_udp, substrate_shm and substrate_verbs, so that they stand
// together in a listing; the package is called tcp because Go package names have no underscores.
//
// Limits: Drain takes up to a millisecond off Linux; Cost is known on Linux only. Multipath TCP is off: its sockets can't be
// repaired or moved between processes, and a session already survives the loss of a path.
package tcp
