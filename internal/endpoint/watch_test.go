package endpoint

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/internal/inventory"
)

// TestWatchAgain: a process that couldn't watch the network for a moment does so later, and then measures its paths again.
func TestWatchAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		results := []error{syscall.EMFILE, syscall.ENOBUFS, nil}
		var changes, failures []string
		start := time.Now()
		watchAgain(ctx, func(_ context.Context, f func(inventory.Event)) error {
			err := results[0]
			results = results[1:]
			if err != syscall.EMFILE {
				f(inventory.Event{})
				f(inventory.Event{Changes: []inventory.Change{{Text: fmt.Sprint("change ", len(results))}}})
			}
			return err
		}, func(why string) { changes = append(changes, why) }, func(err error) { failures = append(failures, err.Error()) })
		missed := "changes of the network may have gone unnoticed"
		require.Equal(t, []string{missed, "change 1", missed, "change 0"}, changes)
		require.Equal(t, []string{syscall.EMFILE.Error(), syscall.ENOBUFS.Error()}, failures)
		require.Equal(t, 2*watchPause, time.Since(start))

		// Nor is a system asked again that can't, nor anybody after the end.
		calls := 0
		watchAgain(ctx, func(context.Context, func(inventory.Event)) error {
			calls++
			return fmt.Errorf("watch: %w", errors.ErrUnsupported)
		}, nil, func(error) {})
		require.Equal(t, 1, calls)
		watchAgain(ctx, func(context.Context, func(inventory.Event)) error { calls++; return syscall.EMFILE }, nil, func(error) { cancel() })
		require.Equal(t, 2, calls)
		require.Equal(t, 2*watchPause, time.Since(start))
	})
}
