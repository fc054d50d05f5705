package activemsg

import "fmt"

// Handlers is a table of handlers by id. Fill it before the first New that uses it; after that it may be shared by any number of
// endpoints and must not change.
type Handlers struct {
	table [256]handler
}

type handler struct {
	stream func(*In)
	quick  func(*Msg)
}

// Stream registers f for messages of any length. It runs in a goroutine of its own, from the first segment on. When it returns,
// what it has not read of the message is discarded.
func (h *Handlers) Stream(id uint8, f func(in *In)) { h.add(id, handler{stream: f}) }

// Quick registers f for messages of one segment. It runs on the receiving goroutine, must not wait, and must not keep m or what it
// holds after its return.
func (h *Handlers) Quick(id uint8, f func(m *Msg)) { h.add(id, handler{quick: f}) }

func (h *Handlers) add(id uint8, n handler) {
	if at := &h.table[id]; at.stream != nil || at.quick != nil {
		panic(fmt.Sprintf("activemsg: two handlers with id %d", id))
	}
	h.table[id] = n
}

// Msg is what a Quick handler gets.
type Msg struct {
	Endpoint *Endpoint
	Payload  []byte
}

// Args returns the arguments of a message that Short sent; missing ones are 0.
func (m *Msg) Args() (args [4]uint64) {
	getArgs(&args, m.Payload)
	return args
}
