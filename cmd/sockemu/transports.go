package main

import (
	"github.com/sockemu/sockemu/bench"
	"github.com/sockemu/sockemu/bench/peers"
	"github.com/sockemu/sockemu/bench/rsocket"
	"github.com/sockemu/sockemu/bench/ucx"
)

// transports are what `sockemu bench` can measure. A way to connect is added here, and only here.
func transports() bench.Registry {
	shm, rc := ucx.Over("shm,self"), ucx.Over("rc_v,tcp,self") // a UD queue pair, with which UCX prefers to begin, isn't everywhere
	return bench.Registry{
		bench.Raw(),
		thin("tcp"),
		thin("shm"),
		thin("udp"),
		thin("auto"),
		peers.QUIC(),
		bench.If(ucx.Available, bench.Via("peer:ucx", "shm", shm.Dial, shm.Listen)),
		bench.If(ucx.AvailableRDMA, bench.Via("peer:ucx", "verbs", rc.Dial, rc.Listen)),
		bench.If(rsocket.Available, bench.Via("peer:rsocket", "verbs", rsocket.Dial, rsocket.Listen)),
	}
}
