// Package session is one connection's life: the thin agent of the paper (section 3.2). A Session is one end of a
// connection. It is bound to one substrate.Link at a time and outlives it: what the peer's session has not acknowledged stays in
// a send-side buffer and is replayed over the next link, from the offset at which the peer stands.
//
// The way of a byte: Write (write.go) hands it to the link, straight from the application's slice when the link is in bare
// mode, and keeps a copy of what is unacknowledged (internal/blocks). On the other side Read (read.go) takes it from the link
// straight into the application's slice, in the application's goroutine. Records (records.go) acknowledge it, over the
// control channel of the two processes, or in-band while a link is in record mode (frames.go). links.go gives
// links up, redial.go looks for new ones, resume.go binds them, move.go replaces one that works; ending.go ends the connection;
// export.go moves it to another process.
//
// # Ownership and locks
//
// Order: wr, tx, mu, bmu on the send side; rd, settling, rx, mu on the receive side. wr and rd serialise whole Writes and
// Reads; tx is held while something is sent on a link, rx while something is received from a bare one: these are lanes,
// held while waiting. mu and bmu are plain mutexes, never held while waiting, and nothing outside the package is called
// under them except the deadline setters, Interrupt, Release, Cost and the addresses of a link, Env.CanDial, and a Channel's methods,
// none of which blocks.
//
// Goroutines: none while a connection is idle on a bare link; one frame reader per link in record mode; a pump while there
// is something to send that no Write is sending; a redialler while there is no link; short-lived ones that settle a dead
// link or pull the tail of a finished stream. All end with the session.
package session
