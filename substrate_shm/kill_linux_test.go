package shm

import (
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

// killsVar says how many processes TestKill kills.
const killsVar = "SOCKEMU_TEST_KILLS"

// TestKill kills the other process at random moments of a conversation, and while this end waits for it: each call comes back with
// class PathDown, what it had sent before arrives, and nothing is left behind.
func TestKill(t *testing.T) {
	kills := 40
	if v := os.Getenv(killsVar); v != "" {
		var err error
		kills, err = strconv.Atoi(v)
		require.NoError(t, err)
	}
	if testing.Short() {
		kills = 5
	}
	fds, longest := -1, time.Duration(0)
	for i := range kills {
		longest = max(longest, kill(t, i))
		if n := descriptors(t); fds < 0 {
			fds = n // with what the runtime has opened for itself in the first round
		} else {
			require.LessOrEqualf(t, n, fds, "descriptors after %d kills", i)
		}
		require.Zerof(t, mappings(t), "mappings after %d kills", i)
	}
	t.Logf("the longest from the kernel's news of a death until all calls were back: %v", longest)
}

// kill makes a link, kills its other end, and returns how long it took from the end of that process until all calls were back.
func kill(t *testing.T, round int) time.Duration {
	s, cmd := start(t, "chat", name, "", nil)
	l := s.(*linkStream).Link.(*link)
	var work sync.WaitGroup
	var sendErr, recvErr, drainErr error
	var sent, received int
	after := time.Duration(rand.IntN(3000)) * time.Microsecond
	switch round % 4 {
	case 0: // parked in Recv
		work.Go(func() { _, recvErr = l.Recv(make([]byte, 10)) })
	case 1: // parked in both
		require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
		work.Go(func() { sent, sendErr = sendAll(l) })
		work.Go(func() { received, recvErr = recvAll(l) })
	default: // in full swing
		work.Go(func() { sent, sendErr = sendAll(l) })
		work.Go(func() { received, recvErr = recvAll(l) })
	}
	<-time.After(after)
	require.NoError(t, cmd.Process.Kill())
	cmd.Wait()
	killed := time.Now()
	work.Wait()
	took := time.Since(killed)
	require.ErrorIs(t, recvErr, substrate.ErrPathDown)
	require.LessOrEqual(t, received, sent)
	if round%4 != 0 {
		require.ErrorIs(t, sendErr, substrate.ErrPathDown)
	}
	_, drainErr = l.Drain(make([]byte, 10))
	require.ErrorIs(t, drainErr, substrate.ErrPathDown)
	l.Interrupt()
	kept := uint64(0)
	taken := l.Taken()
	for _, b := range l.Kept(taken) {
		kept += uint64(len(b))
	}
	require.Equal(t, uint64(sent), taken+kept)
	require.NoError(t, l.Close())
	return took
}

// sendAll sends until it fails.
func sendAll(l *link) (total int, err error) {
	p := make([]byte, 200_000)
	for size := 1; err == nil; size = size*3%len(p) + 1 {
		var n int
		n, err = l.Send(0, [][]byte{p[:size]})
		total += n
	}
	return total, err
}

func recvAll(l *link) (total int, err error) {
	p := make([]byte, 50_000)
	for err == nil {
		var n int
		n, err = l.Recv(p)
		total += n
	}
	return total, err
}
