package shm

import (
	"sync"

	"github.com/sockemu/sockemu/internal/sys"
)

// hangups tells the links of a Substrate of their peers' deaths. It has a goroutine while there are links; who removes the last
// link waits for its end.
type hangups struct {
	mu    sync.Mutex
	set   *sys.Hangups // nil while there are no links
	done  chan struct{}
	links map[int32]*link
	next  int32
}

func (h *hangups) add(l *link) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.set == nil {
		set, err := sys.NewHangups()
		if err != nil {
			return err
		}
		h.set, h.done, h.links = set, make(chan struct{}), map[int32]*link{}
		go func(done chan struct{}) {
			defer close(done)
			set.Wait(h.gone)
		}(h.done)
	}
	for h.next++; h.links[h.next] != nil; h.next++ {
	}
	l.id = h.next
	h.links[l.id] = l
	return h.set.Add(l.sock, l.id)
}

func (h *hangups) gone(id int32) {
	h.mu.Lock()
	l := h.links[id]
	h.mu.Unlock()
	if l != nil {
		l.tell(hungUp)
	}
}

func (h *hangups) remove(l *link) {
	h.mu.Lock()
	if h.links[l.id] != l {
		h.mu.Unlock()
		return
	}
	delete(h.links, l.id)
	if len(h.links) > 0 {
		h.mu.Unlock()
		return
	}
	set, done := h.set, h.done
	h.set = nil
	h.mu.Unlock()
	set.Close()
	<-done
}
