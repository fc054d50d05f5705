package inventory

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
)

// WriteText writes the inventory for people, in aligned columns.
func (v Inventory) WriteText(w io.Writer) error {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			s := fmt.Sprint(c)
			fmt.Fprint(t, printable(cmp.Or(s, "-")))
		}
		fmt.Fprintln(t)
	}
	section := func(title string) {
		t.Flush()
		fmt.Fprintf(&b, "\n%s\n", title)
	}
	row("host", strings.TrimSpace(v.Hostname+" "+v.HostID))
	row("system", fmt.Sprintf("%s %s %s, %d CPUs", v.OS, v.Kernel, v.Arch, v.CPUs))
	if v.NetworkNamespace != 0 {
		row("network namespace", v.NetworkNamespace)
	}
	row("tcp", v.TCP.text())
	row("udp", v.UDP.text())
	row("shared memory", v.SharedMemory.text())
	row("rdma", v.RDMA.text())

	section("Interfaces")
	row("NAME", "KIND", "STATE", "MTU", "SPEED", "MASTER", "RDMA", "ADDRESSES")
	for _, i := range v.Interfaces {
		row(i.Name, i.Kind, state(i.Up, i.Running), i.MTU, speedText(i.SpeedMbps), i.Master, v.RDMA.deviceText(i.Name), join(i.Addresses))
	}
	if len(v.Routes) > 0 {
		section("Routes")
		row("DESTINATION", "GATEWAY", "DEVICE", "METRIC", "SOURCE", "TYPE")
		for _, r := range v.Routes {
			row(r.Destination, r.Gateway, r.Device, r.Metric, r.Source, r.Type)
		}
		if v.RoutesOmitted > 0 {
			row(fmt.Sprintf("and %d more", v.RoutesOmitted))
		}
	}
	for _, d := range v.RDMA.Devices {
		section("RDMA device " + printable(d.text()))
		row("PORT", "STATE", "LINK", "RATE", "INDEX", "GID", "TYPE", "INTERFACE")
		for _, p := range d.Ports {
			port := []any{p.Port, p.State, p.LinkLayer, p.Rate}
			for _, g := range p.GIDs {
				row(append(port, g.Index, g.GID, g.Type, g.NetDevice)...)
				port = []any{" ", " ", " ", " "}
			}
			if len(p.GIDs) == 0 {
				row(append(port, "", "", "", "")...)
			}
		}
	}
	if len(v.RDMAAddresses) > 0 {
		section("RDMA addresses")
		row("ADDRESS", "INTERFACE", "DEVICE", "PORT", "INDEX", "TYPE")
		for _, a := range v.RDMAAddresses {
			if m := a.Mapping; m != nil {
				row(a.Address, a.NetDevice, m.Device, m.Port, m.GIDIndex, m.GIDType)
			} else {
				row(a.Address, a.NetDevice, "none: "+a.Reason)
			}
		}
	}
	if len(v.Problems) > 0 {
		section("Problems")
		for _, p := range v.Problems {
			row(p)
		}
	}
	t.Flush()
	_, err := w.Write(trimLines(b.Bytes()))
	return err
}

func (t TCP) text() string {
	if t.Congestion == "" {
		return "congestion control unknown"
	}
	return fmt.Sprintf("%s (available: %s)", t.Congestion, strings.Join(t.Available, ", "))
}

func (u UDP) text() string {
	return fmt.Sprintf("segmentation offload %s, receive offload %s", yes(u.GSO, "needs Linux 4.18"), yes(u.GRO, "needs Linux 5.0"))
}

func (m SharedMemory) text() string {
	return fmt.Sprintf("memfd %s, runtime directory %s", yes(m.Memfd, "needs Linux 3.17"), cmp.Or(m.RuntimeDir, "none"))
}

func (r RDMA) text() string {
	if r.None != "" {
		return "none: " + r.None
	}
	return fmt.Sprintf("%d of %d devices have an active port", r.active(), len(r.Devices))
}

func (r RDMA) active() int {
	n := 0
	for _, d := range r.Devices {
		for _, p := range d.Ports {
			if p.State == "ACTIVE" {
				n++
				break
			}
		}
	}
	return n
}

// deviceText names the device and port behind an interface.
func (r RDMA) deviceText(netdevice string) string {
	d, port, err := r.DeviceForNetdevice(netdevice)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s/%d", d, port)
}

func (d RDMADevice) text() string {
	s := fmt.Sprintf("%s: %s, %s, firmware %s", d.Name, cmp.Or(d.Transport, "no ports"), cmp.Or(d.NodeType, "unknown type"), cmp.Or(d.Firmware, "unknown"))
	if len(d.CharDevices) == 0 {
		return s + ", not usable by programs (no uverbs device)"
	}
	return s + ", " + strings.Join(d.CharDevices, " ")
}

func speedText(mbps int) string {
	switch {
	case mbps == 0:
		return ""
	case mbps%1000 == 0:
		return fmt.Sprintf("%dG", mbps/1000)
	}
	return fmt.Sprintf("%dM", mbps)
}

func yes(b bool, otherwise string) string {
	if b {
		return "yes"
	}
	return "no (" + otherwise + ")"
}

func join[T fmt.Stringer](list []T) string {
	var s []string
	for _, v := range list {
		s = append(s, v.String())
	}
	return strings.Join(s, " ")
}

// printable keeps what a driver or an administrator put into a name from steering the terminal or breaking the columns.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || unicode.IsGraphic(r) && !unicode.IsSpace(r) {
			return r
		}
		return '?'
	}, s)
}

// trimLines removes the blanks with which tabwriter fills a last empty cell.
func trimLines(b []byte) []byte {
	var out []byte
	for l := range bytes.Lines(b) {
		out = append(append(out, bytes.TrimRight(l, " \n")...), '\n')
	}
	return out
}
