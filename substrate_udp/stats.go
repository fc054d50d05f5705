package udp

import "sync/atomic"

// Stats counts what happened on the sockets of a Substrate since it was made.
type Stats struct {
	PacketsSent, PacketsReceived uint64
	BytesSent, BytesReceived     uint64 // whole datagrams, without the headers of UDP and IP
	Lost                         uint64 // packets declared lost
	Spurious                     uint64 // and of those, the ones that had arrived after all
	Timeouts                     uint64 // probe timeouts
	Retries                      uint64 // cookies sent to dialers
	Migrations                   uint64 // links that moved to another address of the peer
	LongPaths                    uint64 // paths found to carry long packets, see the documentation of the package
	LongLost                     uint64 // and those of them on which such packets vanished later

	// ECN, by links and the paths that they took; not between processes of one host.
	ECNPaths uint64 // found to let codepoints through
	ECNMarks uint64 // packets that arrived with the mark of a congested router, as peers report
	// Paths on which it was given up, by reason.
	ECNBleached uint64 // codepoints were cleared
	ECNMangled  uint64 // codepoints were changed, or everything was marked
	ECNLost     uint64 // packets with codepoints got lost
	ECNFalse    uint64 // a peer reported more than was sent, or less than before

	// Datagrams that were dropped, by reason.
	Truncated  uint64 // too short or too long
	Version    uint64 // of another version, or no protocol of ours
	Corrupt    uint64 // wrong checksum
	Malformed  uint64 // right checksum, wrong contents
	Split      uint64 // a long packet whose row of datagrams didn't stay together
	Unknown    uint64 // for a link that is not here
	Duplicate  uint64 // received before: doubled by the network, or replayed
	BadCookie  uint64 // a dial whose cookie was forged, for another address, too old or used before
	Overloaded uint64 // a dial that found the queue of its listener full
	Overrun    uint64 // beyond the window that was advertised, or in too many pieces
	SendErrors uint64 // not sent: the system refused
}

// counters are Stats while they count.
type counters struct {
	packetsSent, packetsReceived, bytesSent, bytesReceived atomic.Uint64
	lost, spurious, timeouts, retries, migrations          atomic.Uint64
	truncated, version, corrupt, malformed, unknown        atomic.Uint64
	duplicate, badCookie, overloaded, overrun, sendErrors  atomic.Uint64
	split, longPaths, longLost                             counter
	ecnPaths, ecnMarks                                     counter
	ecnBleached, ecnMangled, ecnLost, ecnFalse             counter
}

type counter = atomic.Uint64

// Stats returns the counters of the moment.
func (s *Substrate) Stats() Stats {
	c := &s.count
	return Stats{
		PacketsSent: c.packetsSent.Load(), PacketsReceived: c.packetsReceived.Load(),
		BytesSent: c.bytesSent.Load(), BytesReceived: c.bytesReceived.Load(),
		Lost: c.lost.Load(), Spurious: c.spurious.Load(), Timeouts: c.timeouts.Load(), Retries: c.retries.Load(),
		Migrations: c.migrations.Load(), Truncated: c.truncated.Load(), Version: c.version.Load(), Corrupt: c.corrupt.Load(),
		Malformed: c.malformed.Load(), Unknown: c.unknown.Load(), Duplicate: c.duplicate.Load(), BadCookie: c.badCookie.Load(),
		ECNPaths: c.ecnPaths.Load(), ECNMarks: c.ecnMarks.Load(), ECNBleached: c.ecnBleached.Load(), ECNMangled: c.ecnMangled.Load(),
		ECNLost: c.ecnLost.Load(), ECNFalse: c.ecnFalse.Load(),
		Split: c.split.Load(), LongPaths: c.longPaths.Load(), LongLost: c.longLost.Load(),
		Overloaded: c.overloaded.Load(), Overrun: c.overrun.Load(), SendErrors: c.sendErrors.Load(),
	}
}
