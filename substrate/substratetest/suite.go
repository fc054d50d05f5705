// Package substratetest is the conformance suite of package substrate: what every substrate must do, whatever it is made of.
// An implementation's test calls Run, and RunInBubble as well if it does no I/O outside the process:
//
//	func TestConformance(t *testing.T) {
//		substratetest.Run(t, func(t *testing.T) substratetest.Env {
//			s := tcp.New(tcp.Options{})
//			return substratetest.Env{Dialer: s, Listener: s, Listen: "127.0.0.1:0", Bad: "no port"}
//		})
//	}
//
// The tests assert no speed. Each ends with a check that no goroutine is left.
package substratetest

import (
	"os"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sockemu/sockemu/substrate"
)

// LinksVar is the environment variable that says how many links the test of many links opens.
const LinksVar = "SOCKEMU_TEST_LINKS"

// Env is one test's pair of substrates and what the suite has to know about them. Links are dialled from Dialer to
// Listener. What the Env needs to be taken down is registered with t.Cleanup by who makes it.
type Env struct {
	Dialer, Listener substrate.Substrate

	// Listen is an address at which Listener can listen, again and again, one listener at a time.
	Listen string
	// Refused is an address where nobody listens and a dial learns that. "" skips the test.
	Refused string
	// Hang is an address that never answers a dial. "" skips the tests.
	Hang string
	// Bad is an address that makes no sense, to Dial or to Listen.
	Bad string

	// Abort breaks a link in such a way that its peer sees that it broke, not that it ended. The suite still closes the link. nil skips
	// the tests.
	Abort func(substrate.Link)

	// Lossy: an orderly Close may lose bytes that Send took, or show as a break.
	Lossy bool
	// NoKernel: links take nothing from the system, so there may be ten times as many.
	NoKernel bool
}

// A harness is one running test.
type harness struct {
	*testing.T
	Env
	bubble bool
}

type test struct {
	name string
	run  func(h *harness)
}

// tests are all of them, in the order of the methods of the contract.
var tests = []test{
	{"Description", testDescription},
	{"DialRefused", testDialRefused},
	{"DialBadAddress", testDialBadAddress},
	{"DialEndedContext", testDialEndedContext},
	{"DialHangsUntilContextEnds", testDialHangs},
	{"ListenerCloseUnblocksAccept", testListenerClose},
	{"ListenerCloseKeepsLinks", testListenerCloseKeepsLinks},
	{"ManyLinks", testManyLinks},
	{"SizesBothWays", testSizesBothWays},
	{"GatherLists", testGatherLists},
	{"SendNothing", testSendNothing},
	{"RecvIntoTinyBuffers", testTinyBuffers},
	{"BackPressure", testBackPressure},
	{"ReleaseGivesBack", testRelease},
	{"CloseGivesBack", testCloseGivesBack},
	{"SendUnkept", testUnkept},
	{"KeeperTaken", testTaken},
	{"KeeperTakenMeanwhile", testTakenMeanwhile},
	{"KeeperKept", testKept},
	{"BorrowerReturns", testBorrow},
	{"BorrowerCutShort", testBorrowCutShort},
	{"SoleMoves", testSole},
	{"RecvDeadline", testRecvDeadline},
	{"RecvDeadlineMovesBlockedRecv", testRecvDeadlineWhileBlocked},
	{"SendDeadline", testSendDeadline},
	{"DrainDoesNotBlock", testDrain},
	{"InterruptBlockedRecv", testInterruptRecv},
	{"InterruptBlockedSend", testInterruptSend},
	{"InterruptThenDrain", testInterruptThenDrain},
	{"InterruptIsFinal", testInterruptIsFinal},
	{"EndAfterLastByte", testEnd},
	{"CloseUnblocksOwnCalls", testCloseUnblocks},
	{"CloseUnblocksPeer", testCloseUnblocksPeer},
	{"CloseUnblocksPeersSend", testCloseUnblocksPeersSend},
	{"AbortUnblocksPeer", testAbortUnblocksPeer},
	{"AbortIsNoEnd", testAbortIsNoEnd},
	{"CallsFromEverywhere", testConcurrentCalls},
	{"Cost", testCost},
}

// Run runs the suite. newEnv is called once for each test, with the test's own t.
func Run(t *testing.T, newEnv func(t *testing.T) Env) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			here := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, here) }) // registered first, so that it runs last
			test.run(&harness{T: t, Env: newEnv(t)})
		})
	}
}

// RunInBubble runs the suite with each test in a bubble of testing/synctest, which also proves that all that blocks does so
// durably.
func RunInBubble(t *testing.T, newEnv func(t *testing.T) Env) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.run(&harness{T: t, Env: newEnv(t), bubble: true})
			})
		})
	}
}

// patience is how long the suite waits for what must happen at once. It is long so that a loaded machine doesn't fail a test.
const patience = 20 * time.Second

// moment is how long the suite waits to see that something does not happen.
const moment = 10 * time.Millisecond

// settle gives other goroutines the time to block. Outside a bubble it can't be sure, so tests hold whether they have or not.
func (h *harness) settle() {
	if h.bubble {
		synctest.Wait()
		return
	}
	for range 200 {
		runtime.Gosched()
	}
}

// start runs f in a goroutine and returns a function that waits for its end and fails the test if that doesn't come.
func (h *harness) start(what string, f func()) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return func() {
		h.Helper()
		t := time.NewTimer(patience)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
			h.Fatalf("%s: still blocked after %v", what, patience)
		}
	}
}

// listen opens a listener that is closed with the test.
func (h *harness) listen() substrate.Listener {
	h.Helper()
	l, err := h.Listener.Listen(h.Context(), h.Listen)
	require.NoError(h, err)
	h.Cleanup(func() { l.Close() })
	return l
}

// connect opens a link by l, both ends of which are closed with the test.
func (h *harness) connect(l substrate.Listener) (dialed, accepted substrate.Link) {
	h.Helper()
	var acceptErr error
	wait := h.start("Accept", func() { accepted, acceptErr = l.Accept() })
	dialed, err := h.Dialer.Dial(h.Context(), l.Addr().String())
	require.NoError(h, err)
	h.Cleanup(func() { dialed.Close() })
	wait()
	require.NoError(h, acceptErr)
	h.Cleanup(func() { accepted.Close() })
	return dialed, accepted
}

// pair opens a listener and one link.
func (h *harness) pair() (dialed, accepted substrate.Link) {
	h.Helper()
	return h.connect(h.listen())
}

// links is how many links testManyLinks opens.
func (h *harness) links() int {
	if s := os.Getenv(LinksVar); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(h, err, LinksVar)
		return n
	}
	if h.NoKernel && !testing.Short() {
		return 10_000
	}
	return 1_000
}
