package activemsg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sockemu/sockemu/substrate"
)

// A traffic is what two endpoints do to each other, in virtual time: senders of both ends send messages of all kinds, to handlers that read
// slowly, partly or not at all; buffers are posted, filled and cancelled; and the carrier delays, or breaks in one of many ways.
type traffic struct {
	Seed     uint64
	Carrier  string
	Payload  int
	Slots    int // for data
	Buffer   [2]int
	Handlers [2]int
	Manual   [2]bool
	Senders  [2]int
	Ops      int // of each sender
	Lazy     int // handlers that wait before they read: one of so many
	Stuck    int // handlers that wait until all was sent: one of so many, if not 0
	Delay    time.Duration
	Break    string // "", or how the carrier breaks
	After    int    // after how many calls

	faults *faults
	sent   chan struct{} // closed when the senders are through
}

func (tr *traffic) broken() bool { return tr.faults.broken() }

func drawTraffic(t *rapid.T, carriers []string) traffic {
	pair := func(name string, from []int) [2]int {
		return [2]int{rapid.SampledFrom(from).Draw(t, name+"A"), rapid.SampledFrom(from).Draw(t, name+"B")}
	}
	tr := traffic{
		Seed:     rapid.Uint64().Draw(t, "seed"),
		Carrier:  rapid.SampledFrom(carriers).Draw(t, "carrier"),
		Payload:  rapid.SampledFrom([]int{64, 65, 200, 1500, 4096}).Draw(t, "payload"),
		Slots:    rapid.SampledFrom([]int{1, 2, 3, 4, 8, 16, 100}).Draw(t, "slots"),
		Buffer:   pair("buffer", []int{-1, 300, 5000, 1 << 20}),
		Handlers: pair("handlers", []int{1, 1000}),
		Manual:   [2]bool{rapid.IntRange(0, 3).Draw(t, "manualA") == 0, rapid.IntRange(0, 3).Draw(t, "manualB") == 0},
		Senders:  pair("senders", []int{0, 1, 2, 5}),
		Ops:      rapid.IntRange(1, 40).Draw(t, "ops"),
		Lazy:     rapid.SampledFrom([]int{1, 3, 10, 1000}).Draw(t, "lazy"),
		Delay:    time.Duration(rapid.SampledFrom([]int{0, 0, 1, 50, 2000}).Draw(t, "delay")) * time.Microsecond,
		Break:    rapid.SampledFrom([]string{"", "", "", "error", "silence", "close", "place", "cut"}).Draw(t, "break"),
		After:    rapid.IntRange(0, 300).Draw(t, "after"),
		Stuck:    rapid.SampledFrom([]int{0, 0, 1, 2, 20}).Draw(t, "stuck"),
	}
	if tr.Stuck > 0 {
		tr.Buffer = [2]int{32 << 20, 32 << 20} // else it is a deadlock, and documented
	}
	return tr
}

// TestTraffic: messages arrive once and whole, those of a sender to Quick handlers in order, no slot is overrun, nothing waits for ever, nothing is
// left. After a break every call ends with an error of a class that fits, in less than a second.
//
//	go test ./activemsg -run TestTraffic -rapid.checks=10000
func TestTraffic(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tr := drawTraffic(rt, slices.Sorted(maps.Keys(Rigs)))
		var err error
		synctest.Test(t, func(t *testing.T) { err = tr.run(t) })
		if err != nil {
			rt.Fatalf("%v\n%+v", err, tr)
		}
	})
}

// A station is one end of a traffic.
type station struct {
	tr    *traffic
	ep    *Endpoint
	other *station

	mu       sync.Mutex
	credit   chan struct{} // closed by OnCredit
	ended    time.Time
	problems []error
	quick    map[uint8]uint64 // by handler: messages handled
	sentTo   map[uint8]uint64 // to each of the other's handlers
	streams  map[uint64]int   // stream messages handled: how often
	sent     map[uint64]bool  // stream messages of ours: whether they were ended well
	posts    map[uint64][]byte
	answered map[uint64]int
}

func (s *station) problem(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, fmt.Errorf(format, args...))
}

const (
	idStream = 1
	idStray  = 2  // nobody counts them
	idQuick  = 10 // and one for each sender
)

var stray [1 << 14]byte

// coded fills b with bytes that tell message and position.
func coded(b []byte, number uint64) {
	for i := range b {
		b[i] = byte(number*131 + uint64(i)*7 + uint64(i)>>8)
	}
}

