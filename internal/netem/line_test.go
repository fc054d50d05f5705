package netem

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestParcels: they come out by time, then by number, whatever was pushed and popped in between.
func TestParcels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h parcels[int]
		var model []parcel[int]
		for seq := range rapid.IntRange(0, 200).Draw(t, "operations") {
			if len(model) > 0 && rapid.Bool().Draw(t, "pop") {
				require.Equal(t, model[0], h.pop())
				model = model[1:]
				continue
			}
			p := parcel[int]{at: epoch.Add(time.Duration(rapid.IntRange(0, 9).Draw(t, "at"))), seq: uint64(seq)}
			h.push(p)
			i, _ := slices.BinarySearchFunc(model, p, func(a, b parcel[int]) int {
				if a.before(&b) {
					return -1
				}
				return 1
			})
			model = slices.Insert(model, i, p)
		}
		for _, want := range model {
			require.Equal(t, want, h.pop())
		}
		require.Empty(t, h)
	})
}

// TestLineIsOnTime: in virtual time each packet comes out exactly when the pipe said, unharmed by the reuse of buffers.
func TestLineIsOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 2000
		type arrival struct {
			number uint64
			size   int
			after  time.Duration
		}
		begin := time.Now()
		var got []arrival
		im := MustParse("rate=50mbit,delay=3ms,jitter=2ms,unordered,dup=3%,loss=3%,reorder=5%")
		l := newLine(im, 5, newGoAlarm(), func(b []byte, _ ECN, _ struct{}) {
			got = append(got, arrival{binary.BigEndian.Uint64(b), len(b), time.Since(begin)})
		})
		model, want := NewPipe(im, 5), []arrival{}
		for i := range uint64(n) {
			b := make([]byte, 8+rand.IntN(3000))
			binary.BigEndian.PutUint64(b, i)
			for _, d := range model.Admit(time.Now(), len(b)) {
				want = append(want, arrival{i, len(b), d.At.Sub(begin)})
			}
			l.send(b, NotECT, struct{}{})
			time.Sleep(time.Duration(rand.IntN(700)) * time.Microsecond)
		}
		time.Sleep(time.Minute)
		l.close()
		slices.SortStableFunc(want, func(a, b arrival) int { return int(a.after - b.after) })
		require.Equal(t, want, got)
		require.Zero(t, l.held)
		l.send([]byte("too late"), NotECT, struct{}{})
		require.EqualValues(t, n, l.stats().Admitted)
	})
}

// BenchmarkLateness tells by how much packets come out late, with Go's timers and with the best that the system has.
func BenchmarkLateness(b *testing.B) {
	for name, newAlarm := range map[string]func() alarm{"go": func() alarm { return newGoAlarm() }, "best": bestAlarm} {
		b.Run(name, func(b *testing.B) {
			const delay = 1700 * time.Microsecond
			sent, late := time.Time{}, []time.Duration{}
			next := make(chan struct{})
			l := newLine(Impairment{Delay: delay}, 1, newAlarm(), func([]byte, ECN, struct{}) {
				late = append(late, time.Since(sent)-delay)
				next <- struct{}{}
			})
			defer l.close()
			for b.Loop() {
				sent = time.Now()
				l.send(nil, NotECT, struct{}{})
				<-next
			}
			slices.Sort(late)
			b.ReportMetric(float64(late[len(late)/2])/1e3, "p50-µs")
			b.ReportMetric(float64(late[len(late)*99/100])/1e3, "p99-µs")
		})
	}
}
