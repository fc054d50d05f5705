package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
)

// groups are the multicast groups of rtnetlink(7): RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE.
const groups = 0x1 | 0x10 | 0x40 | 0x100 | 0x400

func watch(ctx context.Context, f func(Event)) error {
	news, err := netlink.Dial(routeFamily, &netlink.Config{Groups: groups})
	if err != nil {
		return fmt.Errorf("watch the network: %w", err)
	}
	defer news.Close()
	questions, err := ask()
	if err != nil {
		return fmt.Errorf("watch the network: %w", err)
	}
	defer questions.Close()
	var v view
	if err := v.load(questions); err != nil { // with news open: what changes meanwhile is told, perhaps twice, but not missed
		return fmt.Errorf("watch the network: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := make(chan []Change)
	ended := make(chan error, 1)
	go func() {
		defer close(changes)
		ended <- v.read(ctx, news, questions, changes)
	}()
	gather(ctx, changes, f)
	cancel()
	news.SetReadDeadline(time.Unix(1, 0)) // wakes read
	return <-ended
}

// read turns notifications into changes until ctx ends.
func (v *view) read(ctx context.Context, news, questions *netlink.Conn, changes chan<- []Change) error {
	for {
		messages, err := news.Receive()
		var list []Change
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.ENOBUFS): // netlink(7): the socket's buffer was full
			list = append(list, Change{Kind: "lost", Text: "notifications were lost: anything may have changed"})
			err = v.load(questions)
		}
		if err != nil {
			return fmt.Errorf("watch the network: %w", err)
		}
		for _, m := range messages {
			list = append(list, v.apply(m)...)
		}
		if len(list) == 0 {
			continue
		}
		select {
		case changes <- list:
		case <-ctx.Done():
			return nil
		}
	}
}

// A view is what a watcher knows, to tell what is new in a notification: the kernel also sends them for news of no concern
// here, and to say what it has said before.
type view struct {
	links     map[int]link
	addresses map[held]bool
}

// held is an address on the interface with an index.
type held struct {
	index  int
	prefix netip.Prefix
}

// load asks the kernel for everything that a view holds.
func (v *view) load(c *netlink.Conn) error {
	ls, err := links(c)
	if err != nil {
		return err
	}
	as, err := addresses(c)
	if err != nil {
		return err
	}
	*v = view{links: map[int]link{}, addresses: map[held]bool{}}
	for _, l := range ls {
		v.links[l.index] = l
	}
	for _, a := range as {
		if a.usable {
			v.addresses[held{a.index, a.prefix}] = true
		}
	}
	return nil
}

// apply says what a notification changes. One that can't be read changes nothing.
func (v *view) apply(m netlink.Message) []Change {
	switch m.Header.Type {
	case newLink, delLink:
		l, err := decodeLink(m.Data)
		// A bridge also tells of its ports, as links of the family AF_BRIDGE: those aren't interfaces that come and go.
		if err != nil || m.Data[0] != 0 {
			return nil
		}
		return v.applyLink(l, m.Header.Type == newLink)
	case newAddr, delAddr:
		a, err := decodeAddress(m.Data)
		if err != nil {
			return nil
		}
		return v.applyAddress(a, m.Header.Type == newAddr)
	case newRoute, delRoute:
		r, ok, err := decodeRoute(m.Data)
		if err != nil || !ok {
			return nil
		}
		return v.applyRoute(r, m.Header.Type == newRoute)
	}
	return nil
}

func (v *view) applyLink(l link, there bool) []Change {
	old, known := v.links[l.index]
	change := func(format string, args ...any) Change {
		return Change{Kind: "link", Device: l.name, Text: fmt.Sprintf(format, args...)}
	}
	if !there {
		delete(v.links, l.index)
		maps.DeleteFunc(v.addresses, func(h held, _ bool) bool { return h.index == l.index })
		if !known {
			return nil
		}
		return []Change{change("interface %s is gone", l.name)}
	}
	v.links[l.index] = l
	if !known {
		return []Change{change("interface %s is new (%s, %s)", l.name, l.kind, state(l.up(), l.running()))}
	}
	var list []Change
	if old.name != l.name {
		list = append(list, change("interface %s is now called %s", old.name, l.name))
	}
	if was, is := state(old.up(), old.running()), state(l.up(), l.running()); was != is {
		list = append(list, change("interface %s: %s, was %s", l.name, is, was))
	}
	if old.mtu != l.mtu {
		list = append(list, change("MTU of %s changed from %d to %d", l.name, old.mtu, l.mtu))
	}
	if old.master != l.master && old.master != 0 {
		list = append(list, change("interface %s left %s", l.name, v.name(old.master)))
	}
	if old.master != l.master && l.master != 0 {
		list = append(list, change("interface %s joined %s", l.name, v.name(l.master)))
	}
	if !slices.Equal(old.hardware, l.hardware) {
		list = append(list, change("hardware address of %s changed from %v to %v", l.name, old.hardware, l.hardware))
	}
	return list
}

// applyAddress leaves out addresses that can't be used, until they can.
func (v *view) applyAddress(a address, there bool) []Change {
	h := held{a.index, a.prefix}
	if there && !a.usable || v.addresses[h] == there {
		return nil
	}
	name := v.name(a.index)
	if there {
		v.addresses[h] = true
		return []Change{{Kind: "address", Device: name, Text: fmt.Sprintf("address %v added to %s", a.prefix, name)}}
	}
	delete(v.addresses, h)
	return []Change{{Kind: "address", Device: name, Text: fmt.Sprintf("address %v removed from %s", a.prefix, name)}}
}

func (v *view) applyRoute(r route, there bool) []Change {
	c := Change{Kind: "route", Text: "route to " + r.dst.String()}
	if r.dst.Bits() == 0 {
		c.Text = "default route"
		if r.dst.Addr().Is6() {
			c.Text = "default route of IPv6"
		}
	}
	if r.kind != "unicast" {
		c.Text += " (" + r.kind + ")"
	} else {
		for i, h := range r.hops {
			if i > 0 {
				c.Text += " and"
			}
			if h.gateway.IsValid() {
				c.Text += fmt.Sprintf(" via %v", h.gateway)
			}
			c.Text += " on " + v.name(h.index)
		}
		if len(r.hops) == 1 {
			c.Device = v.name(r.hops[0].index)
		}
	}
	if there {
		c.Text += " added"
	} else {
		c.Text += " removed"
	}
	return []Change{c}
}

// name is that of the interface with an index, or the index if there is no such interface any more.
func (v *view) name(index int) string {
	if l, ok := v.links[index]; ok {
		return l.name
	}
	return fmt.Sprintf("interface %d", index)
}
