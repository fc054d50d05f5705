package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/sockemu/sockemu/internal/session"
)

// Export takes the connection of s out of this process and returns it as bytes. They hold its secret: keep them so.
func (e *Endpoint) Export(ctx context.Context, s *session.Session) ([]byte, error) {
	e.mu.Lock()
	en := e.sessions[endOf(s)]
	home := ""
	if en != nil {
		home = en.home
	}
	e.mu.Unlock()
	st, err := s.Export(ctx)
	if err != nil {
		return nil, err
	}
	st.Home = home
	e.forget(s) // a resume that comes here finds nobody, not a closed connection
	return st.Encode(e.cfg.ClusterKey), nil
}

// maxImported bounds what is remembered of imported states.
const maxImported = 1 << 16

// importKey names a state: no other process may hold that end in that epoch.
type importKey struct {
	end
	epoch uint64
}

// Import continues a connection that Export took out of another process, or of this one.
func (e *Endpoint) Import(ctx context.Context, state []byte, hold bool) (*session.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	st, err := session.DecodeState(state, e.cfg.ClusterKey)
	if err != nil {
		return nil, err
	}
	key := importKey{end{st.GID, st.Initiator}, st.Epoch}
	e.mu.Lock()
	_, again := e.imported[key]
	if !again {
		if len(e.imported) >= maxImported {
			clear(e.imported) // the peer's epoch fences off older states all the same
		}
		e.imported[key] = struct{}{}
	}
	e.mu.Unlock()
	if again {
		return nil, fmt.Errorf("%w: connection %s, epoch %d", session.ErrStateReplayed, st.GID, st.Epoch)
	}
	s, err := session.Import(st, e.cfg.Session, e, e.pool)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrStateDamaged, err)
	}
	s.SetAddrs(parseAddr(st.Local), parseAddr(st.Remote))
	if old := e.lookup(st.GID, st.Initiator); old != nil && old.Over() {
		e.forget(old) // an earlier holder, which was fenced off
	}
	if err := e.add(&entry{s: s, home: st.Home, imported: true, held: hold, reach: len(st.PeerAddrs) > 0}); err != nil {
		s.Abort(net.ErrClosed, err.Error())
		if !errors.Is(err, net.ErrClosed) {
			err = fmt.Errorf("%w: %w", session.ErrStateReplayed, err)
		}
		return nil, err
	}
	e.count.importedN.Add(1)
	s.RetryNow()
	return s, nil
}

// Release puts a connection to use that was imported with hold: until then the peer hears nothing of its new holder.
func (e *Endpoint) Release(s *session.Session) {
	e.mu.Lock()
	if en := e.sessions[endOf(s)]; en != nil {
		en.held = false
	}
	e.mu.Unlock()
	s.RetryNow()
}

// parseAddr restores an address that an application saw before the move. It resolves no names.
func parseAddr(s string) net.Addr {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return net.TCPAddrFromAddrPort(ap)
	}
	return textAddr(s)
}

// textAddr is an address of a network this process doesn't have.
type textAddr string

func (textAddr) Network() string  { return "sockemu" }
func (a textAddr) String() string { return string(a) }
