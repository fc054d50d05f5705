package sockemu

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/sockemu/sockemu/internal/endpoint"
)

// Metrics are the counters and gauges of an endpoint. Publish them with expvar:
//
//	expvar.Publish("sockemu", expvar.Func(func() any { return sockemu.Default().Metrics() }))
//
// or serve them to Prometheus with WritePrometheus.
type Metrics = endpoint.Metrics

// Metrics returns the endpoint's counters. It looks at every connection: call it per scrape, not per message.
func (e *Endpoint) Metrics() Metrics { return e.e.Metrics() }

// WritePrometheus writes the endpoint's metrics in the Prometheus text format (version 0.0.4).
func (e *Endpoint) WritePrometheus(w io.Writer) error {
	m := e.Metrics()
	for _, v := range []struct {
		name, kind, help string
		value            any
	}{
		{"connections", "gauge", "Connections that have not ended.", m.Connections},
		{"connections_parked", "gauge", "Connections without a link at this moment.", m.Parked},
		{"control_channels", "gauge", "Control channels to other processes.", m.Channels},
		{"buffer_bytes", "gauge", "Bytes of send and receive buffers in use.", m.BufferBytes},
		{"opened_total", "counter", "Connections dialled.", m.Opened},
		{"accepted_total", "counter", "Connections accepted.", m.Accepted},
		{"imported_total", "counter", "Connections imported from other processes.", m.Imported},
		{"plain_total", "counter", "Connections that are plain TCP because the peer does not speak sockemu.", m.PlainConnections},
		{"resumed_total", "counter", "Times a connection got a new link.", m.Resumed},
		{"moved_total", "counter", "Times a connection was moved to a better path.", m.Moved},
		{"links_lost_total", "counter", "Links lost.", m.LinksLost},
		{"failed_dials_total", "counter", "Attempts to get a new link that failed.", m.FailedDials},
		{"sent_bytes_total", "counter", "Bytes written by applications.", m.SentBytes},
		{"received_bytes_total", "counter", "Bytes received for applications.", m.ReceivedBytes},
		{"replayed_bytes_total", "counter", "Bytes sent again after a link was lost.", m.ReplayedBytes},
		{"handshakes_total", "counter", "Set-ups begun by other processes.", m.Handshakes},
		{"refused_total", "counter", "Set-ups refused.", m.Refused},
		{"busy_total", "counter", "Set-ups told to come back later.", m.Busy},
		{"bad_proofs_total", "counter", "Claims to a connection without its secret.", m.BadProofs},
	} {
		if _, err := fmt.Fprintf(w, "# HELP sockemu_%s %s\n# TYPE sockemu_%s %s\nsockemu_%s %v\n", v.name, v.help, v.name, v.kind, v.name, v.value); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(w, "# HELP sockemu_links Connections that have a link, by what carries it.\n# TYPE sockemu_links gauge\n"); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(m.BySubstrate)) {
		if _, err := fmt.Fprintf(w, "sockemu_links{substrate=%q} %d\n", name, m.BySubstrate[name]); err != nil {
			return err
		}
	}
	ends := []struct {
		how string
		n   uint64
	}{{"ok", m.EndedOK}, {"patience", m.EndedPatience}, {"reset", m.EndedReset}, {"undelivered", m.EndedUndelivered}, {"other", m.EndedOther}}
	if _, err := io.WriteString(w, "# HELP sockemu_ended_total Connections ended, by how.\n# TYPE sockemu_ended_total counter\n"); err != nil {
		return err
	}
	for _, e := range ends {
		if _, err := fmt.Fprintf(w, "sockemu_ended_total{how=%q} %d\n", e.how, e.n); err != nil {
			return err
		}
	}
	return nil
}
