package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockemu/sockemu/internal/relay"
)

const (
	// setUpTime bounds the start of both processes and of their connection, finishTime what follows when the time is up.
	setUpTime  = 20 * time.Second
	finishTime = 90 * time.Second
	// outageEvery is the mean time between two outages, outageTime how long one lasts.
	outageEvery = 3500 * time.Millisecond
	outageTime  = time.Second
	// logKept bounds the log.
	logKept = 1000
)

// The phases of a demo, as shown.
const (
	phasePlain   = "plain TCP, for comparison"
	phaseStart   = "starting the two processes"
	phaseStream  = "streaming through cuts"
	phaseReplace = "replacing the server process"
	phaseFast    = "moving to shared memory"
	phaseFail    = "shared memory fails"
	phaseReturn  = "waiting for shared memory to prove itself again"
	phaseFinish  = "finishing"
	phaseOver    = "over"
)

// demoState is what a demo shows while it runs; a copy is handed to the views.
type demoState struct {
	Phase          string
	Elapsed, Total time.Duration
	Client, Server nodeEvent // the last of each
	Cuts           uint64
	Outages        int
	Plain          plainResult
	Replacements   int
	Fast           fastResult
	Log            []logLine
	Logged         int // lines ever logged; Log holds the last ones
}

// A logLine is one event. Minor ones are shown only where there is room.
type logLine struct {
	At    time.Duration
	Text  string
	Minor bool
}

// A demoRun is one demo. One goroutine, that of run, drives it; the views read snapshots.
type demoRun struct {
	cmd    *demoCmd
	errs   io.Writer // gets what the processes log
	rnd    *rand.Rand
	relay  *relay.Relay
	target atomic.Pointer[string]
	events chan childEvent
	quit   chan struct{}

	client, server *child
	pids           demoPIDs
	gid            string
	plainCuts      uint64 // what the relay had cut before the stream began
	outages        int    // how many there were; they alternate in kind
	fast           fastStage
	timeUp         bool
	stopSent       bool

	mu    sync.Mutex
	st    demoState // guarded by mu
	began time.Time // of the stream; zero before
	start time.Time // of the demo
}

func newDemoRun(c *demoCmd, errs io.Writer) (*demoRun, error) {
	r := &demoRun{
		cmd: c, errs: errs, rnd: rand.New(rand.NewPCG(c.Seed, 0)), events: make(chan childEvent, 64), quit: make(chan struct{}),
		pids: demoPIDs{Demo: os.Getpid()}, start: time.Now(), st: demoState{Total: c.Time},
	}
	none := ""
	r.target.Store(&none)
	var err error
	r.relay, err = relay.StartFunc(func(uint64) string { return *r.target.Load() })
	return r, err
}

// run runs the demo and leaves no process behind.
func (r *demoRun) run(ctx context.Context) *verdict {
	err := r.drive(ctx)
	close(r.quit)
	for _, c := range []*child{r.client, r.server} {
		if c != nil {
			c.stop()
		}
	}
	r.relay.Close()
	r.phase(phaseOver)
	st := r.snapshot()
	v := &verdict{
		BytesUp: st.Server.Received, BytesDown: st.Client.Received, SHA256Up: st.Server.ReceivedSum, SHA256Down: st.Client.ReceivedSum,
		Cuts: st.Cuts, Outages: st.Outages, LinksLost: st.Client.Lost + st.Server.Lost, Replayed: st.Client.Replayed + st.Server.Replayed,
		Replacements: st.Replacements, Fast: st.Fast, LongestGapMS: float64(max(st.Client.Gap, st.Server.Gap).Microseconds()) / 1000,
		Seconds: st.Elapsed.Seconds(), Seed: r.cmd.Seed, GID: r.gid, PIDs: r.pids, PlainTCP: st.Plain,
	}
	v.judge(&st, err)
	return v
}

