package inventory

import (
	"context"
	"slices"
	"time"
)

// A Change is one thing that has changed.
type Change struct {
	Kind   string `json:"kind"`   // "link", "address", "route", or "lost": see Watch
	Device string `json:"device"` // the interface, "" if several or none
	Text   string `json:"text"`   // in words: "address 10.0.0.7/24 removed from eth0"
}

// An Event is a burst of changes.
type Event struct {
	Changes []Change `json:"changes"`
	Omitted int      `json:"omitted,omitempty"` // changes beyond the first 64
}

// How changes are gathered into events: they come in bursts, as when an interface goes down with its addresses and routes.
const (
	quiet      = 50 * time.Millisecond  // without a change ends a burst
	longest    = 500 * time.Millisecond // ends it anyway
	maxChanges = 64
)

// Watch calls f for what changes about interfaces, addresses and the main routing table of the calling thread's network
// namespace, from now on until ctx ends; then it returns nil. f is called by one goroutine, Watch's own, first at once with
// an Event without Changes: what is looked at from then on can't have changed unnoticed.
//
// If f is slow the kernel keeps what it can, and says if that wasn't all: then there is a Change of kind "lost", and anything
// may have changed. Off Linux the error wraps errors.ErrUnsupported. No privilege is needed.
func Watch(ctx context.Context, f func(Event)) error { return watch(ctx, f) }

// gather makes events of the changes that come, until the channel is closed or ctx ends.
func gather(ctx context.Context, changes <-chan []Change, f func(Event)) {
	f(Event{})
	for {
		var e Event
		select {
		case c, ok := <-changes:
			if !ok {
				return
			}
			e.add(c)
		case <-ctx.Done():
			return
		}
		open := e.gather(ctx, changes)
		if ctx.Err() != nil {
			return
		}
		f(e)
		if !open {
			return
		}
	}
}

// gather adds the rest of the burst. It reports whether there can be another one.
func (e *Event) gather(ctx context.Context, changes <-chan []Change) bool {
	limit := time.NewTimer(longest)
	defer limit.Stop()
	silence := time.NewTimer(quiet)
	defer silence.Stop()
	for {
		select {
		case c, ok := <-changes:
			if !ok {
				return false
			}
			e.add(c)
			silence.Reset(quiet)
		case <-silence.C:
			return true
		case <-limit.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

func (e *Event) add(list []Change) {
	for _, c := range list {
		switch {
		case slices.Contains(e.Changes, c): // an interface that flaps says nothing new
		case len(e.Changes) == maxChanges:
			e.Omitted++
		default:
			e.Changes = append(e.Changes, c)
		}
	}
}
