package main

import (
	"bytes"
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/sockemu/sockemu/selector"
)

// writeReport writes what is known of the paths to a peer for people: a table of candidates, the check that failed for each that
// doesn't work, which is the fastest from which message size on, and the choice. width is that of the terminal, 0 if there is none.
func writeReport(b *bytes.Buffer, r selector.Report, width int) {
	fmt.Fprintf(b, "paths to %s for messages of %s on average, policy %s\n", printable(r.Peer), roughSize(r.Mean), printable(r.Policy))
	head := []string{"SUBSTRATE", "WORKS", "RTT MIN", "P50", "P99", "BANDWIDTH"}
	curves := make(map[selector.Path][]selector.Point)
	for i, c := range r.Curves {
		curves[c.Path] = c.Points
		for _, p := range c.Points {
			if i == 0 {
				head = append(head, "T("+byteSize(p.Size)+")")
			}
		}
	}
	table := [][]string{append(head, "ADDRESS")}
	for _, c := range r.Candidates {
		cells := []string{c.Substrate, "no", "-", "-", "-", "-"}
		if c.OK {
			cells[1] = "yes"
		}
		if c.Cost.RTT > 0 {
			cells[2], cells[3], cells[4] = shortTime(c.Cost.RTTMin), shortTime(c.Cost.RTT), shortTime(c.Cost.RTTP99)
		}
		if c.Cost.MBPerSecond > 0 {
			cells[5] = rateText(c.Cost.MBPerSecond)
		}
		points := curves[c.Path]
		for i := range len(head) - len(cells) {
			if i < len(points) {
				cells = append(cells, shortTime(points[i].Time))
			} else {
				cells = append(cells, "-")
			}
		}
		table = append(table, append(cells, cmp.Or(c.Addr, "-")))
	}
	writeTable(b, table, width)
	for _, c := range r.Candidates {
		if !c.OK && c.Reason != "" {
			fmt.Fprintf(b, "%s: %s\n", printable(c.Substrate), printable(c.Reason))
		}
		if c.About != "" {
			fmt.Fprintf(b, "%s %s: %s\n", printable(c.Substrate), printable(c.Addr), printable(c.About))
		}
	}
	if len(r.Best) > 1 {
		fmt.Fprintf(b, "fastest: %s", printable(r.Best[0].Substrate))
		for _, s := range r.Best[1:] {
			fmt.Fprintf(b, "; from about %s on: %s", roughSize(float64(s.From)), printable(s.Substrate))
		}
		b.WriteByte('\n')
	}
	if r.Choice.Substrate == "" {
		fmt.Fprintf(b, "choice: none: %s\n", printable(r.Choice.Why))
		return
	}
	fmt.Fprintf(b, "choice: %s: %s\n", printable(r.Choice.Substrate), printable(r.Choice.Why))
}

// rateText shows a bandwidth in the unit that fits.
func rateText(mbs float64) string {
	switch {
	case mbs >= 1000:
		return fmt.Sprintf("%.1f GB/s", mbs/1000)
	case mbs >= 10:
		return fmt.Sprintf("%.0f MB/s", mbs)
	case mbs >= 1:
		return fmt.Sprintf("%.1f MB/s", mbs)
	}
	return fmt.Sprintf("%.0f kB/s", mbs*1000)
}

// columnGap is what is between two columns.
const columnGap = 2

// writeTable writes rows of cells, in several tables if they don't fit in width (0: they do): each has as many columns as do, behind the first
// one, which they all have.
func writeTable(b *bytes.Buffer, rows [][]string, width int) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i := range row {
			row[i] = printable(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	for from := 1; from < len(widths); {
		to, used := from, widths[0]
		for to < len(widths) && (to == from || width == 0 || used+columnGap+widths[to] <= width) {
			used += columnGap + widths[to]
			to++
		}
		t := tabwriter.NewWriter(b, 0, 0, columnGap, ' ', 0)
		for _, row := range rows {
			fmt.Fprintln(t, strings.Join(append(row[:1:1], row[from:to]...), "\t"))
		}
		t.Flush()
		from = to
	}
}

// shortTime shows three digits of a time, in the unit that fits.
func shortTime(m selector.Micros) string {
	us := float64(time.Duration(m)) / 1e3
	switch {
	case us < 10:
		return fmt.Sprintf("%.2f us", us)
	case us < 100:
		return fmt.Sprintf("%.1f us", us)
	case us < 10_000:
		return fmt.Sprintf("%.0f us", us)
	}
	if us < 10_000_000 {
		return fmt.Sprintf("%.0f ms", us/1e3)
	}
	return fmt.Sprintf("%.0f s", us/1e6)
}

// roughSize shows three digits of a number of bytes.
func roughSize(n float64) string {
	unit := ""
	for _, u := range []string{"K", "M", "G"} {
		if n >= 1024 {
			n, unit = n/1024, u
		}
	}
	if n >= 100 {
		return fmt.Sprintf("%.0f%s", n, unit)
	}
	return fmt.Sprintf("%.3g%s", n, unit)
}

// byteSize shows a number of bytes to the byte.
func byteSize(n int) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%dG", n>>30)
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dM", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dK", n>>10)
	}
	return fmt.Sprint(n)
}
