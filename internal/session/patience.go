package session

import (
	"time"
)

// noPath reports whether the connection has no complete path now. Under mu.
func (s *Session) noPath() bool {
	return s.cur == nil || s.ch == nil && (s.cur.txBare || s.cur.rxBare)
}

// watchPath starts and stops the clock of patience. Under mu.
func (s *Session) watchPath() {
	if !s.noPath() || !s.wantLink() {
		if !s.downSince.IsZero() && s.counts.links > 1 {
			s.counts.outage = max(s.counts.outage, time.Since(s.downSince))
		}
		s.downSince = time.Time{}
		if s.patience != nil {
			s.patience.Stop()
		}
		return
	}
	if s.downSince.IsZero() {
		s.downSince = time.Now()
	}
	d := time.Until(s.downSince.Add(s.cfg.Patience))
	if s.patience == nil {
		s.patience = time.AfterFunc(d, s.outOfPatience)
	} else {
		s.patience.Reset(d)
	}
}

func (s *Session) outOfPatience() {
	s.mu.Lock()
	over := s.noPath() && s.wantLink() && !s.downSince.IsZero() && time.Since(s.downSince) >= s.cfg.Patience
	s.mu.Unlock()
	if over {
		s.fail(ErrPatience, "raise Patience to wait longer")
	}
}
