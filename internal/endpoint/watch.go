package endpoint

import (
	"context"
	"errors"
	"time"

	"github.com/sockemu/sockemu/internal/inventory"
)

// watchPause is how long after a failure to watch the network it is tried again: a process without free descriptors gets some, a kernel under
// load answers again.
const watchPause = 30 * time.Second

// watch has the paths measured again when the host's interfaces, addresses or routes change.
func (e *Endpoint) watch() {
	told := false
	watchAgain(e.ctx, inventory.Watch, e.Remeasure, func(err error) {
		if !told {
			told = true
			e.log.Debug("changes of the network are not noticed", "err", err)
		}
	})
}

// watchAgain calls watch until ctx ends, or for good where the system can't do it. changed is told what has changed, also that something may
// have while nobody looked.
func watchAgain(ctx context.Context, watch func(context.Context, func(inventory.Event)) error, changed func(why string), failed func(error)) {
	for missed := false; ; missed = true {
		err := watch(ctx, func(ev inventory.Event) {
			switch {
			case len(ev.Changes) > 0:
				changed(ev.Changes[0].Text)
			case missed: // the first event: from now on nothing is missed any more
				changed("changes of the network may have gone unnoticed")
			}
		})
		if err == nil || ctx.Err() != nil {
			return
		}
		failed(err)
		if errors.Is(err, errors.ErrUnsupported) {
			return
		}
		t := time.NewTimer(watchPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}
