// Package fault is a network inside the process whose links break on demand, for tests. It implements package substrate. All
// that happens by chance comes from one seed, and time is the test's own if it runs in a testing/synctest bubble: everything
// that waits does so on channels, sync.Cond or timers, and no goroutine runs unless a caller's does.
//
//	n := fault.New(fault.Config{Seed: 1})
//	defer n.Close()
//	l, err := n.Host("b").Listen(ctx, "b:1")
//	c, err := n.Host("a").Dial(ctx, "b:1")
//	n.Between("a", "b").Shape(fault.Both, fault.Shape{Delay: 10 * time.Millisecond})
//	n.CutAll()
//
// # What can go wrong
//
// Faults are set by Scope: All links, those Between two hosts, one link (On). A setting holds for links made later, too, until
// it is changed; an action (Cut, ResetAfter) hits the links that exist.
//
//   - Shape: delay, jitter, rate, small pieces and short reads, per direction. Order is always kept.
//   - Stall: a direction stands still and goes on where it was when the stall is lifted, as TCP does after loss.
//   - Blackhole: bytes vanish. A byte stream can't skip any, so a direction that lost one delivers nothing more, not even after
//     the hole is gone: such a link is stuck until somebody closes or cuts it.
//   - Cut: both ends see a reset now. Of the bytes in flight a part, chosen by chance, is still delivered; with even chance
//     a part of what had arrived and was not yet read is lost as well.
//   - ResetAfter: a reset exactly when byte n of a direction has been delivered; everything that arrived can be read.
//   - Partition: dials hang, links stall. A Refuse-d host answers dials with Refused.
//   - DuplicateDials and LateDials: connections at the listener that no living dialer stands behind.
//   - Route: a load balancer, which sends a dial elsewhere than its address says.
//
// # What is not modelled
//
// There are no acknowledgements: room in the buffer of a direction is free again when its receiver reads, without delay, and
// a one-way blackhole hurts one way only. Chance is drawn per link, from the seed, the two hosts and how many dials went
// between them before: a run repeats exactly as far as its own goroutines dial and send in the same order.
package fault