func (s *station) table() *Handlers {
	var h Handlers
	for i := range uint8(8) {
		h.Quick(idQuick+i, func(m *Msg) {
			s.mu.Lock()
			if n := binary.LittleEndian.Uint64(m.Payload); n != s.quick[i] {
				s.problems = append(s.problems, fmt.Errorf("handler %d got message %d instead of %d", i, n, s.quick[i]))
			}
			s.quick[i]++
			s.mu.Unlock()
			if n := len(m.Payload) % 3; n > 0 { // as many do: an answer, from where nothing may wait
				m.Endpoint.TrySend(idStray, [][]byte{m.Payload[:n], stray[:s.tr.Payload-n]})
			}
		})
	}
	h.Quick(idStray, func(*Msg) {})
	h.Stream(idStream, s.stream)
	return &h
}

func (s *station) stream(in *In) {
	var head [16]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return // cut, or the endpoint ended
	}
	number, length := binary.LittleEndian.Uint64(head[:]), binary.LittleEndian.Uint64(head[8:])
	rng := rand.New(rand.NewPCG(number, 3))
	if rng.IntN(s.tr.Lazy) == 0 {
		time.Sleep(time.Duration(rng.IntN(5_000)) * time.Microsecond)
	}
	if s.tr.Stuck > 0 && rng.IntN(s.tr.Stuck) == 0 {
		select {
		case <-s.tr.sent:
		case <-s.ep.Done():
		}
	}
	leave := rng.IntN(10) == 0
	want := make([]byte, length)
	coded(want, number)
	got := 0
	buf := make([]byte, 1+rng.IntN(3*s.tr.Payload))
	for !leave {
		n, err := in.Read(buf)
		if n > int(length)-got || string(buf[:n]) != string(want[got:got+n]) {
			s.problem("message %d is damaged at %d", number, got)
			return
		}
		got += n
		if err == io.EOF && got == int(length) {
			break
		}
		if err == io.EOF {
			s.problem("message %d ends at %d of %d", number, got, length)
		}
		if err != nil {
			return
		}
		if s.tr.Lazy == 1 {
			time.Sleep(time.Duration(rng.IntN(100)) * time.Microsecond)
		}
	}
	s.mu.Lock()
	s.streams[number]++
	s.mu.Unlock()
	if rng.IntN(4) == 0 {
		s.ep.TryShort(idStray, [4]uint64{})
	}
}

func (s *station) placed(id uint64, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered[id]++
	buf := s.posts[id]
	want := make([]byte, len(buf))
	coded(want[:n], id)
	if string(buf) != string(want) {
		s.problems = append(s.problems, fmt.Errorf("%d bytes were placed wrongly into buffer %d", n, id))
	}
	clear(buf) // and it stays so
}

// send does the work of one sender and returns at the first error that isn't of its own making.
func (s *station) send(index int, rng *rand.Rand) {
	id := uint8(idQuick + index)
	var next uint64
	defer func() {
		s.mu.Lock()
		s.sentTo[uint8(index)] = next
		s.mu.Unlock()
	}()
	for op := range s.tr.Ops {
		number := s.tr.Seed&1 + uint64(index)<<32 + uint64(op)<<8
		var err error
		switch rng.IntN(6) {
		case 0:
			if err = s.ep.Short(context.Background(), id, [4]uint64{next}); err == nil {
				next++
			}
		case 1, 2:
			b := make([]byte, 8+rng.IntN(s.tr.Payload-7))
			binary.LittleEndian.PutUint64(b, next)
			k := rng.IntN(len(b))
			for {
				credit := s.waitCredit()
				if err = s.ep.TrySend(id, [][]byte{b[:k], b[k:]}); !errors.Is(err, ErrNoCredit) {
					break
				}
				select {
				case <-credit:
				case <-s.ep.Done():
				}
			}
			if err == nil {
				next++
			}
		case 3:
			err = s.message(context.Background(), number, rng)
		case 4:
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(300))*time.Microsecond)
			if err = s.message(ctx, number, rng); errors.Is(err, context.DeadlineExceeded) {
				err = nil
			}
			cancel()
		case 5:
			err = s.post(number, rng)
		}
		if err != nil {
			s.failed(err)
			return
		}
	}
}

func (s *station) waitCredit() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.credit
}

func (s *station) credited() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.credit)
	s.credit = make(chan struct{})
}

// failed checks the error by which a call ended.
func (s *station) failed(err error) {
	switch {
	case !s.tr.broken():
		s.problem("a call failed: %w", err)
	case !errors.Is(err, substrate.ErrPathDown) && !errors.Is(err, substrate.ErrPeerGone):
		s.problem("after a break a call failed with %w", err)
	}
}