// drive goes through the phases. It returns when the stream has ended well, or can't.
func (r *demoRun) drive(ctx context.Context) error {
	r.phase(phasePlain)
	plain, err := plainTCP(ctx, r.relay, func(a string) { r.target.Store(&a) }, min(r.cutDelay(), time.Second), r.cmd.Size)
	if err != nil {
		return fmt.Errorf("plain TCP: %w", err)
	}
	r.plainCuts = r.relay.Stats().Cuts
	r.update(func(st *demoState) { st.Plain = plain })
	r.log(false, "plain TCP %s", plain)

	r.phase(phaseStart)
	watchdog := time.NewTimer(setUpTime)
	defer watchdog.Stop()
	if r.server, err = startChild("server", "127.0.0.1:0", r.cmd, r.errs, r.events, r.quit); err != nil {
		return err
	}
	// These begin when the stream flows.
	cut, outage, replace, end := unset(), unset(), unset(), unset()
	defer stopAll(cut, outage, replace, end)
	for {
		select {
		case <-ctx.Done():
			return errors.New("interrupted")
		case <-watchdog.C:
			return fmt.Errorf("no progress within the time allowed while %s", r.snapshot().Phase)
		case ev := <-r.events:
			flowing := r.flowing()
			over, err := r.handle(ev)
			if over || err != nil {
				return err
			}
			if !flowing && r.flowing() {
				r.mu.Lock()
				r.began = time.Now()
				r.mu.Unlock()
				r.phase(phaseStream)
				cut.Reset(r.cutDelay())
				outage.Reset(min(r.spread(outageEvery/2), r.cmd.Time/4))
				replace.Reset(r.cmd.Time * 2 / 5)
				end.Reset(r.cmd.Time)
				watchdog.Reset(r.cmd.Time + finishTime)
			}
		case <-cut.C:
			if r.fast.step != fastIdle && r.fast.step != fastDone {
				cut.Reset(r.cutDelay()) // one thing after the other
				continue
			}
			if n := r.relay.CutAll(); n > 0 {
				r.log(true, "cut %d TCP connection%s", n, plural(n))
				r.countCuts()
			}
			cut.Reset(r.cutDelay())
		case <-outage.C:
			d := min(outageTime, r.cmd.Time/5)
			if r.fast.step != fastIdle || r.snapshot().Elapsed+2*d > r.cmd.Time {
				continue // it would only delay the end
			}
			r.outage(d)
			cut.Reset(d + r.cutDelay())
			outage.Reset(d + r.spread(outageEvery))
		case <-replace.C:
			r.phase(phaseReplace)
			r.log(false, "server process %d is told to hand over to a new one", r.pids.Server)
			r.server.command(nodeUpgrade)
		case <-end.C:
			stopAll(cut, outage)
			r.timeUp = true
			r.finish()
		}
	}
}

// flowing reports whether both ends have joined the connection.
func (r *demoRun) flowing() bool { return r.pids.Client != 0 && r.pids.Server != 0 && r.gid != "" }

// handle takes in one event. It reports whether the demo is over.
func (r *demoRun) handle(ev childEvent) (over bool, err error) {
	if ev.Ev == "" {
		if r.done(ev.role) {
			return false, nil
		}
		return false, fmt.Errorf("the %s process went away", ev.role)
	}
	if ev.Ev == evFailed {
		return false, fmt.Errorf("the %s: %s", ev.role, ev.Err)
	}
	r.update(func(st *demoState) {
		if ev.role == "client" {
			st.Client = ev.nodeEvent
		} else if ev.Ev != evHanded { // its successor may have spoken already
			st.Server = ev.nodeEvent
		}
	})
	switch ev.Ev {
	case evReady:
		r.target.Store(&ev.Addr)
		r.client, err = startChild("client", r.relay.Addr(), r.cmd, r.errs, r.events, r.quit)
	case evJoined:
		err = r.joined(ev)
	case evStats:
		if r.fastStep() {
			r.finish()
		}
	case evDone:
		over = r.done("client") && r.done("server")
	}
	return over, err
}

// done reports whether that end has finished well.
func (r *demoRun) done(role string) bool {
	st := r.snapshot()
	if role == "client" {
		return st.Client.Ev == evDone
	}
	return st.Server.Ev == evDone
}

