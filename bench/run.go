package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"time"

	"github.com/sockemu/sockemu/bench/internal/host"
)

// Limits of a worker's answers: far above what they take, so that only what hangs meets them.
const (
	setupTime = 60 * time.Second
	pinTime   = 10 * time.Second
	countTime = 60 * time.Second
	runSlack  = 30 * time.Second
)

// Run measures what cfg asks for. It returns as soon as ctx ends, with its error; the worker processes have ended whenever
// it returns. With an error there is a report as well if something had been measured before, which says that it isn't complete.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r, err := newRunner(&cfg)
	if err != nil {
		return nil, err
	}
	defer r.close()
	left := len(r.cases)
	for _, c := range r.cases {
		err := r.measure(ctx, c, r.share(left))
		if ctx.Err() != nil {
			err = context.Cause(ctx) // the rest is what became of that
		}
		if err != nil {
			err = fmt.Errorf("%s of %v bytes, placement %s: %w", c.op, c.size, c.placement, err)
			if len(r.report.Rows) == 0 {
				return nil, err
			}
			r.report.Notes = append(r.report.Notes, fmt.Sprintf("not complete: %d of %d cases were measured, then: %v", r.measured, len(r.cases), err))
			r.judge()
			return r.report, err
		}
		left--
	}
	if len(r.report.Rows) == 0 {
		return nil, fmt.Errorf("nothing could be measured: %s", r.report.Skipped[len(r.report.Skipped)-1])
	}
	r.judge()
	return r.report, nil
}

// A benchCase is measured by one pair of processes.
type benchCase struct {
	op        Op
	size      Size
	placement Placement
}

// runner is the coordinator: it starts the workers and asks them, and sleeps while they measure.
type runner struct {
	cfg        *Config
	lanes      []laneID // raw, the modes, and raw again
	cpus       []int
	congestion string // to pin; empty: none
	cable      *host.Cable
	cases      []benchCase
	deadline   time.Time     // zero: none
	overhead   time.Duration // of the last case, besides its rounds
	switched   int           // connections that had to be pinned after they were made
	measured   int           // cases
	short      int           // cases with less than goodRounds, for lack of time
	report     *Report
}

