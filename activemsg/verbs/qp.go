package verbs

// MaxSGE bounds the pieces of memory of one request.
const MaxSGE = 4

// MaxPost bounds the requests of each kind in one Post, and the completions that one Poll returns.
const MaxPost = 32

// A QP is a reliable connected queue pair. Post is called by one goroutine at a time, or with a lock; the other methods by any. Close waits for
// nobody: whoever calls it makes sure that the others have returned.
type QP interface {
	// Number is what the peer connects to.
	Number() uint32

	// Inline is the most bytes that a request with FlagInline can have, at least QPConfig.Inline.
	Inline() int

	// Connect joins it to the peer's. Both ends must have connected before either sends: what arrives too early is lost, and repeated
	// only as long as Connection.Retry says.
	Connect(c Connection) error

	// Post queues receives and sends, at most MaxPost each. It never waits: a full queue is ErrFull. After an error
	// it isn't known which were queued.
	Post(recvs []RecvWR, sends []SendWR) error

	// Fail ends the connection: what is queued completes with StatusFlushed, and when it returns nothing the peer sends is taken any more.
	Fail() error

	// Close destroys the queue pair, with the same promise. What is queued has no completions.
	Close() error
}

// QPConfig says what queue pair to make.
type QPConfig struct {
	SendCQ, RecvCQ CQ
	SendDepth      int
	RecvDepth      int
	SGE            int // pieces of memory of a send; receives have one
	Inline         int // bytes that should fit inline; QP.Inline tells what was granted, maybe less
	Port           int
	GIDIndex       int // of the local address
}

// Connection says where the peer is and how hard to try.
type Connection struct {
	RemoteQP  uint32
	RemoteGID GID
	RemoteLID uint16 // on InfiniBand links
	LocalPSN  uint32 // number of the first packet we send, 24 bits
	RemotePSN uint32
	MTU       int // of the path, in bytes: the smaller of the two ends'
	Timeout   int // a packet without answer is repeated after 4.096 us * 2^Timeout
	Retry     int // so many times, at most 6: some devices never give up at 7
	RNRRetry  int // repeats when the peer has no receive posted; 7 is for ever
}

// MaxRetry bounds Connection.Retry: measured on rxe, 7 never gives up.
const MaxRetry = 6

// An Op is the kind of a request.
type Op uint8

// Kinds of requests. Both kinds with an immediate value use up one of the peer's receives, as OpSend does; OpWrite doesn't.
const (
	OpSend Op = iota
	OpSendImm
	OpWrite
	OpWriteImm
	OpRecv // in completions only
	OpRecvWriteImm
)

// String names the kind.
func (o Op) String() string {
	switch o {
	case OpSend:
		return "send"
	case OpSendImm:
		return "send with immediate"
	case OpWrite:
		return "RDMA write"
	case OpWriteImm:
		return "RDMA write with immediate"
	case OpRecv:
		return "receive"
	case OpRecvWriteImm:
		return "receive of a write's immediate"
	}
	return "unknown request"
}

// Flags of a send request.
const (
	FlagSignaled = 1 << iota // has a completion also if it succeeds
	FlagInline               // the bytes are copied by Post
)

// An SGE is a piece of memory.
type SGE struct {
	Addr uint64
	Len  uint32
	LKey uint32
}

// A SendWR is a request of the sending queue. It has no pointers, and the memory layout that providers rely on.
type SendWR struct {
	ID         uint64 // comes back in the completion
	RemoteAddr uint64 // of writes
	RKey       uint32
	Imm        uint32
	Op         Op
	Flags      uint8
	NumSGE     uint8
	_          [5]byte
	SGE        [MaxSGE]SGE
}

// A RecvWR is a request of the receiving queue.
type RecvWR struct {
	ID  uint64
	SGE SGE
}
