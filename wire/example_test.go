package wire_test

import (
	"errors"
	"fmt"

	"github.com/sockemu/sockemu/gid"
	"github.com/sockemu/sockemu/wire"
)

// The control channel is a row of records. What has arrived of them may end anywhere.
func ExampleParseRecord() {
	g, _ := gid.Parse("0123456789abcdef0123456789abcdef")
	state := wire.Record{Type: wire.TypeState, GID: g, LinkNo: 1, Ack: 4096, Sent: 100}
	ping := wire.Record{Type: wire.TypePing, Token: 7}
	arrived := ping.Append(state.Append(nil))
	arrived = arrived[:len(arrived)-1] // the last byte is still under way
	for {
		var r wire.Record
		n, err := wire.ParseRecord(arrived, &r)
		if err != nil || n == 0 {
			fmt.Println(len(arrived), "bytes wait for the rest,", err)
			break
		}
		fmt.Println(&r)
		arrived = arrived[n:]
	}

	_, err := wire.ParseRecord([]byte{99, 0, 0, 0}, new(wire.Record))
	fmt.Println(errors.Is(err, wire.ErrFormat), err)
	// Output:
	// STATE 01234567 link=1 ack=4096 limit=0 sent=100 flags=0x0
	// 11 bytes wait for the rest, <nil>
	// true wire: malformed message: unknown mandatory record type 99
}

// Who answers something else doesn't speak sockemu.
func ExampleParseReply() {
	_, err := wire.ParseReply([]byte("HTTP/1.1 400 Bad Request\r\nhost: x"))
	fmt.Println(errors.Is(err, wire.ErrMagic), err)

	r, err := wire.ParseReply(wire.Reply{Version: wire.Version, Status: wire.StatusBusy}.Append(nil))
	fmt.Println(r.Status, err)
	// Output:
	// true not a sockemu message
	// busy: too many handshakes in progress <nil>
}