func (s *station) message(ctx context.Context, number uint64, rng *rand.Rand) error {
	b := make([]byte, 16+rng.IntN(1+rng.IntN(1+6*s.tr.Payload)))
	binary.LittleEndian.PutUint64(b, number)
	binary.LittleEndian.PutUint64(b[8:], uint64(len(b)-16))
	coded(b[16:], number)
	out, err := s.ep.Begin(ctx, idStream, len(b)+rng.IntN(2))
	if err != nil {
		return err
	}
	for len(b) > 0 {
		n := 1 + rng.IntN(len(b))
		if out.Piece(b[:n]) != nil {
			break
		}
		b = b[n:]
	}
	err = out.End()
	s.mu.Lock()
	s.sent[number] = err == nil
	s.mu.Unlock()
	return err
}

func (s *station) alloc(n int) ([]byte, error) {
	p, ok := s.ep.carrier.(*unsoundPlacer)
	if !ok {
		return make([]byte, n), nil
	}
	buf, err := p.Alloc(n)
	clear(buf)
	return buf, err
}

// post offers a buffer and has the other end place into it, or not.
func (s *station) post(id uint64, rng *rand.Rand) error {
	buf, err := s.alloc(1 + rng.IntN(3000))
	if err != nil {
		<-s.ep.Done() // there is memory as long as the path is good
		return s.ep.Err()
	}
	s.mu.Lock()
	s.posts[id] = buf
	s.mu.Unlock()
	if err := s.ep.Post(id, id+1, buf); err != nil {
		s.mu.Lock()
		delete(s.posts, id)
		s.mu.Unlock()
		if errors.Is(err, ErrNoPost) {
			return nil // enough are out, or the carrier has no such thing
		}
		return err
	}
	cancel := rng.IntN(3)
	if cancel > 0 {
		if cancel == 1 {
			time.Sleep(time.Duration(rng.IntN(100)) * time.Microsecond)
		}
		if err := s.ep.Cancel(id); err != nil {
			return err
		}
	}
	b := make([]byte, rng.IntN(4000))
	coded(b, id)
	k := rng.IntN(len(b) + 1)
	if n, err := s.other.ep.Place(id, id, [][]byte{b}); n != 0 || err != nil && !s.tr.broken() {
		s.problem("placed %d bytes at another offset, %v", n, err)
	}
	for range 200 { // until the advert is there; it may be cancelled before
		n, err := s.other.ep.Place(id, id+1, [][]byte{b[:k], b[k:]})
		if err != nil {
			return err
		}
		if n > 0 {
			break
		}
		time.Sleep(50 * time.Microsecond)
	}
	return s.ep.Cancel(id)
}

// run runs in a bubble.
func (tr *traffic) run(t *testing.T) error {
	r := tr.rig(t)
	tr.sent = make(chan struct{})
	a, b := &station{tr: tr}, &station{tr: tr}
	a.other, b.other = b, a
	all := []*station{a, b}
	var extractors sync.WaitGroup
	for i, s := range all {
		s.credit = make(chan struct{})
		s.quick, s.sentTo, s.streams = map[uint8]uint64{}, map[uint8]uint64{}, map[uint64]int{}
		s.sent, s.posts, s.answered = map[uint64]bool{}, map[uint64][]byte{}, map[uint64]int{}
		carrier := []Carrier{r.A, r.B}[i]
		var err error
		s.ep, err = New(carrier, s.table(), Config{
			Manual: tr.Manual[i], Buffer: tr.Buffer[i], Handlers: tr.Handlers[i], OnPlaced: s.placed,
			OnCredit: s.credited,
		})
		if err != nil {
			return err
		}
		if tr.Manual[i] {
			extractors.Go(func() {
				rng := rand.New(rand.NewPCG(tr.Seed, 9))
				for {
					select {
					case <-s.ep.Arrived():
					case <-s.ep.Done():
						return
					}
					for more := true; more; {
						_, more = s.ep.Extract(1 + rng.IntN(1000))
					}
				}
			})
		}
		extractors.Go(func() {
			<-s.ep.Done()
			s.mu.Lock()
			s.ended = time.Now()
			s.mu.Unlock()
		})
	}
	var senders sync.WaitGroup
	for i, s := range all {
		for k := range tr.Senders[i] {
			senders.Go(func() { s.send(k, rand.New(rand.NewPCG(tr.Seed, uint64(100*i+k)))) })
		}
	}
	go func() { senders.Wait(); close(tr.sent) }()
	select {
	case <-tr.sent:
	case <-time.After(time.Minute):
		for _, s := range all {
			s.ep.fail(nil)
		}
		<-tr.sent
		a.problem("the senders hung")
	}
	if tr.faults.disarm() {
		tr.checkBroken(a, b)
	} else {
		tr.settle(a, b)
		tr.check(a, b)
	}
	a.ep.Close()
	b.ep.Close()
	extractors.Wait()
	if r.Check != nil {
		a.problems = append(a.problems, r.Check())
	}
	return errors.Join(append(a.problems, b.problems...)...)
}
