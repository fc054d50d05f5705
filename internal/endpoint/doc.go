// Package endpoint is the part of sockemu that one process has once: its identity, its listeners, its table of
// connections by GID, and one control channel to each process it has connections with. It performs the handshakes that
// begin links (handshake.go), hands the links to sessions, and finds new links for sessions that have lost theirs
// (paper, section 3.2: the thin agent's part that runs only at start-up and migration).
//
// Lock order: Endpoint.mu, peer.mu, channel.mu; each of them is a leaf for the session package, whose methods are called
// without any of them held.
package endpoint
