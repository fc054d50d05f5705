package activemsg

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/substrate/fault"
)

// A Rig is a path for a traffic.
type Rig struct {
	A, B  Carrier
	Cut   func()       // parts the ends without telling them; nil: the carrier has no such thing
	Check func() error // at the end, if not nil
}

// Rigs make them, by name. A test outside of the package adds one.
var Rigs = map[string]func(t *testing.T, seed uint64, payload, slots int, delay time.Duration) Rig{
	"pipe": func(t *testing.T, seed uint64, payload, slots int, delay time.Duration) Rig {
		a, b := Pipe(PipeConfig{Payload: payload, Slots: slots})
		return Rig{A: a, B: b}
	},
	"framed": func(t *testing.T, seed uint64, payload, slots int, delay time.Duration) Rig {
		// Hardly more than the carrier says that a link holds.
		n := fault.New(fault.Config{Seed: seed, Buffer: 10 << 10})
		t.Cleanup(func() { n.Close() })
		n.All().Shape(fault.Both, fault.Shape{Delay: delay})
		l, err := n.Host("b").Listen(t.Context(), "b:1")
		require.NoError(t, err)
		la, err := n.Host("a").Dial(t.Context(), "b:1")
		require.NoError(t, err)
		lb, err := l.Accept()
		require.NoError(t, err)
		c := FramedConfig{Payload: payload, Slots: slots}
		a, b := framedOver(t, la, lb, c, c)
		return Rig{A: a, B: b, Cut: func() { n.All().Blackhole(fault.Both, true) }}
	},
}

// rig makes the path, with its faults.
func (tr *traffic) rig(t *testing.T) Rig {
	r := Rigs[tr.Carrier](t, tr.Seed, tr.Payload, ControlSlots+tr.Slots, tr.Delay)
	tr.faults = &faults{kind: tr.Break, after: tr.After, delay: tr.Delay, cut: r.Cut}
	var ab, ba meter
	r.A, r.B = tr.faults.wrap(r.A, tr.Seed, &ab, &ba), tr.faults.wrap(r.B, tr.Seed+1, &ba, &ab)
	return r
}

// faults is what goes wrong at both ends of a path.
type faults struct {
	kind  string
	delay time.Duration
	cut   func()

	mu    sync.Mutex
	after int // calls to go
	off   bool
	at    time.Time // of the break
}

func (f *faults) broken() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.at.IsZero()
}

func (f *faults) silent() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kind == "silence" && !f.at.IsZero()
}

// disarm prevents a break that has not come yet, and reports whether it has.
func (f *faults) disarm() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off = true
	return !f.at.IsZero()
}

// call counts one and returns what is to go wrong.
func (f *faults) call(place bool) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kind == "" || f.off && f.at.IsZero() {
		return ""
	}
	if !f.at.IsZero() {
		if f.kind == "silence" {
			return f.kind
		}
		return "" // it happens once
	}
	if f.after--; f.after > 0 || place != (f.kind == "place") {
		return ""
	}
	if f.kind == "cut" && f.cut == nil {
		f.kind = "silence"
	}
	f.at = time.Now()
	if f.kind == "cut" {
		f.cut()
	}
	return f.kind
}

// A meter counts the slots of one direction that are in use.
type meter struct{ control, data atomic.Int32 }

func (f *faults) wrap(c Carrier, seed uint64, out, in *meter) Carrier {
	u := &unsound{Carrier: c, f: f, out: out, in: in, sends: rand.New(rand.NewPCG(seed, 4)), recvs: rand.New(rand.NewPCG(seed, 5))}
	if p, ok := c.(Placer); ok {
		return &unsoundPlacer{u, p}
	}
	return u
}

// An unsound carrier has faults. It is a Batcher.
type unsound struct {
	Carrier
	f            *faults
	out, in      *meter
	sends, recvs *rand.Rand
}

var errCable = errors.New("somebody pulled the cable")

var errTooMany = &substrate.Error{Class: substrate.Config, Err: errors.New("more segments than there are slots for")}

// count proves that there are no more segments of either kind under way than slots for it.
func (u *unsound) count(head *[HeaderLen]byte) error {
	if head[1]&flagControl != 0 {
		if u.out.control.Add(1) > ControlSlots {
			return errTooMany
		}
	} else if u.out.data.Add(1) > int32(dataSlots(u.Limits())) {
		return errTooMany
	}
	return nil
}

func (u *unsound) Done(s *Segment) {
	if s.Head[1]&flagControl != 0 {
		u.in.control.Add(-1)
	} else {
		u.in.data.Add(-1)
	}
	u.Carrier.Done(s)
}

func (u *unsound) Send(head *[HeaderLen]byte, payload [][]byte) error {
	if u.f.delay > 0 && u.sends.IntN(8) == 0 {
		time.Sleep(time.Duration(u.sends.Int64N(int64(u.f.delay))))
	}
	switch u.f.call(false) {
	case "error":
		return errCable
	case "silence":
		return nil
	case "close":
		u.Carrier.Close()
	}
	if err := u.count(head); err != nil {
		return err
	}
	return u.Carrier.Send(head, payload)
}

func (u *unsound) SendBatch(batch []Segment) error {
	for i := range batch {
		if b, ok := u.Carrier.(Batcher); ok && i == 0 {
			if kind := u.f.call(false); kind == "silence" {
				return nil
			} else if kind != "" && kind != "cut" {
				return errCable
			}
			for i := range batch {
				if err := u.count(&batch[i].Head); err != nil {
					return err
				}
			}
			return b.SendBatch(batch)
		}
		if err := u.Send(&batch[i].Head, [][]byte{batch[i].Payload}); err != nil {
			return err
		}
	}
	return nil
}

func (u *unsound) Recv(batch []Segment) (int, error) {
	for {
		n, err := u.Carrier.Recv(batch[:1+u.recvs.IntN(len(batch))])
		if u.f.delay > 0 && u.recvs.IntN(4) == 0 {
			time.Sleep(time.Duration(u.recvs.Int64N(int64(u.f.delay))))
		}
		if !u.f.silent() || err != nil {
			return n, err
		}
		for i := range n {
			u.Done(&batch[i])
		}
	}
}

// unsoundPlacer is one that can place.
type unsoundPlacer struct {
	*unsound
	p Placer
}

// Alloc returns memory that can be exposed.
func (u *unsoundPlacer) Alloc(n int) ([]byte, error) {
	if c, ok := u.p.(interface{ Alloc(n int) ([]byte, error) }); ok {
		return c.Alloc(n)
	}
	return make([]byte, n), nil
}

func (u *unsoundPlacer) Expose(buf []byte) (Key, error) { return u.p.Expose(buf) }
func (u *unsoundPlacer) Hide(k Key)                     { u.p.Hide(k) }

func (u *unsoundPlacer) Place(k Key, payload [][]byte) error {
	if kind := u.f.call(true); kind == "silence" {
		return nil
	} else if kind == "place" {
		return errCable
	}
	return u.p.Place(k, payload)
}
