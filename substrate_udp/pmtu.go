package udp

import "time"

// mtu finds out how long packets may be (RFC 8899 in spirit): it begins with what is sure and probes for more with packets of
// padding, whose loss says nothing about congestion. Under the link's mu.
type mtu struct {
	size  int   // full packets now
	most  int   // the first hop takes no more
	high  int   // what is known to be too long, or most+1
	probe int   // on its way, or to be repeated; 0: none
	tries int   // how often
	at    int64 // the next probe
}

const (
	mtuTries  = 3
	mtuStep   = 20 // it isn't worth to look closer
	mtuPause  = 5 * time.Second
	mtuUsual  = 1500 - 48
	mtuSettle = 10 * time.Millisecond
)

func (m *mtu) start(sure, most int, now int64) {
	*m = mtu{size: sure, most: most, high: most + 1}
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
		if m.high-m.size <= mtuStep {
			m.at = 0
			return 0
		}
		m.probe, m.tries = (m.size+m.high)/2, 0
		switch {
		case m.high > m.most:
			m.probe = m.most // most paths take what their first hop takes
		case m.size < mtuUsual && m.probe > mtuUsual:
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
	if size <= m.size {
		return
	}
	m.size, m.probe = size, 0
	if m.high <= size {
		m.high = m.most + 1
	}
	m.at = now
	l.cc.SetSegment(size)
}

// shrinkMTU suspects that full packets vanish, or knows that they can't be sent.
func (l *link) shrinkMTU(now int64) {
	m := &l.mtu
	if m.size <= minDatagram {
		return
	}
	m.high, m.size, m.probe = m.size, minDatagram, 0
	m.at = now + int64(mtuPause)
	l.cc.SetSegment(m.size)
}
