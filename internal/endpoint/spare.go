package endpoint

import (
	"time"

	"github.com/sockemu/sockemu/selector"
)

// A spare is how the most promising path is measured where a young connection may go over to it: over a standby link of that connection. If the
// choice falls there, the link need not be opened again, which on a busy machine takes as long as all the rest.
type spare struct {
	p     *peer
	c     *choice
	path  selector.Path
	track *track // nil: not opened (yet)
}

// noNote stands before a request to measure a standby link: the length of a message that isn't there.
var noNote = []byte{0, 0}

// newSpare finds the first connection that is young, on the base path and free to leave it, and the first other path that it may use. It returns
// nil if there is none.
func (p *peer) newSpare(paths []selector.Path, all []*choice) *spare {
	for _, path := range paths {
		if path.Substrate == p.e.cfg.Substrate.Name() {
			continue
		}
		for _, c := range all {
			if c.mayTry(p, path) {
				return &spare{p: p, c: c, path: path}
			}
		}
	}
	return nil
}

// mayTry reports whether the connection is on the base path, and young or not allowed there, and allowed on path.
func (c *choice) mayTry(p *peer, path selector.Path) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	underWay := c.last.Action == selector.Switch || c.last.Cause == selector.CauseInProgress
	return c.b != nil && c.p == p && !underWay && (time.Since(c.began) < eager || !c.b.Policy().Allows(c.b.Current().Substrate)) &&
		c.b.Current().Substrate == p.e.cfg.Substrate.Name() && c.b.Policy().Allows(path.Substrate)
}

// take gives the open link away, if it is one for c over path; else it returns nil.
func (s *spare) take(c *choice, path selector.Path) *track {
	if s == nil || s.c != c || s.path != path || s.track == nil || s.track.alone || s.track.err != nil {
		return nil
	}
	tr := s.track
	if tr.close(); tr.err != nil { // that ended the measurement, not the link; it may have come too late
		return nil
	}
	s.track = nil
	return tr
}

// drop closes the link if it was of no use.
func (s *spare) drop() {
	if s == nil || s.track == nil {
		return
	}
	s.track.standby.Interrupt()
	s.track.standby.Close()
}
