package endpoint

import (
	"time"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// What a link that is turned away may still say before it is closed.
const (
	farewell     = 100 * time.Millisecond
	farewellMost = 64 << 10
)

// turnAway refuses a link, because of err if that isn't nil.
func (l *Listener) turnAway(link substrate.Link, st wire.Status, err error) {
	l.e.count.refused.Add(1)
	l.e.log.Debug("link turned away", "from", link.RemoteAddr(), "status", st, "err", err)
	refuse(link, l.e.proc, st)
	seeOff(link)
}

// refuse answers a link with a status and nothing else. A new link takes so few bytes at once, so the deadline hardly bounds a wait: most of it
// is for a process that isn't run for a while between this line and the next.
func refuse(link substrate.Link, me gid.ProcessID, st wire.Status) {
	link.SetSendDeadline(time.Now().Add(time.Second))
	sendAll(link, wire.Reply{Version: wire.Version, Status: st, Proc: me}.Append(nil))
}

// seeOff closes a link when its peer has done so, or has had the time for it. Some systems reset a connection that is closed with unread bytes, and
// what was sent before is lost then.
func seeOff(link substrate.Link) {
	defer link.Close()
	link.SetRecvDeadline(time.Now().Add(farewell))
	var buf [2 << 10]byte
	for read := 0; read < farewellMost; {
		n, err := link.Recv(buf[:])
		if read += n; err != nil {
			return
		}
	}
}
