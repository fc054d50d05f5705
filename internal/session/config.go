package session

import (
	"log/slog"
	"math/rand/v2"
	"time"
)

// Config holds the tunables of a session. Zero fields take the defaults.
type Config struct {
	// Patience is how long the connection may be without a working path before it ends with ErrPatience. Default 10 minutes;
	// days are fine.
	Patience time.Duration
	// Linger is how long Close waits for the peer's session to have everything. Default 10 s. Negative: Close resets.
	Linger time.Duration
	// SendBuffer bounds the bytes kept for replay, per connection. Default 32 MiB: twice the bandwidth-delay product of
	// 1 Gb/s at 120 ms. Memory is taken only as it is needed.
	SendBuffer int
	// RecvBuffer bounds the bytes that have arrived and were not read, while a link is in record mode. Default 16 MiB.
	RecvBuffer int
	// AckEvery is how many bytes arrive before an acknowledgement leaves at once. Default 256 KiB.
	AckEvery int
	// AckDelay is how long an acknowledgement of fewer bytes may wait for company. Default 20 ms.
	AckDelay time.Duration
	// ProbeEvery is how often the peer is asked about data that isn't acknowledged. Default a third of DeadAfter, 1 s at most.
	ProbeEvery time.Duration
	// DeadAfter is how long a link may fail to deliver while the peer's reader is waiting, before it is replaced. Default 3 s.
	DeadAfter time.Duration
	// KeepAlive is how often an idle link that carries its own control (sealed, or without a control channel) is asked for a sign of
	// life. Default 5 s.
	KeepAlive time.Duration
	// GoneAfter is how long the peer's address may answer "no such connection" before the peer's end is taken for lost.
	// Default 5 s: in a binary upgrade the new process needs a moment, and a load balancer may pick another process.
	GoneAfter time.Duration
	// RetryMin and RetryMax bound the back-off between attempts to get a new link. Defaults 20 ms and 2 s.
	RetryMin, RetryMax time.Duration
	// Seal encrypts and authenticates every frame; links stay in record mode.
	Seal bool
	// Logger receives one line per event in the life of a link; nil discards.
	Logger *slog.Logger

	// parting is how long telling the peer of the end may take on a link in record mode. Default 100 ms; shorter where a test has
	// no peer that would hang up.
	parting time.Duration
}

// MoreBackoff is the pause after d between attempts that fail.
func (c *Config) MoreBackoff(d time.Duration) time.Duration {
	return min(max(2*d, c.RetryMin), c.RetryMax)
}

// Jitter keeps those who wait for the same thing from coming back together: it is between half of d and half as much again.
func Jitter(d time.Duration) time.Duration { return time.Duration(float64(d) * (0.5 + rand.Float64())) }

// WithDefaults returns c with zero fields filled in.
func (c Config) WithDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Patience, 10*time.Minute)
	def(&c.Linger, 10*time.Second)
	def(&c.AckDelay, 20*time.Millisecond)
	def(&c.DeadAfter, 3*time.Second)
	def(&c.ProbeEvery, min(time.Second, c.DeadAfter/3))
	def(&c.GoneAfter, 5*time.Second)
	def(&c.KeepAlive, 5*time.Second)
	def(&c.parting, 100*time.Millisecond)
	def(&c.RetryMin, 20*time.Millisecond)
	def(&c.RetryMax, 2*time.Second)
	if c.SendBuffer <= 0 {
		c.SendBuffer = 32 << 20
	}
	if c.RecvBuffer <= 0 {
		c.RecvBuffer = 16 << 20
	}
	if c.AckEvery <= 0 {
		c.AckEvery = 256 << 10
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}
