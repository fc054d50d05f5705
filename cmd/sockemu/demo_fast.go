package main

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sockemu/sockemu/selector"
	shm "github.com/sockemu/sockemu/substrate_shm"
)

// The last part of the demo: the same connection may use shared memory, moves there by itself, is thrown off it, goes on over TCP, and
// comes back when shared memory has proved itself again.

// fastStep says how far that has come.
type fastStep uint8

const (
	fastIdle    fastStep = iota // not begun
	fastSettle                  // no cuts any more
	fastQuiet                   // how fast is TCP?
	fastUp                      // both ends admit shared memory; waiting for the move
	fastRate                    // moved: how fast is it?
	fastFailed                  // the server admits it no more; waiting for TCP
	fastTCP                     // back on TCP, for a moment
	fastWaiting                 // admitted again; waiting for the return
	fastDone
)

const (
	rateTime = 500 * time.Millisecond
	// fastTime bounds the wait for a move; the return takes three rounds of measurements, a second apart.
	fastTime = time.Minute
)

type fastStage struct {
	step  fastStep
	since time.Time
	bytes uint64
}

// fastResult is what came of it.
type fastResult struct {
	Missing    string  `json:"missing,omitempty"` // why there is no shared memory here; then nothing below is filled in
	TCPRate    float64 `json:"tcp_mb_s"`          // of both directions together, hashing and verification included
	SHMRate    float64 `json:"shm_mb_s"`
	Choice     string  `json:"choice"`      // the decision, with the figures it was made on
	Moves      int     `json:"moves"`       // to shared memory
	Failovers  int     `json:"failovers"`   // from there to TCP
	FailoverMS float64 `json:"failover_ms"` // the longest time without a byte while that happened
}

// substrateVar is the environment variable that says which substrates the demo may use, as for any program with the library.
const substrateVar = "SOCKEMU_SUBSTRATE"

// noSHM says why shared memory can't be had, "" if it can.
func noSHM() string {
	if p, err := selector.ParsePolicy(os.Getenv(substrateVar)); err != nil || !p.Allows("shm") { // Run has looked at err
		return substrateVar + " does not admit it"
	}
	dir, err := os.MkdirTemp("", "sockemu-demo")
	if err != nil {
		return err.Error()
	}
	defer os.RemoveAll(dir)
	// All that it takes, memory, too: a container may refuse each part of it.
	s := shm.New(shm.Options{Dir: dir})
	l, err := s.Listen(context.Background(), filepath.Join(dir, "try"))
	if err != nil {
		return err.Error()
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		if link, err := l.Accept(); err == nil {
			link.Close()
		}
	})
	defer accepting.Wait()
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), setUpTime)
	defer cancel()
	link, err := s.Dial(ctx, l.Addr().String())
	if err != nil {
		return err.Error()
	}
	link.Close()
	return ""
}

// pace slows both ends' streams down while paths are to be measured, or stops that: at full speed they take all the time of two
// processors, and every path looks as slow as the scheduler.
func (r *demoRun) pace(command string) {
	r.client.command(command)
	r.server.command(command)
}

// fastStep goes one step on if it is time for it. It reports whether the last one has been taken.
func (r *demoRun) fastStep() bool {
	f := &r.fast
	st := r.snapshot()
	moved := st.Client.Received + st.Server.Received
	both := func(substrate string) bool {
		return st.Client.Substrate == substrate && st.Server.Substrate == substrate
	}
	next := func(step fastStep) {
		f.step, f.since, f.bytes = step, time.Now(), moved
	}
	rate := func() float64 { return float64(moved-f.bytes) / 1e6 / time.Since(f.since).Seconds() }
	switch f.step {
	case fastIdle, fastDone:
		return false
	case fastSettle:
		if f.since.IsZero() {
			if why := noSHM(); why != "" {
				r.update(func(st *demoState) { st.Fast.Missing = why })
				r.log(false, "no shared memory here: %s", why)
				f.step = fastDone
				return true
			}
			next(fastSettle)
		} else if time.Since(f.since) >= rateTime && both("tcp") {
			next(fastQuiet)
		}
	case fastQuiet:
		if time.Since(f.since) < rateTime {
			return false
		}
		v := rate()
		r.update(func(st *demoState) { st.Fast.TCPRate = v })
		r.phase(phaseFast)
		r.log(false, "shared memory is admitted from now on; both ends write slowly until they use it, so that it can be measured")
		r.pace(nodePace)
		r.client.command(nodeAny)
		r.server.command(nodeAny)
		next(fastUp)
	case fastUp:
		if both("shm") && st.Client.Choice != "" {
			r.update(func(st *demoState) { st.Fast.Moves++; st.Fast.Choice = st.Client.Choice })
			r.log(false, "moved to shared memory, %s after", seconds(time.Since(f.since)))
			r.pace(nodeFull)
			next(fastRate)
		}
	case fastRate:
		if time.Since(f.since) < rateTime {
			return false
		}
		v := rate()
		r.update(func(st *demoState) { st.Fast.SHMRate = v })
		r.phase(phaseFail)
		r.log(false, "the server drops its link of shared memory and refuses new ones")
		r.client.command(nodeMark)
		r.server.command(nodeMark)
		r.server.command(nodeNoSHM)
		next(fastFailed)
	case fastFailed:
		if both("tcp") {
			next(fastTCP)
		}
	case fastTCP:
		if time.Since(f.since) < rateTime {
			return false
		}
		gap := max(st.Client.MarkedGap, st.Server.MarkedGap)
		r.update(func(st *demoState) {
			st.Fast.Failovers++
			st.Fast.FailoverMS = float64(gap.Microseconds()) / 1000
		})
		r.phase(phaseReturn)
		r.log(false, "back on TCP: %.1f ms without a byte; shared memory is admitted again, and both ends write slowly until then", float64(gap.Microseconds())/1000)
		r.pace(nodePace)
		r.server.command(nodeAny)
		next(fastWaiting)
	case fastWaiting:
		if both("shm") {
			r.update(func(st *demoState) { st.Fast.Moves++ })
			r.log(false, "returned to shared memory, %s after", seconds(time.Since(f.since)))
			r.pace(nodeFull)
			r.phase(phaseStream)
			f.step = fastDone
			return true
		}
	}
	if time.Since(f.since) > fastTime {
		r.log(false, "this takes too long")
		f.step = fastDone
		return true
	}
	return false
}
