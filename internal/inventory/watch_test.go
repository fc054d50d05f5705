package inventory

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func changed(text string) []Change { return []Change{{Kind: "link", Text: text}} }

// TestGather: bursts become one event each, after a moment of silence.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		changes, events, done := make(chan []Change), make(chan Event), make(chan struct{})
		go func() {
			defer close(done)
			gather(ctx, changes, func(e Event) { events <- e })
		}()
		require.Empty(t, (<-events).Changes, "the watch is on")

		start := time.Now()
		changes <- changed("a")
		time.Sleep(quiet - 1)
		changes <- changed("b")
		changes <- changed("a")
		require.Equal(t, Event{Changes: append(changed("a"), changed("b")...)}, <-events, "each once")
		require.Equal(t, 2*quiet-1, time.Since(start))

		start = time.Now()
		changes <- changed("c")
		require.Equal(t, Event{Changes: changed("c")}, <-events)
		require.Equal(t, quiet, time.Since(start))

		changes <- changed("d")
		cancel()
		<-done
	})
}

// TestGatherEndless: changes without end don't keep an event from being told, nor make it long.
func TestGatherEndless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type told struct {
			Event
			at time.Time // not when the test looks: it may offer more changes first
		}
		changes, events, done := make(chan []Change), make(chan told, 1000), make(chan struct{})
		go func() {
			defer close(done)
			gather(t.Context(), changes, func(e Event) { events <- told{e, time.Now()} })
		}()
		<-events
		start := time.Now()
		var e told
		for i := 0; e.Changes == nil; i++ {
			select {
			case changes <- changed(fmt.Sprint(i)):
				time.Sleep(time.Millisecond)
			case e = <-events:
			}
		}
		require.WithinDuration(t, start.Add(longest), e.at, 2*time.Millisecond)
		require.Len(t, e.Changes, maxChanges)
		require.Greater(t, e.Omitted, 300)
		close(changes)
		<-done
	})
}

// TestGatherFailure: what is known when the notifications end is told.
func TestGatherFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changes := make(chan []Change, 1)
		changes <- changed("a")
		close(changes)
		var events []Event
		gather(t.Context(), changes, func(e Event) { events = append(events, e) })
		require.Equal(t, []Event{{}, {Changes: changed("a")}}, events)
	})
}
