package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// The verdicts.
const (
	verdictOK     = "ok"
	verdictFailed = "failed"
)

// A verdict is how a demo ended; as JSON, the object that scripts read (design, section 10).
type verdict struct {
	Verdict string `json:"verdict"`
	Reason  string `json:"reason,omitempty"` // why it isn't ok

	BytesUp    uint64 `json:"bytes_up"`    // from client to server, verified
	BytesDown  uint64 `json:"bytes_down"`  // from server to client, verified
	SHA256Up   string `json:"sha256_up"`   // of what the server received
	SHA256Down string `json:"sha256_down"` // of what the client received

	Cuts         uint64     `json:"cuts"`           // TCP connections that the relay cut
	Outages      int        `json:"outages"`        // of them, followed by a time with no way through
	LinksLost    uint64     `json:"links_lost"`     // as both ends of the connection saw it
	Replayed     uint64     `json:"replayed"`       // bytes sent again on a new link
	Replacements int        `json:"replacements"`   // of the server process
	Fast         fastResult `json:"fast"`           // what happened with shared memory
	LongestGapMS float64    `json:"longest_gap_ms"` // the longest time that an application waited for a byte
	Seconds      float64    `json:"seconds"`
	Seed         uint64     `json:"seed"`
	GID          string     `json:"gid"` // the connection's identity, the same throughout

	PIDs     demoPIDs    `json:"pids"`
	PlainTCP plainResult `json:"plain_tcp"`
}

// demoPIDs are the processes that took part.
type demoPIDs struct {
	Demo        int `json:"demo"`
	Client      int `json:"client"`
	Server      int `json:"server"`
	Replacement int `json:"replacement"` // of the server
}

// judge fills in the verdict: ok only if everything that the demo promises has happened.
func (v *verdict) judge(st *demoState, runErr error) {
	c, s := st.Client, st.Server
	reason := ""
	switch {
	case runErr != nil:
		reason = runErr.Error()
	case c.Ev != evDone || s.Ev != evDone:
		reason = "the stream didn't come to its end"
	case c.Sent != s.Received || s.Sent != c.Received:
		reason = fmt.Sprintf("sent %d bytes, received %d; the other way %d and %d", c.Sent, s.Received, s.Sent, c.Received)
	case c.SentSum != s.ReceivedSum || s.SentSum != c.ReceivedSum || c.SentSum == "" || s.SentSum == "":
		reason = "the SHA-256 of what was sent and of what was received differ"
	case v.BytesUp == 0 || v.BytesDown == 0:
		reason = "nothing was moved"
	case v.Cuts == 0:
		reason = "nothing was cut, so nothing was shown"
	case v.Replacements == 0:
		reason = "the server process wasn't replaced"
	case v.Fast.Missing == "" && (v.Fast.Moves != 2 || v.Fast.Failovers != 1):
		reason = fmt.Sprintf("moved to shared memory %d times and fell back %d times, want 2 and 1", v.Fast.Moves, v.Fast.Failovers)
	}
	v.Verdict, v.Reason = verdictOK, ""
	if reason != "" {
		v.Verdict, v.Reason = verdictFailed, reason
	}
}

// choiceAddrs are the addresses in the text of a move, which say nothing here.
var choiceAddrs = regexp.MustCompile(`(?:@\S+)? -> (\w+)(?:@\S+)? \(\S+\)`)

// print tells a human.
func (v *verdict) print(w io.Writer) {
	fmt.Fprintln(w)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-16s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("plain TCP", "%s", v.PlainTCP)
	if v.GID != "" { // else there was no connection to tell anything about
		v.printStream(row)
	}
	fmt.Fprintln(w)
	if v.Verdict == verdictOK {
		fmt.Fprintln(w, "  OK: every byte verified: nothing lost, repeated or reordered")
	} else {
		fmt.Fprintf(w, "  FAILED (--seed %d): %s\n", v.Seed, v.Reason)
	}
}

// printStream tells what became of the connection. What a demo that failed has not come to is left out.
func (v *verdict) printStream(row func(name, format string, args ...any)) {
	row("sockemu", "%.1f s through %d cuts of TCP connections and %d outage%s", v.Seconds, v.Cuts, v.Outages, plural(v.Outages))
	row("client → server", "%s", sumText(v.BytesUp, v.SHA256Up))
	row("server → client", "%s", sumText(v.BytesDown, v.SHA256Down))
	row("replayed", "%s after %d lost links", bytesText(v.Replayed), v.LinksLost)
	switch f := v.Fast; {
	case f.Missing != "":
		row("shared memory", "not here: %s", f.Missing)
	case f.Moves > 0:
		choice, _, _ := strings.Cut(choiceAddrs.ReplaceAllString(f.Choice, " -> $1"), "; rejected: ")
		choice, _, _ = strings.Cut(choice, "; now ")
		row("shared memory", "%s", choice)
		row("", "%.0f MB/s before, %.0f MB/s after, hashing included", f.TCPRate, f.SHMRate)
	}
	switch f := v.Fast; {
	case f.Failovers > 0 && f.Moves > 1:
		row("its failure", "%.1f ms without a byte, then TCP; returned when it worked again", f.FailoverMS)
	case f.Failovers > 0:
		row("its failure", "%.1f ms without a byte, then TCP", f.FailoverMS)
	}
	row("longest gap", "%.2f s without a byte, as the applications saw it", v.LongestGapMS/1000)
	row("processes", "client %d, server %d, its replacement %d, relay %d", v.PIDs.Client, v.PIDs.Server, v.PIDs.Replacement, v.PIDs.Demo)
	row("connection", "%s", v.GID)
}

// sumText is a number of bytes and what they sum up to, if that is known.
func sumText(n uint64, sum string) string {
	if sum == "" {
		return bytesText(n)
	}
	return bytesText(n) + "  sha256 " + short(sum)
}

// short is the beginning of a digest, enough to compare by eye.
func short(digest string) string { return digest[:min(len(digest), 16)] }

// bytesText writes n with a unit, as 1.23 GB.
func bytesText(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n), "kMGTPE"
	for f /= 1000; f >= 999.5; f /= 1000 {
		units = units[1:]
	}
	return fmt.Sprintf("%.3g %cB", f, units[0])
}

// grouped writes n with its digits in groups of three.
func grouped(n uint64) string {
	s := fmt.Sprint(n)
	var b strings.Builder
	for i, d := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// seconds writes d as 1.23 s.
func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
