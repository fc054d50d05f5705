package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

const (
	// frameEvery is how often the live view looks at the demo, lineEvery how often the plain one says something.
	frameEvery = 100 * time.Millisecond
	lineEvery  = time.Second
	// sparkWidth is the number of columns of a sparkline, each sparkStep long.
	sparkWidth = 34
	sparkStep  = 300 * time.Millisecond
	// logShown is the height of the log.
	logShown = 8
)

// follow runs the demo and writes one line a second, for logs and pipes.
func follow(ctx context.Context, r *demoRun, w io.Writer) *verdict {
	over := make(chan *verdict, 1)
	go func() { over <- r.run(ctx) }()
	tick := time.NewTicker(lineEvery)
	defer tick.Stop()
	logged := 0
	var last demoState
	line := func() {
		st := r.snapshot()
		logged = writeLog(w, st, logged)
		if st.Client.PID != 0 {
			up := rate(st.Server.Received, last.Server.Received, st.Elapsed-last.Elapsed)
			down := rate(st.Client.Received, last.Client.Received, st.Elapsed-last.Elapsed)
			fmt.Fprintf(w, "%5.1f s  up %s (%s/s)  down %s (%s/s)  %d cuts  %s replayed  %s\n", st.Elapsed.Seconds(),
				bytesText(st.Server.Received), bytesText(up), bytesText(st.Client.Received), bytesText(down),
				st.Cuts, bytesText(st.Client.Replayed+st.Server.Replayed), st.Phase)
		}
		last = st
	}
	for {
		select {
		case <-tick.C:
			line()
		case v := <-over:
			writeLog(w, r.snapshot(), logged)
			return v
		}
	}
}

// writeLog writes what has been logged since there were logged lines, but for the minor ones.
func writeLog(w io.Writer, st demoState, logged int) int {
	fresh := min(st.Logged-logged, len(st.Log))
	for _, l := range st.Log[len(st.Log)-fresh:] {
		if !l.Minor {
			fmt.Fprintf(w, "         %s\n", l.Text)
		}
	}
	return st.Logged
}

// rate is how many bytes a second led from before to now.
func rate(now, before uint64, d time.Duration) uint64 {
	if now <= before || d <= 0 {
		return 0
	}
	return uint64(float64(now-before) / d.Seconds())
}

// watch runs the demo under a live view. ^C and q end both.
func watch(ctx context.Context, r *demoRun) (*verdict, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &viewModel{run: r, cancel: cancel, up: newSpark(), down: newSpark(), width: 80}
	p := tea.NewProgram(m, tea.WithoutSignalHandler())
	over := make(chan *verdict, 1)
	go func() {
		v := r.run(ctx)
		over <- v
		p.Send(overMsg{})
	}()
	if _, err := p.Run(); err != nil {
		cancel()
		<-over
		return nil, fmt.Errorf("terminal view: %w", err)
	}
	cancel()
	return <-over, nil
}

// The messages of the view.
type (
	frameMsg time.Time
	overMsg  struct{}
)

// A viewModel is the live view.
type viewModel struct {
	run      *demoRun
	cancel   context.CancelFunc
	st       demoState
	up, down *spark
	width    int
	stopping bool
}

func nextFrame() tea.Cmd {
	return tea.Tick(frameEvery, func(t time.Time) tea.Msg { return frameMsg(t) })
}

// Init starts the clock.
func (m *viewModel) Init() tea.Cmd { return nextFrame() }

// Update takes in a frame, a key or the end.
func (m *viewModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width = msg.Width
	case tea.KeyPressMsg:
		if s := msg.String(); s == "ctrl+c" || s == "q" || s == "esc" {
			m.stopping = true
			m.cancel() // the demo ends its processes, and its end ends the view
		}
	case frameMsg:
		m.look(time.Time(msg))
		return m, nextFrame()
	case overMsg:
		m.look(time.Now())
		return m, tea.Quit
	}
	return m, nil
}

func (m *viewModel) look(now time.Time) {
	m.st = m.run.snapshot()
	m.up.add(now, m.st.Server.Received)
	m.down.add(now, m.st.Client.Received)
}

var (
	titleStyle = lipgloss.NewStyle().Bold(true)
	faintStyle = lipgloss.NewStyle().Faint(true)
	upStyle    = lipgloss.NewStyle().Foreground(lipgloss.Color("42"))
	downStyle  = lipgloss.NewStyle().Foreground(lipgloss.Color("39"))
	cutStyle   = lipgloss.NewStyle().Foreground(lipgloss.Color("203"))
)

// View draws the demo.
func (m *viewModel) View() tea.View {
	st := m.st
	var b strings.Builder
	line := func(format string, args ...any) {
		b.WriteString(lipgloss.NewStyle().MaxWidth(m.width).Render(fmt.Sprintf(format, args...)))
		b.WriteByte('\n')
	}
	phase := st.Phase
	if m.stopping {
		phase = "stopping"
	}
	line("%s   %4.1f / %.0f s   %s", titleStyle.Render("sockemu demo"), min(st.Elapsed, st.Total).Seconds(), st.Total.Seconds(), phase)
	line("")
	line("client → server  %s  %10s  %10s/s", upStyle.Render(m.up.String()), bytesText(st.Server.Received), bytesText(m.up.now()))
	line("server → client  %s  %10s  %10s/s", downStyle.Render(m.down.String()), bytesText(st.Client.Received), bytesText(m.down.now()))
	line("")
	line("cuts %s   outages %d   links lost %d   replayed %s   longest gap %s",
		cutStyle.Render(fmt.Sprint(st.Cuts)), st.Outages, st.Client.Lost+st.Server.Lost,
		bytesText(st.Client.Replayed+st.Server.Replayed), seconds(max(st.Client.Gap, st.Server.Gap)))
	line("client pid %d, %s   server pid %d, %s   replaced %d×", st.Client.PID, orDash(st.Client.State), st.Server.PID, orDash(st.Server.State), st.Replacements)
	line("")
	shown := st.Log[max(0, len(st.Log)-logShown):]
	for _, l := range shown {
		text := l.Text
		if l.Minor {
			text = faintStyle.Render(text)
		}
		line("%s  %s", faintStyle.Render(fmt.Sprintf("%5.2f s", l.At.Seconds())), text)
	}
	for range logShown - len(shown) {
		line("")
	}
	line("%s", faintStyle.Render("q or ^C stops"))
	return tea.NewView(b.String())
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// A spark is a sparkline of a rate, the newest at the right.
type spark struct {
	rates []uint64
	at    time.Time // of the last sample
	count uint64
}

func newSpark() *spark { return &spark{rates: make([]uint64, sparkWidth)} }

// add notes that a counter stands at count.
func (s *spark) add(now time.Time, count uint64) {
	if s.at.IsZero() {
		s.at, s.count = now, count
		return
	}
	d := now.Sub(s.at)
	if d < sparkStep {
		return
	}
	s.rates = append(s.rates[1:], rate(count, s.count, d))
	s.at, s.count = now, count
}

// now is the newest rate.
func (s *spark) now() uint64 { return s.rates[len(s.rates)-1] }

// String draws it, scaled to its highest.
func (s *spark) String() string {
	const bars = "▁▂▃▄▅▆▇█"
	steps := []rune(bars)
	top := uint64(1)
	for _, r := range s.rates {
		top = max(top, r)
	}
	var b strings.Builder
	for _, r := range s.rates {
		if r == 0 {
			b.WriteByte(' ')
			continue
		}
		b.WriteRune(steps[r*uint64(len(steps)-1)/top])
	}
	return b.String()
}
