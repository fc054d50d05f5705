package activemsg

import (
	"errors"
	"fmt"
	"sync"
)

// maxPosts bounds the buffers that each end has posted at a time.
const maxPosts = 6

// An advert tells the peer of a posted buffer. It is the payload of a controlPost: id, offset and address (u64), remote key and length
// (u32), little-endian.
type advert struct {
	id, off uint64
	key     Key
}

const advertLen = argsLen

func (a *advert) args() [4]uint64 {
	return [4]uint64{a.id, a.off, a.key.Addr, uint64(a.key.RKey) | uint64(a.key.Len)<<32}
}

func (a *advert) parse(args [4]uint64) error {
	a.id, a.off = args[0], args[1]
	a.key = Key{Addr: args[2], RKey: uint32(args[3]), Len: uint32(args[3] >> 32)}
	if a.key.Len == 0 || a.key.Addr+uint64(a.key.Len) < a.key.Addr {
		return fmt.Errorf("advert of %d bytes at %#x", a.key.Len, a.key.Addr)
	}
	return nil
}

// posts are the buffers posted at either end. Each post has exactly one answer, a controlPlaced: with bytes, or none for one that was
// cancelled.
type posts struct {
	// mu is held until adverts and cancels are in the cork: they must get there in the order in which they are noted here.
	mu     sync.Mutex
	ended  bool
	mine   [maxPosts]posted
	theirs [maxPosts]offered

	vec [][]byte // under tx: what Place cuts to measure
}

type posted struct {
	advert
	busy, exposed, cancelled bool
}

type offered struct {
	advert
	valid  bool
	answer bool // it was cancelled, the keeper says so
}

// ErrNoPost is returned by Post when no more buffers can be posted now, or not for this id.
var ErrNoPost = errors.New("activemsg: can't post")

// Post offers buf to the peer for what its sender will Place under id and off. The numbers mean what the two programs agree on:
// typically a stream and the offset in it. buf must not be touched until Config.OnPlaced says what became of it or the
// endpoint has ended. There are at most 6 posts out at a time, one for each id; for more, and over a carrier or for memory that
// can't be placed into, Post fails with ErrNoPost and the data comes as a message. For buffers shorter than Direct it doesn't pay. Post doesn't wait
// for the peer, so handlers may call it.
func (e *Endpoint) Post(id, off uint64, buf []byte) error {
	p, ok := e.carrier.(Placer)
	if !ok || len(buf) == 0 {
		return ErrNoPost
	}
	at, err := e.posts.reserve(id, off)
	if err != nil {
		return err
	}
	key, err := p.Expose(buf)
	if err != nil {
		e.posts.unreserve(at)
		return fmt.Errorf("%w: %w", ErrNoPost, err)
	}
	if !e.notePost(at, key) {
		p.Hide(key)
		return ErrNoPost
	}
	return e.push()
}

// Cancel asks the peer to give up the buffer posted for id. Config.OnPlaced tells when it has, or had used it already.
func (e *Endpoint) Cancel(id uint64) error {
	e.noteCancel(id)
	return e.push()
}

// Place puts the first bytes of payload into the buffer that the peer has posted for exactly this id and offset, and returns how many fit:
// 0 if there is no such buffer. The peer's buffer is used up by it, filled or not. The payload is the caller's again when
// Place returns.
func (e *Endpoint) Place(id, off uint64, payload [][]byte) (int, error) {
	p, ok := e.carrier.(Placer)
	if !ok || !e.posts.offers(id, off) {
		return 0, nil
	}
	at, key, ok := e.posts.use(id, off)
	if !ok {
		return 0, e.Err()
	}
	n, skip := 0, 0
	for len(payload) > 0 && key.Len > 0 {
		k, err := e.placeChunk(p, key, &payload, &skip)
		if err != nil {
			<-e.done
			return n, e.Err()
		}
		n += k
		key.Addr += uint64(k)
		key.Len -= uint32(k)
	}
	e.note(header{id: controlPlaced, arg: uint64(at) | uint64(n)<<32}, body{})
	return n, e.push()
}

