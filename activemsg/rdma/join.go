package rdma

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

// joinTime bounds how long the ends of an iWARP connection wait for each other.
const joinTime = 4 * time.Second

// IWARP reports whether connections are iWARP's. Those need ConnConfig.Local, and one end has ConnConfig.Await.
func (a *Adapter) IWARP() bool { return a.gid.Type == verbs.GIDIWARP }

// meet says where an end of an iWARP connection is.
func (conn *Conn) meet() error {
	j, ok := conn.carrier.qp.(verbs.Joiner)
	if !ok {
		return errUnsupported
	}
	local := conn.cfg.Local.Unmap()
	if !local.IsValid() || local.IsUnspecified() || local.Zone() != "" {
		return fmt.Errorf("rdma: %s is iWARP, which needs the address of this end, not %q", conn.carrier.adapter.Device(), conn.cfg.Local)
	}
	conn.info.link = linkIWARP
	conn.info.gid = local.As16()
	if !conn.cfg.Await {
		return nil
	}
	at, err := j.Await(local)
	conn.info.lid = at.Port()
	return err
}

// join waits for the peer, or connects to it. The key is what the awaited end says of its queue pair.
func (conn *Conn) join(j verbs.Joiner, p *info) error {
	key := func(i *info) uint64 { return uint64(i.qp)<<32 | uint64(i.psn) }
	at := verbs.Joint{Local: conn.cfg.Local.Unmap(), Key: key(&conn.info)}
	switch {
	case conn.cfg.Await == (p.lid != 0):
		return fmt.Errorf("%w: of two ends of iWARP one is awaited", verbs.ErrInvalid)
	case !conn.cfg.Await:
		at.Remote, at.Key = netip.AddrPortFrom(p.gid.Addr(), p.lid), key(p)
	}
	ctx, cancel := context.WithTimeout(context.Background(), joinTime)
	defer cancel()
	return j.Join(ctx, at)
}
