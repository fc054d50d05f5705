package endpoint

import (
	"fmt"
	"time"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/substrate"
	verbs "github.com/sockemu/sockemu/substrate_verbs"
)

// Links over a shared queue pair that is a pipe: over real ones see substrate_verbs.
func init() {
	for seal, cuts := range map[bool][]time.Duration{false: {0, 20 * time.Millisecond}, true: {20 * time.Millisecond}} {
		for _, cut := range cuts {
			if raceOn {
				cut *= 10
			}
			morePipes[fmt.Sprintf("verbs/seal=%v/cut every %v", seal, cut)] = makePipe(overVerbs, seal, cut)
		}
	}
}

func overVerbs() (substrate.Substrate, substrate.Substrate, string, func()) {
	f := verbs.NewPipes(activemsg.PipeConfig{})
	o := verbs.Options{Fabric: f, Death: 30 * time.Second} // a busy machine isn't taken for a dead peer
	a, b := verbs.New(o), verbs.New(o)
	return a, b, "127.0.0.1:0", func() { a.Close(); b.Close() }
}
