package endpoint

import "time"

// What takes round trips has time for so many of those of the peer at hand: none is too far away for a fixed time. The first handshake tells
// how long they are, and later what is measured.
const (
	farthest   = 2 * time.Second // round trips that take longer are not waited for
	openTrips  = 6               // to open a path: a UDP link with a cookie and a handshake take three
	askTrips   = 6               // for one answer to a probe: over TCP a train takes some, while the window opens
	moveTrips  = 8               // to open a link and go over
	aloneTrips = 16              // for all that a link is measured by, and to go over then
	choseTrips = 24              // for all that, and once more
)

// trips is the time for n round trips of rtt, but least at least.
func trips(n int, rtt, least time.Duration) time.Duration {
	return max(least, time.Duration(n)*min(rtt, farthest))
}
