package udp

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/substrate"
)

func (m *memory) setDark(dark bool) {
	m.mu.Lock()
	m.dark = dark
	m.mu.Unlock()
}

// TestForgottenLink: a peer that has ended the link, and whose every word of that got lost, is asked, and who waits in Recv is told.
func TestForgottenLink(t *testing.T) {
	for name, c := range map[string]struct {
		before, waits bool
		lose          func(m *memory, a, b *link)
	}{
		"closed":         {before: true, lose: func(m *memory, a, b *link) { m.setDark(true); a.Close() }},
		"closed, awaits": {before: true, waits: true, lose: func(m *memory, a, b *link) { m.setDark(true); a.Close() }},
		"never used":     {lose: func(m *memory, a, b *link) { m.setDark(true); a.Close() }},
		"aborted":        {waits: true, lose: func(m *memory, a, b *link) { m.setDark(true); abort(a) }},
		"no end": {lose: func(m *memory, a, b *link) { // what comes before it is lost
			m.mu.Lock()
			m.trouble.mtu = 500
			m.mu.Unlock()
			a.Send(0, [][]byte{make([]byte, 1000)})
			a.Close()
			synctest.Wait()
			m.setDark(true)
			m.mu.Lock()
			m.trouble.mtu = 0
			m.mu.Unlock()
		}},
		"port closed": {before: true, waits: true, lose: func(m *memory, a, b *link) { a.sock.tr.close() }},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
				if c.before {
					_, err := a.Send(0, [][]byte{{1}})
					require.NoError(t, err)
					_, err = b.Recv(make([]byte, 1))
					require.NoError(t, err)
				}
				<-time.After(10 * time.Second) // it says nothing any more
				var waiting sync.WaitGroup
				defer waiting.Wait()
				var err error
				var over time.Time
				recv := func() { _, err = b.Recv(make([]byte, 1)); over = time.Now() }
				if c.waits {
					waiting.Go(recv)
					synctest.Wait()
				}
				c.lose(m, a, b)
				<-time.After(5 * time.Second)
				b.mu.Lock()
				require.Equal(t, name == "no end", b.finSeen)
				b.mu.Unlock()
				m.setDark(false)
				bright := time.Now()
				most := 10 * time.Second
				if !c.waits {
					most = 2*askAfter + 2*refusedFor // who comes later needn't wait long; the port is closed, too
					waiting.Go(recv)
				}
				waiting.Wait()
				require.ErrorIs(t, err, substrate.ErrPathDown)
				require.LessOrEqual(t, over.Sub(bright), most)
			})
		})
	}
}

// TestRareQuestions: what idle links ask, while users wait, is little; the answer of who doesn't know the link is shorter than the question; and no
// answer is no answer.
func TestRareQuestions(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, s *Substrate, a, b *link, p *tap) {
		var waiting sync.WaitGroup
		errs := make(chan error, 2)
		for _, l := range []*link{a, b} {
			waiting.Go(func() {
				_, err := l.Recv(make([]byte, 1))
				errs <- err
			})
		}
		<-time.After(time.Minute)
		m.mu.Lock()
		m.watch = func([]byte) {
			if s.now()%int64(askAfter) != 0 {
				t.Error("a question that wakes the process for itself")
			}
		}
		m.mu.Unlock()
		before := s.Stats().PacketsSent
		<-time.After(time.Hour)
		sent := s.Stats().PacketsSent - before
		require.LessOrEqual(t, sent, uint64(2*time.Hour/askMost))
		require.GreaterOrEqual(t, sent, uint64(time.Hour/(2*askMost)))
		require.Zero(t, s.Stats().Timeouts)

		m.setDark(true)
		<-time.After(time.Hour)
		m.setDark(false)
		require.Empty(t, errs, "silence")
		require.Zero(t, s.Stats().Timeouts)

		b.Interrupt()
		require.ErrorIs(t, <-errs, substrate.ErrInterrupted)
		b.mu.Lock()
		b.leave()
		b.mu.Unlock()
		var sizes []int
		m.mu.Lock()
		m.watch = func(d []byte) { sizes = append(sizes, len(d)) }
		m.mu.Unlock()
		require.ErrorIs(t, <-errs, substrate.ErrPathDown)
		waiting.Wait()
		require.Equal(t, []int{packetLen, headerLen}, sizes, "question and answer")
	})
}
