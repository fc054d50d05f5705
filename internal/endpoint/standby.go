package endpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/sockemu/sockemu/internal/session"
	"github.com/sockemu/sockemu/selector"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// A standby link is made, and both processes have proved themselves over it, while the connection still runs over another one.
// Then the dialer lets go of that one and says Go with where it stands; the answer says where the other end stands, and both
// go on here. What is interrupted lasts one round trip of the new link. Both messages are encrypted with the keys of the
// handshake, whether or not the link is sealed. Before Go the link can be measured like a probe link: each request stands
// behind a message without bytes.

// standbyTime bounds the life of a standby link before Go. See also aloneTrips.
const standbyTime = 5 * time.Second

// maxNote is the longest message of a standby link: a status and a Setup, sealed.
const maxNote = wire.MaxNoise

func sendNote(link substrate.Link, a agreed, plain []byte) error {
	sealed, err := a.out.Encrypt(nil, nil, plain)
	if err != nil {
		return err
	}
	return sendAll(link, append(binary.BigEndian.AppendUint16(nil, uint16(len(sealed))), sealed...))
}

func recvNote(link substrate.Link, a agreed) ([]byte, error) {
	var head [2]byte
	if err := recvFull(link, head[:]); err != nil {
		return nil, err
	}
	return readNote(link, a, int(binary.BigEndian.Uint16(head[:])))
}

// readNote reads the rest of a message, n bytes.
func readNote(link substrate.Link, a agreed, n int) ([]byte, error) {
	if n > maxNote {
		return nil, fmt.Errorf("%w: message of %d bytes on a standby link", substrate.ErrProtocol, n)
	}
	sealed := make([]byte, n)
	if err := recvFull(link, sealed); err != nil {
		return nil, err
	}
	plain, err := a.in.Decrypt(nil, nil, sealed)
	if err != nil || len(plain) == 0 {
		return nil, fmt.Errorf("%w: message on a standby link is not authentic", substrate.ErrProtocol)
	}
	return plain, nil
}

// goOver says Go on a standby link. It closes the link on error.
func (e *Endpoint) goOver(ctx context.Context, s *session.Session, path selector.Path, link substrate.Link, a agreed, my wire.Setup) (session.NewLink, error) {
	done := guard(ctx, link)
	fail := func(err error) (session.NewLink, error) {
		done()
		link.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return session.NewLink{}, fmt.Errorf("going over to %s: %w", path, err)
	}
	my = e.identify(my, link, e.knownAs(s))
	if err := sendNote(link, a, append([]byte{byte(wire.StatusOK)}, my.Append(nil)...)); err != nil {
		return fail(err)
	}
	answer, err := recvNote(link, a)
	if err != nil {
		return fail(err)
	}
	if st := wire.Status(answer[0]); st != wire.StatusOK {
		return fail(&session.RefusedError{Status: st, Addr: path.Addr})
	}
	peer, err := wire.ParseSetup(answer[1:])
	if err != nil {
		return fail(err)
	}
	if !done() {
		return fail(context.Cause(ctx))
	}
	return e.newLink(path, link, a, my.LinkNo, true, peer), nil
}

// serveStandby answers a standby link, waits for Go, and moves the connection over.
func (l *Listener) serveStandby(link substrate.Link, o offer, s *session.Session) {
	e := l.e
	a, err := acceptOffer(link, o, e.identify(wire.Setup{Epoch: o.peer.Epoch}, link, e.knownAs(s)))
	if err == nil {
		end := time.Now().Add(trips(aloneTrips, a.rtt, standbyTime))
		link.SetSendDeadline(end)
		link.SetRecvDeadline(end)
		err = l.awaitGo(link, a, s)
	}
	if err != nil {
		e.log.Debug("standby link not used", "gid", s.GID(), "from", link.RemoteAddr(), "err", err)
		link.Close()
	}
}

// recvGo waits for Go and answers probes until it comes.
func recvGo(link substrate.Link, a agreed) ([]byte, error) {
	probes := newProbes(link)
	for {
		var head [2]byte
		if err := recvFull(link, head[:]); err != nil {
			return nil, err
		}
		if n := int(binary.BigEndian.Uint16(head[:])); n > 0 {
			return readNote(link, a, n)
		}
		if err := probes.answer(); err != nil {
			return nil, err
		}
	}
}

func (l *Listener) awaitGo(link substrate.Link, a agreed, s *session.Session) error {
	e := l.e
	note, err := recvGo(link, a)
	if err != nil {
		return err
	}
	peer, err := wire.ParseSetup(note[1:])
	if err != nil {
		return err
	}
	link.SetSendDeadline(time.Now().Add(e.cfg.HandshakeTimeout))
	my, st := s.AdmitResume(peer, l.sub.Name())
	if st != wire.StatusOK {
		sendNote(link, a, []byte{byte(st)})
		return errors.New(st.String())
	}
	my = e.identify(my, link, e.knownAs(s))
	if err := sendNote(link, a, append([]byte{byte(wire.StatusOK)}, my.Append(nil)...)); err != nil {
		s.AttemptFailed(peer.LinkNo)
		return err
	}
	clearDeadlines(link)
	if err := s.Bind(e.newLink(l.path(), link, a, peer.LinkNo, false, peer)); err != nil {
		e.log.Debug("link not bound", "gid", s.GID(), "err", err)
		return nil
	}
	e.count.moved.Add(1)
	return nil
}
