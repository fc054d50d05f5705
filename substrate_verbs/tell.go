package verbs

import (
	"context"
	"time"
)

// One goroutine for each peer tells it what can't be told at once: because there was no credit, or because handlers mustn't send.

// owe has the peer told of l. It reports whether there is nobody to be told any more, and nothing on its way there.
func (p *peer) owe(l *link, due uint32) (buried bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.oweLocked(l, due)
	return p.buried
}

func (p *peer) oweLocked(l *link, due uint32) {
	if l.due.Or(due) == 0 {
		p.telling = append(p.telling, l)
		wake(p.kick)
	}
}

// answer has an answer sent. There are as many as links at most, as the peer can't ask again with the same number.
func (p *peer) answer(a answer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return errOver
	}
	if len(p.answers) >= maxLinks {
		return errBusy
	}
	p.answers = append(p.answers, a)
	wake(p.kick)
	return nil
}

// tellAll runs until the peer's end.
func (p *peer) tellAll() {
	for {
		select {
		case <-p.kick:
		case <-p.quit:
			p.endAll()
			return
		}
		p.mu.Lock()
		links, answers := p.telling, p.answers
		p.telling, p.answers = nil, nil
		p.mu.Unlock()
		for _, a := range answers {
			p.tellAnswer(a)
		}
		for _, l := range links {
			p.tellLink(l)
		}
	}
}

// lastWords tells the peer which links have been closed, as far as there is credit.
func (p *peer) lastWords() {
	p.mu.Lock()
	links := p.telling
	p.telling = nil
	p.mu.Unlock()
	for _, l := range links {
		if l.due.Swap(0)&dueEnd != 0 {
			p.ep.TryShort(msgEnd, [4]uint64{uint64(l.theirs)})
		}
	}
}

// endAll gives back what the answers that nobody needs any more hold.
func (p *peer) endAll() {
	p.mu.Lock()
	answers := p.answers
	p.answers = nil
	p.mu.Unlock()
	for _, a := range answers {
		if a.status == statusOpened {
			a.to.push(nil)
		}
	}
}

// tellAnswer opens a link that the peer has asked for, before anything is sent on it.
func (p *peer) tellAnswer(a answer) {
	args := [4]uint64{uint64(a.theirs), a.status}
	if a.status == statusOpened {
		args[2], args[3] = uint64(a.link.id), p.s.opts.firstWindow
	}
	p.mu.Lock()
	switch {
	case a.link == nil:
	case a.status == statusOpened:
		a.link.state = stateOpen
	default:
		p.drop(a.link)
	}
	p.mu.Unlock()
	err := p.ep.Short(context.Background(), msgOpened, args)
	if a.status != statusOpened {
		return
	}
	if err != nil {
		a.to.push(nil)
		return
	}
	a.to.push(a.link)
}

func (p *peer) tellLink(l *link) {
	due := l.due.Swap(0)
	if due&dueTaken != 0 && l.ctl.Load()&closed == 0 {
		l.sayTaken(func(id uint8, args [4]uint64) error { return p.ep.Short(context.Background(), id, args) })
	}
	if due&dueEnd == 0 {
		return
	}
	l.sending.Lock() // calls that run see that the link is closed; nothing comes behind the end
	l.receiving.Lock()
	err := p.ep.Short(context.Background(), msgEnd, [4]uint64{uint64(l.theirs)})
	l.receiving.Unlock()
	l.sending.Unlock()
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.endSent = true; l.endGot {
		p.drop(l)
	}
}

// later has the peer told of the bytes that l has taken, unless it hears of it otherwise.
func (p *peer) later(l *link) {
	if l.late.Load() || l.late.Swap(true) {
		return
	}
	p.lateMu.Lock()
	defer p.lateMu.Unlock()
	p.lates = append(p.lates, l)
	if len(p.lates) > 1 {
		return
	}
	if p.laters == nil {
		p.laters = time.AfterFunc(laterTime, p.tellLates)
	} else {
		p.laters.Reset(laterTime)
	}
}

func (p *peer) tellLates() {
	p.lateMu.Lock()
	lates := p.lates
	p.lates = nil
	p.lateMu.Unlock()
	for _, l := range lates {
		l.late.Store(false)
		if l.told.Load() != l.got.Load() && l.ctl.Load()&closed == 0 {
			p.owe(l, dueTaken)
		}
	}
}
