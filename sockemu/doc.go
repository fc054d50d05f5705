// Package sockemu gives applications connections that are not lost: a Conn is a net.Conn that survives the loss of the
// links beneath it, outages of any configured length, and the move of either end to another process, with no byte lost,
// repeated or reordered.
//
//	l, err := sockemu.Listen(ctx, "tcp", ":7000")        // a net.Listener
//	c, err := sockemu.Dial(ctx, "tcp", "nodeB:7000")     // a net.Conn
//
// Both ends use the package. A peer that doesn't is noticed by Dial, which falls back to plain TCP unless Config forbids it;
// a Listener can serve plain clients too. Everything that takes a net.Conn, a net.Listener or a dial function (net/http,
// gRPC, ssh) runs on it unchanged: see the examples.
//
// The functions of the package use the Default endpoint: one identity, one set of control channels, one memory budget for the
// whole process. NewEndpoint makes others, with their own configuration.
//
// A connection begins on kernel TCP and moves by itself to what has been measured to be faster: shared memory within a host, RDMA between
// hosts that have it. Config.Substrates restricts the choice; Conn.Explain shows it.
//
// Limits: network names "tcp", "tcp4" and "tcp6". A peer whose process is killed can't be told from one that can't be reached: its
// connections end when Config.Patience runs out, or when its address has answered for Config.GoneAfter that the connection is not
// known there.
package sockemu