func newRunner(cfg *Config) (*runner, error) {
	transports, left, err := cfg.Registry.choose(cfg.Modes, cfg.Substrates)
	if err != nil {
		return nil, err
	}
	r := &runner{cfg: cfg, overhead: 300 * time.Millisecond}
	for _, t := range append(transports, transports[0]) {
		r.lanes = append(r.lanes, laneID{t.Name(), t.Substrate()})
	}
	if r.cpus, err = host.CPUs(); err != nil {
		return nil, err
	}
	shown := cfg.Congestion
	if shown == KeepCongestion {
		shown, err = host.DefaultCongestion()
	} else {
		shown, err = host.PickCongestion(shown)
		r.congestion = shown
	}
	if err != nil {
		return nil, err
	}
	r.report = &Report{
		Schema: Schema,
		Machine: Machine{
			CPU: host.CPUModel(), NCPU: len(r.cpus), Kernel: host.Kernel(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
			GOMAXPROCS: runtime.GOMAXPROCS(0), Congestion: shown, CoreDistance: r.coreDistance(), Load: host.LoadAverage(),
			Time: time.Now().UTC().Format(time.RFC3339),
		},
		Method:  Method{Rounds: cfg.Rounds, BlockUs: cfg.block().Microseconds(), Conns: cfg.connections(), Seed: cfg.Seed, NetNS: cfg.NetNS, Host: cfg.Host, Cold: cfg.Cold},
		Skipped: left,
	}
	r.plan()
	if cfg.Budget > 0 {
		r.deadline = time.Now().Add(cfg.Budget)
	}
	if cfg.NetNS {
		if r.cable, err = host.NewCable(); err != nil {
			return nil, fmt.Errorf("two network namespaces need root: %w", err)
		}
	}
	return r, nil
}

func (r *runner) close() {
	if r.cable != nil {
		r.cable.Close()
	}
}

// plan lists the cases that this machine can measure.
func (r *runner) plan() {
	for _, p := range r.cfg.Placements {
		if p == Two && len(r.cpus) < 2 {
			r.report.Skipped = append(r.report.Skipped, Skipped{Placement: p, Reason: "this process may use only one CPU"})
			continue
		}
		for _, op := range r.cfg.Ops {
			for _, size := range r.cfg.Sizes {
				r.cases = append(r.cases, benchCase{op, size, p})
			}
		}
	}
}

// places says where the two processes of a case run.
func (r *runner) places(p Placement) (server, client host.Place) {
	switch p {
	case Same:
		server.CPUs, client.CPUs = r.cpus[:1], r.cpus[:1]
	case Two:
		client.CPUs, server.CPUs = r.cpus[:1], r.cpus[1:2]
	}
	if r.cable != nil {
		client.Namespace, server.Namespace = r.cable.A, r.cable.B
	}
	return server, client
}

// listenAt is the address that servers listen at.
func (r *runner) listenAt() string {
	if r.cable != nil {
		return net.JoinHostPort(r.cable.B.Addr().String(), "0")
	}
	return net.JoinHostPort(cmp.Or(r.cfg.Host, loopback), "0")
}

// loopback is where servers listen if nothing else is said.
const loopback = "127.0.0.1"

// coreDistance is that of the first two CPUs in ns, 0 if it can't be measured.
func (r *runner) coreDistance() int64 {
	if len(r.cpus) < 2 {
		return 0
	}
	d, err := host.CoreDistance(r.cpus[0], r.cpus[1])
	if err != nil {
		r.cfg.log().Debug("core distance unknown", "err", err)
	}
	return d.Nanoseconds()
}

// share is the time that the rounds of the next case may take, with left cases to go; 0: no bound.
func (r *runner) share(left int) time.Duration {
	if r.deadline.IsZero() {
		return 0
	}
	return max(time.Until(r.deadline)/time.Duration(left)-r.overhead, 1)
}

// measure measures one case and adds its rows to the report.
func (r *runner) measure(ctx context.Context, c benchCase, budget time.Duration) (err error) {
	began := time.Now()
	distance := r.coreDistance()
	serverPlace, clientPlace := r.places(c.placement)
	server, err := start(ctx, RoleServer, r.cfg.Command(RoleServer), serverPlace)
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, server.end()) }()
	client, err := start(ctx, RoleClient, r.cfg.Command(RoleClient), clientPlace)
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, client.end()) }()

	if err := r.connect(ctx, c, server, client); err != nil {
		return err
	}
	roundsBegan := time.Now()
	limit := 10*time.Duration(r.cfg.Rounds*len(r.lanes))*r.cfg.block() + runSlack
	var res runResult
	if err := client.call(ctx, limit, kindRun, run{Rounds: r.cfg.Rounds, Budget: int64(budget), Seed: r.cfg.Seed}, &res); err != nil {
		return err
	}
	rounds := time.Since(roundsBegan)
	if len(res.Lanes) != len(r.lanes) {
		return fmt.Errorf("figures of %d connections, want %d", len(res.Lanes), len(r.lanes))
	}
	if res.Rounds < min(goodRounds, r.cfg.Rounds) {
		r.short++
	}
	rows := r.rows(c, res)
	for i := range rows {
		rows[i].CoreNs = distance
		if err := countCosts(ctx, server, client, i, &rows[i]); err != nil {
			return err
		}
	}
	for i := range rows {
		if rows[0].CPUUs > 0 {
			rows[i].CPURaw = round(rows[i].CPUUs/rows[0].CPUUs, 4)
		}
	}
	r.report.Rows = append(r.report.Rows, rows...)
	r.measured++
	r.overhead = time.Since(began) - rounds
	r.cfg.log().Debug("measured", "op", c.op, "size", c.size, "placement", c.placement, "rounds", res.Rounds,
		"took", time.Since(began).Round(time.Millisecond), "raw_p50_us", rows[0].P50Us, "raw_mb_s", rows[0].MBs, "aa", rows[0].AARatio)
	return nil
}

// firstError prefers the error that came first: that a worker ended badly is only news if nothing else went wrong.
func firstError(err, later error) error {
	if err != nil {
		return err
	}
	return later
}

