package endpoint

import "github.com/sockemu/sockemu/internal/session"

// Metrics are the counters of an endpoint since it was made, and its gauges of the moment.
type Metrics struct {
	Connections int // now
	Parked      int // of them, without a link
	Channels    int // control channels now
	BufferBytes int64
	// BySubstrate counts the connections that have a link, by what carries it.
	BySubstrate map[string]int

	Opened, Accepted, Imported         uint64 // connections
	Resumed, LinksLost, FailedDials    uint64
	Moved                              uint64 // times this process took part in moving a connection to a better path
	SentBytes, ReceivedBytes           uint64 // of applications
	ReplayedBytes                      uint64
	Handshakes, Refused, Busy          uint64 // on the accepting side
	BadProofs                          uint64 // control channels that claimed a connection without its secret
	PlainConnections                   uint64
	EndedOK, EndedPatience, EndedReset uint64
	EndedUndelivered, EndedOther       uint64
}

// totals are what ended connections have left behind; guarded by Endpoint.mu.
type totals struct {
	lost, failed, sent, received, replayed  uint64
	ok, patience, reset, undelivered, other uint64
}

// add accounts for a connection that has ended.
func (t *totals) add(n session.Snapshot) {
	t.lost += n.Lost
	t.failed += n.FailedDial
	t.sent += n.Sent
	t.received += n.Received
	t.replayed += n.Replayed
	switch n.End() {
	case session.EndOK:
		t.ok++
	case session.EndPatience:
		t.patience++
	case session.EndReset:
		t.reset++
	case session.EndUndelivered:
		t.undelivered++
	default:
		t.other++
	}
}

// Metrics returns the counters. It looks at every connection: don't call it per message.
func (e *Endpoint) Metrics() Metrics {
	m := Metrics{
		BufferBytes: e.pool.Used(), Opened: e.count.opened.Load(), Accepted: e.count.accepted.Load(),
		Imported: e.count.importedN.Load(), Resumed: e.count.resumed.Load(), Moved: e.count.moved.Load(),
		BySubstrate: make(map[string]int), Handshakes: e.count.handshakes.Load(),
		Refused: e.count.refused.Load(), Busy: e.count.busy.Load(), BadProofs: e.count.badProofs.Load(),
		PlainConnections: e.count.plain.Load(), Channels: len(e.openChannels()),
	}
	e.mu.Lock()
	t := e.total
	e.mu.Unlock()
	m.LinksLost, m.FailedDials, m.SentBytes, m.ReceivedBytes, m.ReplayedBytes = t.lost, t.failed, t.sent, t.received, t.replayed
	m.EndedOK, m.EndedPatience, m.EndedReset, m.EndedUndelivered, m.EndedOther = t.ok, t.patience, t.reset, t.undelivered, t.other
	for _, s := range e.Sessions() {
		n := s.Snapshot()
		m.Connections++
		if n.State == "parked" {
			m.Parked++
		}
		if n.Substrate != "" {
			m.BySubstrate[n.Substrate]++
		}
		m.LinksLost += n.Lost
		m.FailedDials += n.FailedDial
		m.SentBytes += n.Sent
		m.ReceivedBytes += n.Received
		m.ReplayedBytes += n.Replayed
	}
	return m
}