// placeChunk places as much as the carrier takes at a time, from byte skip of the first slice on.
func (e *Endpoint) placeChunk(p Placer, key Key, payload *[][]byte, skip *int) (n int, err error) {
	e.lock()
	defer e.unlock(corkRounds)
	most := min(int64(key.Len), int64(e.limits.Chunk))
	vec := e.posts.vec[:0]
	for len(*payload) > 0 && int64(n) < most {
		b := (*payload)[0][*skip:]
		if int64(len(b)) > most-int64(n) {
			b = b[:most-int64(n)]
			*skip += len(b)
		} else {
			*payload, *skip = (*payload)[1:], 0
		}
		if len(b) > 0 {
			vec = append(vec, b)
			n += len(b)
		}
	}
	e.posts.vec = vec
	defer clear(vec)
	if err := e.sendable(); err != nil || n == 0 {
		return 0, err
	}
	return n, e.checked(p.Place(key, vec))
}

// answerPosts tells the peer of adverts that it has cancelled.
func (e *Endpoint) answerPosts() {
	for {
		at, ok := e.posts.owesAnswer()
		if !ok {
			return
		}
		e.note(header{id: controlPlaced, arg: uint64(at)}, body{})
		e.push()
	}
}

func (p *posts) reserve(id, off uint64) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	free := -1
	for i := range p.mine {
		switch m := &p.mine[i]; {
		case !m.busy:
			free = i
		case m.id == id:
			return 0, ErrNoPost
		}
	}
	if free < 0 || p.ended {
		return 0, ErrNoPost
	}
	p.mine[free] = posted{advert: advert{id: id, off: off}, busy: true}
	return free, nil
}

func (p *posts) unreserve(at int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mine[at] = posted{}
}

// notePost completes a post, unless the endpoint has ended.
func (e *Endpoint) notePost(at int, key Key) bool {
	p := &e.posts
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	m := &p.mine[at]
	m.key, m.exposed = key, true
	e.note(header{id: controlPost, arg: uint64(at)}, numbers(m.args()))
	return true
}

// noteCancel has the peer asked for the buffer posted for id, once.
func (e *Endpoint) noteCancel(id uint64) {
	p := &e.posts
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.mine {
		if m := &p.mine[i]; m.id == id && m.exposed && !m.cancelled {
			m.cancelled = true
			e.note(header{id: controlCancel, arg: uint64(i)}, body{})
		}
	}
}

// bar lets nothing be posted any more, and reports whether anything is.
func (p *posts) bar() (exposed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for i := range p.mine {
		exposed = exposed || p.mine[i].exposed
	}
	return exposed
}

// end takes all permissions back, after bar.
func (p *posts) end(c Carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.mine {
		if m := &p.mine[i]; m.busy && m.exposed {
			c.(Placer).Hide(m.key)
			*m = posted{}
		}
	}
}

// advertised notes an advert of the peer.
func (p *posts) advertised(at uint64, args [4]uint64) error {
	var a advert
	if err := a.parse(args); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if at >= maxPosts || p.theirs[at].valid || p.theirs[at].answer {
		return fmt.Errorf("a second advert at %d", at)
	}
	p.theirs[at] = offered{advert: a, valid: true}
	return nil
}

// cancelled notes that the peer wants its buffer back. If it has been used the answer is on its way already.
func (p *posts) cancelled(at uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at >= maxPosts {
		return fmt.Errorf("no advert %d", at)
	}
	if t := &p.theirs[at]; t.valid {
		t.valid, t.answer = false, true
	}
	return nil
}

func (p *posts) owesAnswer() (at int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.theirs {
		if t := &p.theirs[i]; t.answer {
			t.answer = false
			return i, true
		}
	}
	return 0, false
}

// placed notes the answer to an advert of ours.
func (p *posts) placed(arg uint64, c Carrier) (id uint64, n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, count := arg&(1<<32-1), arg>>32
	if at >= maxPosts || !p.mine[at].exposed || count > uint64(p.mine[at].key.Len) {
		return 0, 0, fmt.Errorf("%d bytes placed into buffer %d, which isn't posted", count, at)
	}
	m := p.mine[at]
	c.(Placer).Hide(m.key)
	p.mine[at] = posted{}
	return m.id, int(count), nil
}

func (p *posts) offers(id, off uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.theirs {
		if t := &p.theirs[i]; t.valid && t.id == id && t.off == off {
			return true
		}
	}
	return false
}

func (p *posts) use(id, off uint64) (at int, key Key, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.theirs {
		if t := &p.theirs[i]; t.valid && t.id == id && t.off == off {
			t.valid = false
			return i, t.key, true
		}
	}
	return 0, Key{}, false
}
