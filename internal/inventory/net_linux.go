package inventory

import (
	"cmp"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
)

// interfaces lists the interfaces of the calling thread's network namespace.
func interfaces(root fs.FS) ([]Interface, error) {
	c, err := ask()
	if err != nil {
		return []Interface{}, err
	}
	defer c.Close()
	ls, err := links(c)
	if err != nil {
		return []Interface{}, err
	}
	as, err := addresses(c)
	return describe(root, ls, as), err
}

func describe(root fs.FS, ls []link, as []address) []Interface {
	names := make(map[int]string)
	for _, l := range ls {
		names[l.index] = l.name
	}
	all := make([]Interface, 0, len(ls))
	for _, l := range ls {
		i := Interface{
			Name: l.name, Index: l.index, Kind: l.kind, MTU: l.mtu, Up: l.up(), Running: l.running(), Master: names[l.master],
			SpeedMbps: speed(root, l), Addresses: []netip.Prefix{},
		}
		if slices.ContainsFunc(l.hardware, func(b byte) bool { return b != 0 }) {
			i.Hardware = l.hardware.String()
		}
		for _, a := range as {
			if a.index == l.index && a.usable {
				i.Addresses = append(i.Addresses, a.prefix)
			}
		}
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b Interface) int { return cmp.Compare(a.Index, b.Index) })
	return all
}

// speed reads what sysfs says about an interface, in Mbit/s. sysfs may show another network namespace than the thread's: there an
// interface of that name is another one.
func speed(root fs.FS, l link) int {
	if !fs.ValidPath(l.name) {
		return 0
	}
	dir := path.Join("sys/class/net", l.name)
	if number(root, path.Join(dir, "ifindex")) != l.index {
		return 0
	}
	return max(0, number(root, path.Join(dir, "speed"))) // -1, or an error, if it is unknown
}

// routes lists the main table of the calling thread's network namespace, and says how many more there are.
func routes(known []Interface) ([]Route, int, error) {
	c, err := ask()
	if err != nil {
		return []Route{}, 0, err
	}
	defer c.Close()
	messages, err := dump(c, getRoute, routeHeader)
	if err != nil {
		return []Route{}, 0, err
	}
	names := make(map[int]string)
	for _, i := range known {
		names[i.Index] = i.Name
	}
	all, omitted := []Route{}, 0
	for _, m := range messages {
		r, ok, err := decodeRoute(m.Data)
		if err != nil {
			return all, omitted, err
		}
		if !ok {
			continue
		}
		for _, h := range r.hops {
			if len(all) == maxRoutes {
				omitted++
				continue
			}
			all = append(all, r.through(h, names))
		}
	}
	return all, omitted, nil
}

// through is the route with one of its hops.
func (r route) through(h hop, names map[int]string) Route {
	out := Route{Destination: r.dst, Type: r.kind, Device: names[h.index], Metric: r.metric}
	if h.gateway.IsValid() {
		out.Gateway = h.gateway.String()
	}
	if r.source.IsValid() {
		out.Source = r.source.String()
	}
	return out
}

// wayTo asks the kernel for the way to peer. That to an address of this host is from the address itself, on the interface that has it.
func wayTo(peer netip.Addr, list []Interface) (way, error) {
	c, err := ask()
	if err != nil {
		return way{}, err
	}
	defer c.Close()
	device := 0
	for _, i := range list {
		if i.Name == peer.Zone() {
			device = i.Index
		}
	}
	peer = peer.Unmap().WithZone("")
	r, err := routeTo(c, peer, device)
	if err != nil {
		return way{}, fmt.Errorf("%w: no way to %v: %w", ErrNoRDMA, peer, err)
	}
	if r.kind == "local" {
		out, err := holder(list, peer)
		return way{out: out, source: peer}, err
	}
	if len(r.hops) == 0 {
		return way{}, fmt.Errorf("%w: the route to %v has no next hop", ErrNoRDMA, peer)
	}
	at := slices.IndexFunc(list, func(i Interface) bool { return i.Index == r.hops[0].index })
	if r.kind != "unicast" || at < 0 || !r.source.IsValid() {
		return way{}, fmt.Errorf("%w: the route to %v is %s, and leads nowhere", ErrNoRDMA, peer, cmp.Or(r.kind, "of an unknown type"))
	}
	return way{out: list[at], source: r.source, gateway: r.hops[0].gateway}, nil
}
