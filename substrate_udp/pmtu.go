package udp

import "time"

// mtu finds out how long packets may be (RFC 8899 in spirit): it begins with what is sure and probes for more with packets of
// padding, whose loss says nothing about congestion. Under the link's mu.
type mtu struct {
	size  int   // full packets now
	wire  int   // full datagrams; size is more while long packets are used
	most  int   // the first hop takes no more
	high  int   // what is known to be too long, or most+1
	probe int   // on its way, or to be repeated; 0: none
	tries int   // how often
	at    int64 // the next probe

	long      int           // the length of full packets in rows, see long.go; 0: none are sent
	longAt    int64         // the next probe of that length; 0: there is none
	longTries int           // how often
	longPause time.Duration // how long they are left alone when they don't get through
	longSaw   uint64        // the number of the last one that did
}

const (
	mtuTries  = 3
	mtuStep   = 20 // it isn't worth to look closer
	mtuPause  = 5 * time.Second
	mtuUsual  = 1500 - 48
	mtuSettle = 10 * time.Millisecond
)

func (m *mtu) start(sure, most int, now int64) {
	*m = mtu{size: sure, wire: sure, most: most, high: most + 1}
	if sure < most {
		m.at = now + int64(mtuSettle)
	}
}

// due returns the length of the probe to send now, 0 for none.
func (m *mtu) due(now int64) int {
	if m.at == 0 || now < m.at {
		return 0
	}
	if m.probe == 0 {
		if m.high-m.wire <= mtuStep {
			m.at = 0
			return 0
		}
		m.probe, m.tries = (m.wire+m.high)/2, 0
		switch {
		case m.high > m.most:
			m.probe = m.most // most paths take what their first hop takes
		case m.wire < mtuUsual && m.probe > mtuUsual:
			m.probe = mtuUsual // the next best guess
		}
	}
	return m.probe
}

// sent notes that the probe went out: without an answer it is repeated after some time.
func (m *mtu) sent(now int64, timeout time.Duration) {
	m.tries++
	m.at = now + int64(4*timeout)
	if m.tries >= mtuTries {
		m.high, m.probe = m.probe, 0 // unless it is answered meanwhile
	}
}

// growMTU learns that packets of size bytes arrive.
func (l *link) growMTU(size int, now int64) {
	m := &l.mtu
	if size > m.most {
		l.growLong(now)
		return
	}
	if size <= m.wire {
		return
	}
	if m.size == m.wire {
		m.size = size
		l.cc.SetSegment(size)
	}
	m.wire, m.probe = size, 0
	if m.high <= size {
		m.high = m.most + 1
	}
	m.at = now
}

// shrinkMTU suspects that full packets vanish, or knows that they can't be sent.
func (l *link) shrinkMTU(now int64) {
	m := &l.mtu
	if m.size > m.wire {
		l.noLong(now)
	}
	if m.wire <= minDatagram {
		return
	}
	m.high, m.size, m.wire, m.probe = m.wire, minDatagram, minDatagram, 0
	m.at = now + int64(mtuPause)
	l.cc.SetSegment(m.size)
}