// joined notes that a process has the connection now: a first one, or a replacement.
func (r *demoRun) joined(ev childEvent) error {
	switch {
	case r.gid == "":
		r.gid = ev.GID
	case r.gid != ev.GID:
		return fmt.Errorf("the %s has connection %s, want %s", ev.role, ev.GID, r.gid)
	}
	switch {
	case ev.role == "client":
		r.pids.Client = ev.PID
	case r.pids.Server == 0:
		r.pids.Server = ev.PID
	case ev.PID == r.pids.Server:
		return errors.New("the server process joined twice")
	default:
		r.pids.Replacement = ev.PID
		if err := r.server.replaced(ev.PID); err != nil {
			return err
		}
		r.log(false, "process %d has taken over the connection at byte %s up, %s down", ev.PID, grouped(ev.Received), grouped(ev.Sent))
		// Commands go to whoever reads the pipe: the old process must be gone before the next one.
		select {
		case err := <-r.server.exited:
			r.server.exited <- err
			if err != nil {
				return fmt.Errorf("the old server process: %w", err)
			}
		case <-time.After(finishTime):
			return errors.New("the old server process doesn't exit")
		}
		r.update(func(st *demoState) { st.Replacements++ })
		r.phase(phaseStream)
		r.fast.step = fastSettle
		r.finish()
	}
	return nil
}

// finish tells both ends to stop, once the time is up, the replacement is there, and shared memory has been shown.
func (r *demoRun) finish() {
	if !r.timeUp || r.pids.Replacement == 0 || r.fast.step != fastDone || r.stopSent {
		return
	}
	r.stopSent = true
	r.phase(phaseFinish)
	r.client.command(nodeStop)
	r.server.command(nodeStop)
}

// outage cuts everything and leaves no way through for d; every other one refuses connections, the rest swallow them.
func (r *demoRun) outage(d time.Duration) {
	if r.outages%2 == 0 {
		r.relay.Outage(d)
		r.log(false, "outage of %s: everything cut, new connections refused", seconds(d))
	} else {
		r.relay.Blackhole(d)
		r.log(false, "outage of %s: everything cut, new connections hang", seconds(d))
	}
	r.outages++
	r.countCuts()
	r.update(func(st *demoState) { st.Outages = r.outages })
}

// countCuts shows what the relay has cut since the plain connection, which doesn't count.
func (r *demoRun) countCuts() {
	n := r.relay.Stats().Cuts - r.plainCuts
	r.update(func(st *demoState) { st.Cuts = n })
}

// cutDelay is the time until the next cut.
func (r *demoRun) cutDelay() time.Duration { return r.spread(r.cmd.CutEvery) }

// spread returns a random time, evenly between half of mean and one and a half of it.
func (r *demoRun) spread(mean time.Duration) time.Duration {
	return mean/2 + time.Duration(r.rnd.Int64N(int64(mean)))
}

func (r *demoRun) update(f func(*demoState)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.st)
}

func (r *demoRun) phase(p string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p == phaseOver {
		r.st.Elapsed = r.elapsedLocked()
	}
	r.st.Phase = p
}

// log adds a line to the log.
func (r *demoRun) log(minor bool, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.st.Log) == logKept {
		r.st.Log = append(r.st.Log[:0:0], r.st.Log[logKept/2:]...)
	}
	r.st.Log = append(r.st.Log, logLine{At: time.Since(r.start), Text: fmt.Sprintf(format, args...), Minor: minor})
	r.st.Logged++
}

// snapshot returns the state of now. Its log is shared, and only ever appended to.
func (r *demoRun) snapshot() demoState {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.st
	if st.Phase != phaseOver {
		st.Elapsed = r.elapsedLocked()
	}
	return st
}

// elapsedLocked is how long the stream has been running.
func (r *demoRun) elapsedLocked() time.Duration {
	if r.began.IsZero() {
		return 0
	}
	return time.Since(r.began)
}

// unset returns a timer that doesn't run yet.
func unset() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func stopAll(timers ...*time.Timer) {
	for _, t := range timers {
		t.Stop()
	}
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}
