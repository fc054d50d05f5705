package verbs

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/netip"
	"sync"

	"github.com/sockemu/sockemu/activemsg"
)

// Pipes is a Fabric without hardware, whose queue pairs lead from one Substrate to another of the same process: for tests.
type Pipes struct {
	cfg activemsg.PipeConfig

	mu    sync.Mutex
	kind  Kind
	down  bool
	made  int
	waits map[string]activemsg.Carrier // one end of a pipe, by what its Half and the other one have said
	all   map[activemsg.Carrier]struct{}
}

var _ Fabric = (*Pipes)(nil)

// NewPipes returns Pipes of that size.
func NewPipes(cfg activemsg.PipeConfig) *Pipes {
	return &Pipes{cfg: cfg, kind: KindMemory, waits: map[string]activemsg.Carrier{}, all: map[activemsg.Carrier]struct{}{}}
}

// Cut breaks all pipes, as if the adapter had lost its link; no more are made until Mend.
func (f *Pipes) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = true
	for c := range f.all {
		c.Close()
	}
	clear(f.all)
	clear(f.waits)
}

// Mend undoes Cut for new pipes.
func (f *Pipes) Mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = false
}

// Made is the number of ends of queue pairs that were made so far.
func (f *Pipes) Made() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.made
}

// Check returns nil: there always are pipes.
func (f *Pipes) Check() error { return nil }

// Addrs returns that of the loopback interface.
func (f *Pipes) Addrs() ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// Open makes one end of a pipe between loopback addresses.
func (f *Pipes) Open(local, remote netip.Addr, _ bool) (Half, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !local.IsLoopback() || !remote.IsLoopback():
		return nil, errors.New("pipes don't leave the host")
	case f.down:
		return nil, errors.New("the pipes are cut")
	}
	f.made++
	h := &pipeHalf{f: f, kind: f.kind}
	rand.Read(h.id[:])
	return h, nil
}

type pipeHalf struct {
	f    *Pipes
	kind Kind
	id   [16]byte
}

func (h *pipeHalf) Kind() Kind     { return h.kind }
func (h *pipeHalf) Info() []byte   { return h.id[:] }
func (h *pipeHalf) Close() error   { return nil }
func (h *pipeHalf) String() string { return "a pipe" }

func (h *pipeHalf) Connect(info []byte) (activemsg.Carrier, error) {
	f := h.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down || len(info) != len(h.id) {
		return nil, errors.New("no pipe leads there")
	}
	me, other := hex.EncodeToString(h.id[:]), hex.EncodeToString(info)
	c, ok := f.waits[me+other]
	if ok {
		delete(f.waits, me+other)
	} else {
		c, f.waits[other+me] = activemsg.Pipe(f.cfg)
	}
	f.all[c] = struct{}{}
	return c, nil
}
