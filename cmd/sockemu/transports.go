package main

import "github.com/sockemu/sockemu/bench"

// transports are what `sockemu bench` can measure. A way to connect is added here, and only here.
func transports() bench.Registry {
	return bench.Registry{
		bench.Raw(),
		thin("tcp"),
		thin("shm"),
		thin("udp"),
		thin("auto"),
	}
}
