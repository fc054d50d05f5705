package bench

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// What the coordinator and its workers say to each other over pipes: frames of a kind (1 byte), a length (4 bytes,
// big-endian) and a body, which is JSON but for the counters. Each request has one answer: a frame of the same kind, or an
// error.
type kind byte

const (
	kindSetup    kind = 's' // setup -> ready: listen, or connect and warm up
	kindPin      kind = 'p' // nothing -> pinned: enforce the congestion control
	kindRun      kind = 'r' // run -> runResult: the timed rounds
	kindAllocs   kind = 'a' // allocs -> allocsResult: operations with a count of allocations
	kindCounters kind = 'c' // nothing -> two integers; fixed size, so that asking doesn't allocate
	kindError    kind = 'e' // answer only: the text of an error
)

const (
	frameHeader  = 5
	maxFrameBody = 64 << 20 // maxRounds of blocks of a few lanes
)

type frame struct {
	kind kind
	body []byte
}

// readFrame reads one frame. It allocates only for a body.
func readFrame(r io.Reader, header *[frameHeader]byte) (frame, error) {
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return frame{}, err
	}
	f := frame{kind: kind(header[0])}
	n := binary.BigEndian.Uint32(header[1:])
	if n > maxFrameBody {
		return frame{}, fmt.Errorf("frame %q of %d bytes is too long", f.kind, n)
	}
	if n > 0 {
		f.body = make([]byte, n)
		if _, err := io.ReadFull(r, f.body); err != nil {
			return frame{}, errors.Join(io.ErrUnexpectedEOF, err)
		}
	}
	return f, nil
}

// writeFrame writes one frame, with body as JSON unless it is nil.
func writeFrame(w io.Writer, k kind, body any) error {
	b := make([]byte, frameHeader)
	if body != nil {
		j, err := json.Marshal(body)
		if err != nil {
			return err
		}
		b = append(b, j...)
	}
	b[0] = byte(k)
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-frameHeader))
	_, err := w.Write(b)
	return err
}

// A countersFrame is a whole kindCounters answer.
type countersFrame [frameHeader + countersLen]byte

const countersLen = 24

func (f *countersFrame) put(c counters) {
	f[0] = byte(kindCounters)
	binary.BigEndian.PutUint32(f[1:], countersLen)
	binary.BigEndian.PutUint64(f[5:], c.Objects)
	binary.BigEndian.PutUint64(f[13:], c.Bytes)
	binary.BigEndian.PutUint64(f[21:], c.CPU)
}

func parseCounters(body []byte) (counters, error) {
	if len(body) != countersLen {
		return counters{}, fmt.Errorf("counters of %d bytes, want %d", len(body), countersLen)
	}
	return counters{binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:]), binary.BigEndian.Uint64(body[16:])}, nil
}

// setup tells a worker its case.
type setup struct {
	Op         Op
	Size       Size
	Lanes      []laneID
	Conns      int      // per lane
	Listen     string   // server: the address to listen at
	Addresses  []string // client: where the server listens, one per lane
	Congestion string   // empty: don't touch it
	Block      int64    // ns
	Cold       bool
}

// A laneID names the transport of the connections of one lane.
type laneID struct{ Mode, Substrate string }

type ready struct{ Addresses []string }

type pinned struct{ Switched int }

type run struct {
	Rounds int
	Budget int64 // ns; stop after that, but not before minRounds; 0: none
	Seed   uint64
}

type runResult struct {
	Rounds int
	Lanes  []laneResult
}

// A laneResult is the timing of one lane.
type laneResult struct {
	Ops      int
	Blocks   []float64 // ns per operation, one per round: the block's median; its mean where single operations aren't timed
	Means    []float64 // ns per operation: the block's mean
	P50, P99 float64   // ns: of single round trips; of blocks, per message, where there are none
}

type allocs struct{ Lane int }

type allocsResult struct {
	Ops int
	counters
}
