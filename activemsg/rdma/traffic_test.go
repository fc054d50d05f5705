package rdma

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/verbs/sim"
	"github.com/sockemu/sockemu/substrate"
)

// A traffic is what two endpoints do to each other over a simulated network that delays, loses and breaks, in virtual time.
type traffic struct {
	Net     sim.Config
	Conn    [2]ConnConfig
	Manual  bool
	Senders [2]int
	Ops     int // of each sender
	Break   string
	After   time.Duration

	net *sim.Network
	end [2]*station
}

func drawTraffic(t *rapid.T) *traffic {
	us := func(name string, from ...int) time.Duration {
		return time.Duration(rapid.SampledFrom(from).Draw(t, name)) * time.Microsecond
	}
	conn := func(name string) ConnConfig {
		return ConnConfig{
			Payload:   rapid.SampledFrom([]int{64, 65, 300, 2000, 5000}).Draw(t, name+"payload"),
			Slots:     activemsg.ControlSlots + rapid.SampledFrom([]int{1, 2, 3, 4, 16, 100}).Draw(t, name+"slots"),
			SendSlots: rapid.SampledFrom([]int{2, 3, 8, 32}).Draw(t, name+"send"),
			Strict:    rapid.Bool().Draw(t, name+"strict"),
		}
	}
	return &traffic{
		Net: sim.Config{
			Seed: rapid.Uint64().Draw(t, "seed"), Delay: us("delay", 0, 0, 1, 20, 2000), Jitter: us("jitter", 0, 0, 5, 500),
			LateWrites: rapid.Bool().Draw(t, "late"),
			Lose:       rapid.SampledFrom([]float64{0, 0, 0.02}).Draw(t, "lose"),
			Fail:       rapid.SampledFrom([]float64{0, 0, 0, 0.01}).Draw(t, "fail"),
		},
		Conn:    [2]ConnConfig{conn("A"), conn("B")},
		Manual:  rapid.Bool().Draw(t, "manual"),
		Senders: [2]int{rapid.IntRange(0, 3).Draw(t, "sendersA"), rapid.IntRange(0, 3).Draw(t, "sendersB")},
		Ops:     rapid.IntRange(1, 40).Draw(t, "ops"),
		Break:   rapid.SampledFrom([]string{"", "", "", "cut", "link", "remove", "kill", "error", "close"}).Draw(t, "break"),
		After:   us("after", 0, 1, 10, 100, 1000, 5000),
	}
}

// TestTraffic: over a path that holds, messages arrive once, whole, in order, and buffers are filled; none ever finds no receive posted, whatever
// happens; and after a break everybody is told within a second, by an error of a class that fits.
//
//	go test ./activemsg/rdma -run TestTraffic -rapid.checks=10000
func TestTraffic(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tr := drawTraffic(rt)
		var err error
		synctest.Test(t, func(t *testing.T) { err = tr.run() })
		if err != nil {
			rt.Fatalf("%v\n%+v", err, *tr)
		}
	})
}

// A station is one end.
type station struct {
	tr      *traffic
	adapter *Adapter
	carrier *Carrier
	ep      *activemsg.Endpoint
	peer    *station

	mu       sync.Mutex
	problems []error
	quick    [4]uint64 // by sender of the peer: handled
	sent     [4]uint64
	streams  map[uint64]bool // of the peer: handled
	mine     map[uint64]bool // sent well
	posts    map[uint64][]byte
	placed   map[uint64]int
}

func (s *station) problem(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, fmt.Errorf(format, args...))
}