// connect makes and warms up the connections of a case.
func (r *runner) connect(ctx context.Context, c benchCase, server, client *process) error {
	s := setup{
		Op: c.op, Size: c.size, Lanes: r.lanes, Conns: r.cfg.connections(), Listen: r.listenAt(), Congestion: r.congestion,
		Block: int64(r.cfg.block()), Cold: r.cfg.Cold,
	}
	var at ready
	if err := server.call(ctx, setupTime, kindSetup, s, &at); err != nil {
		return err
	}
	s.Addresses = at.Addresses
	if err := client.call(ctx, setupTime, kindSetup, s, &at); err != nil {
		return err
	}
	for _, p := range []*process{server, client} {
		var pin pinned
		if err := p.call(ctx, pinTime, kindPin, nil, &pin); err != nil {
			return err
		}
		r.switched += pin.Switched
	}
	return nil
}

// countCosts counts what both processes allocate and how long they use processors, per operation on one lane.
func countCosts(ctx context.Context, server, client *process, lane int, row *Row) error {
	before, err := server.counters(ctx)
	if err != nil {
		return err
	}
	var res allocsResult
	if err := client.call(ctx, countTime, kindAllocs, allocs{lane}, &res); err != nil {
		return err
	}
	after, err := server.counters(ctx)
	if err != nil {
		return err
	}
	if res.Ops == 0 {
		return errors.New("no operations to count costs over")
	}
	d := after.sub(before)
	n := float64(res.Ops)
	row.AllocsOp = round(float64(res.Objects+d.Objects)/n, 4)
	row.BytesOp = round(float64(res.Bytes+d.Bytes)/n, 2)
	row.CPUUs = round(float64(res.CPU+d.CPU)/n/1e3, 4)
	return nil
}

// rows turns the timing of one case into rows, one for each lane but the control.
func (r *runner) rows(c benchCase, res runResult) []Row {
	raw, control := res.Lanes[0], res.Lanes[len(res.Lanes)-1]
	aa := r.compare(c.op, control.Blocks, raw.Blocks)
	aaMean := r.compare(c.op, control.Means, raw.Means)
	moved := float64(c.size)
	if c.op == RTT {
		moved *= 2
	}
	var rows []Row
	for i, l := range res.Lanes[:len(res.Lanes)-1] {
		s := r.compare(c.op, l.Blocks, raw.Blocks)
		mean := r.compare(c.op, l.Means, raw.Means)
		rows = append(rows, Row{
			Op: c.op, Mode: r.lanes[i].Mode, Substrate: r.lanes[i].Substrate, Placement: c.placement, Size: c.size,
			N: l.Ops, Rounds: res.Rounds,
			P50Us: round(l.P50/1e3, 3), P99Us: round(l.P99/1e3, 3), MBs: round(moved/Median(l.Means)*1e3, 3),
			RatioRaw: s.Median, RatioQ1: s.Q1, RatioQ3: s.Q3, RatioLo: s.Lo, RatioHi: s.Hi, RatioMean: mean.Median,
			AARatio: aa.Median, AAQ1: aa.Q1, AAQ3: aa.Q3, AALo: aa.Lo, AAHi: aa.Hi, AAMean: aaMean.Median,
		})
	}
	return rows
}

// compare summarizes the ratios, round by round, of a lane's times to those of raw; or for BW of its rates.
func (r *runner) compare(op Op, lane, raw []float64) Summary {
	if op == BW {
		lane, raw = raw, lane
	}
	var q []float64
	for i := range min(len(lane), len(raw)) {
		q = append(q, lane[i]/raw[i])
	}
	s := Summarize(q, r.cfg.connections(), r.cfg.Seed)
	for _, f := range []*float64{&s.Median, &s.Q1, &s.Q3, &s.Lo, &s.Hi} {
		*f = round(*f, 4)
	}
	return s
}

// round rounds x to a number of decimals: more would be noise, and digits to read.
func round(x float64, decimals int) float64 {
	p := math.Pow10(decimals)
	return math.Round(x*p) / p
}
