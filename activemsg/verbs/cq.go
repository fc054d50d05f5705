package verbs

import (
	"fmt"
	"time"
)

// A CQ is a completion queue with a channel that wakes who waits for it. Poll, Spin and Arm are called by one goroutine at a time, Wait by one,
// which may be another, Wake by any, Close by the last.
type CQ interface {
	// Poll takes completions that are there, at most MaxPost, and doesn't wait.
	Poll(into []Completion) (int, error)

	// Spin is Poll that looks again and again for d, or less, until there is one. With yield it gives the processor to
	// other threads between looks.
	Spin(into []Completion, d time.Duration, yield bool) (int, error)

	// Arm makes the next completion end Wait. A completion may have come just before, so poll once more before waiting.
	Arm() error

	// Wait parks the goroutine until a completion comes after Arm, or Wake. It may also return without reason.
	Wait() error

	// Wake ends Wait, or the next one.
	Wake()

	Close() error
}

// A Completion tells what became of a request. If Status is not StatusOK only ID and QP say anything.
type Completion struct {
	ID     uint64
	Status Status
	Vendor uint32 // the device's own code for an error
	Len    uint32 // bytes received
	Imm    uint32
	QP     uint32
	Op     Op
	HasImm bool
	_      [2]byte
}

// A Status says why a request completed. The numbers are those of the verbs ABI.
type Status uint32

// Statuses.
const (
	StatusOK               Status = 0
	StatusLocalLength      Status = 1
	StatusLocalQP          Status = 2
	StatusLocalProtection  Status = 4
	StatusFlushed          Status = 5
	StatusBadResponse      Status = 7
	StatusLocalAccess      Status = 8
	StatusRemoteInvalid    Status = 9
	StatusRemoteAccess     Status = 10
	StatusRemoteOperation  Status = 11
	StatusRetryExceeded    Status = 12
	StatusRNRRetryExceeded Status = 13
	StatusRemoteAborted    Status = 16
	StatusFatal            Status = 20
	StatusResponseTimeout  Status = 21
	StatusGeneral          Status = 22
)

var statusText = map[Status]string{
	StatusOK:               "success",
	StatusLocalLength:      "local length error: more bytes than the request has memory for",
	StatusLocalQP:          "local queue pair error",
	StatusLocalProtection:  "local protection error: memory that isn't registered so",
	StatusFlushed:          "flushed: the queue pair had failed before",
	StatusBadResponse:      "bad response",
	StatusLocalAccess:      "local access error",
	StatusRemoteInvalid:    "remote invalid request: more bytes than the peer has room for",
	StatusRemoteAccess:     "remote access error: the key doesn't open that memory of the peer",
	StatusRemoteOperation:  "remote operation error",
	StatusRetryExceeded:    "retries exceeded: no answer from the peer",
	StatusRNRRetryExceeded: "retries exceeded: the peer had no receive posted",
	StatusRemoteAborted:    "remote aborted",
	StatusFatal:            "fatal error of the device",
	StatusResponseTimeout:  "response timeout",
	StatusGeneral:          "general error",
}

// String says what the status means.
func (s Status) String() string {
	if t, ok := statusText[s]; ok {
		return t
	}
	return fmt.Sprintf("completion status %d", uint32(s))
}