func (s *station) handlers() *activemsg.Handlers {
	var h activemsg.Handlers
	for i := range s.quick {
		h.Quick(uint8(10+i), func(m *activemsg.Msg) {
			n := m.Args()[0]
			s.mu.Lock()
			defer s.mu.Unlock()
			if n != s.quick[i] {
				s.problems = append(s.problems, fmt.Errorf("message %d of sender %d came instead of %d", n, i, s.quick[i]))
			}
			s.quick[i]++
		})
	}
	h.Stream(1, func(in *activemsg.In) {
		b, err := io.ReadAll(in)
		if err != nil {
			return
		}
		number := binary.LittleEndian.Uint64(b)
		if string(b[8:]) != string(pattern(len(b)-8, byte(number))) {
			s.problem("message %d is damaged", number)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.streams[number] {
			s.problems = append(s.problems, fmt.Errorf("message %d came twice", number))
		}
		s.streams[number] = true
	})
	return &h
}

func (tr *traffic) open() error {
	tr.net = sim.New(tr.Net)
	var conns [2]*Conn
	for i := range tr.end {
		s := &station{tr: tr, streams: map[uint64]bool{}, mine: map[uint64]bool{}, posts: map[uint64][]byte{}, placed: map[uint64]int{}}
		tr.end[i] = s
		d, err := tr.net.Host(fmt.Sprint(i)).Open(sim.DeviceName)
		if err != nil {
			return err
		}
		if s.adapter, err = Open(d, Config{}); err != nil {
			return err
		}
		if conns[i], err = s.adapter.Prepare(tr.Conn[i]); err != nil {
			return err
		}
	}
	for i, s := range tr.end {
		var err error
		if s.carrier, err = conns[i].Connect(conns[1-i].Local()); err != nil {
			return err
		}
		s.peer = tr.end[1-i]
	}
	for _, s := range tr.end {
		var err error
		s.ep, err = activemsg.New(s.carrier, s.handlers(), activemsg.Config{Manual: tr.Manual, OnPlaced: s.onPlaced})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *station) onPlaced(id uint64, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	buf := s.posts[id]
	if string(buf[:n]) != string(pattern(n, byte(id))) {
		s.problems = append(s.problems, fmt.Errorf("buffer %d is damaged", id))
	}
	s.placed[id]++
}

// send does the work of one sender until a call fails.
func (s *station) send(index int, rng *rand.Rand) {
	ctx := context.Background()
	lent := s.carrier.Lend(4096)
	limit := 3*s.carrier.Limits().Payload + 100
	for op := range s.tr.Ops {
		var err error
		number := uint64(index)<<32 + uint64(op)
		switch rng.IntN(5) {
		case 0, 1:
			s.mu.Lock()
			n := s.sent[index]
			s.mu.Unlock()
			if err = s.ep.Short(ctx, uint8(10+index), [4]uint64{n}); err == nil {
				s.mu.Lock()
				s.sent[index]++
				s.mu.Unlock()
			}
		case 2, 3:
			b := make([]byte, 8+rng.IntN(limit))
			binary.LittleEndian.PutUint64(b, number)
			copy(b[8:], pattern(len(b)-8, byte(number)))
			if len(b) <= len(lent) && rng.IntN(2) == 0 { // once: it must not change any more
				b = lent[:copy(lent, b)]
				lent = nil
			}
			var out *activemsg.Out
			if out, err = s.ep.Begin(ctx, 1, len(b)); err != nil {
				break
			}
			k := rng.IntN(len(b))
			out.Piece(b[:k])
			out.Piece(b[k:])
			if err = out.End(); err == nil {
				s.mu.Lock()
				s.mine[number] = true
				s.mu.Unlock()
			}
		case 4:
			err = s.post(number, rng)
		}
		if err != nil {
			if !errors.Is(err, substrate.ErrPathDown) && !errors.Is(err, substrate.ErrPeerGone) && s.tr.Break != "close" {
				s.problem("a call failed with %w", err)
			}
			return
		}
	}
}

// post offers a buffer and has the peer fill it.
func (s *station) post(id uint64, rng *rand.Rand) error {
	buf, err := s.carrier.Alloc(1 + rng.IntN(9000))
	if err != nil {
		return s.ep.Err() // the carrier has closed
	}
	s.mu.Lock()
	s.posts[id] = buf
	s.mu.Unlock()
	if err := s.ep.Post(id, id+1, buf); err != nil {
		s.mu.Lock()
		delete(s.posts, id)
		s.mu.Unlock()
		if errors.Is(err, activemsg.ErrNoPost) {
			return nil
		}
		return err
	}
	b := pattern(len(buf), byte(id))
	for range 100 { // until the advert is there
		k := rng.IntN(len(b))
		n, err := s.peer.ep.Place(id, id+1, [][]byte{b[:k], b[k:]})
		if err != nil {
			return err
		}
		if n > 0 {
			return nil
		}
		time.Sleep(50 * time.Microsecond)
	}
	return s.ep.Cancel(id)
}

func (tr *traffic) breaks() {
	x, y := tr.net.Host("0"), tr.net.Host("1")
	switch tr.Break {
	case "cut":
		tr.net.Cut(x, y, true)
	case "link":
		x.SetLink(false)
	case "remove":
		y.Remove()
	case "kill":
		x.Kill()
	case "error":
		y.Break()
	case "close":
		go tr.end[0].ep.Close()
	}
}

// run runs in a bubble.
func (tr *traffic) run() error {
	if err := tr.open(); err != nil {
		return err
	}
	var senders, others sync.WaitGroup
	for i, s := range tr.end {
		for k := range tr.Senders[i] {
			senders.Go(func() { s.send(k, rand.New(rand.NewPCG(tr.Net.Seed, uint64(10*i+k)))) })
		}
		if tr.Manual {
			others.Go(func() {
				for {
					select {
					case <-s.ep.Arrived():
						for more := true; more; {
							_, more = s.ep.Extract(1000)
						}
					case <-s.ep.Done():
						return
					}
				}
			})
		}
	}
	if tr.Break != "" {
		time.Sleep(tr.After)
		tr.breaks()
		time.Sleep(time.Second)
		synctest.Wait()
		for i, s := range tr.end {
			if s.ep.Err() == nil {
				s.problem("end %d has not heard of the break after a second", i)
			}
		}
	}
	senders.Wait()
	if tr.Break == "" {
		tr.settle()
	}
	for _, s := range tr.end {
		if err := s.ep.Err(); err != nil && tr.Break != "close" && !errors.Is(err, substrate.ErrPathDown) && !errors.Is(err, substrate.ErrPeerGone) {
			s.problem("the endpoint ended with %w", err)
		}
		s.ep.Close()
	}
	others.Wait()
	all := append(tr.end[0].problems, tr.end[1].problems...)
	st := tr.net.Stats()
	if st.RNR+st.Overruns+st.Denied > 0 {
		all = append(all, fmt.Errorf("rules were broken: %+v", st))
	}
	for _, s := range tr.end {
		if err := s.adapter.Close(); err != nil {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// settle waits until all that was sent has been handled, and checks that, if the path holds.
func (tr *traffic) settle() {
	var left string
	for range 1000 {
		synctest.Wait()
		left = ""
		for i, s := range tr.end {
			if s.ep.Err() != nil && tr.Net.Fail > 0 {
				return // by chance
			}
			s.mu.Lock()
			s.peer.mu.Lock()
			if s.quick != s.peer.sent {
				left += fmt.Sprintf("end %d handled %d of %d short messages; ", i, s.quick, s.peer.sent)
			}
			for n := range s.peer.mine {
				if !s.streams[n] {
					left += fmt.Sprintf("end %d misses message %#x; ", i, n)
				}
			}
			if len(s.placed) != len(s.posts) {
				left += fmt.Sprintf("end %d has %d answers for %d buffers; ", i, len(s.placed), len(s.posts))
			}
			s.peer.mu.Unlock()
			s.mu.Unlock()
		}
		if left == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	tr.end[0].problem("%sends: %v, %v", left, tr.end[0].ep.Err(), tr.end[1].ep.Err())
}
