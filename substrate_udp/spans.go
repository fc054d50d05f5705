package udp

import "slices"

// A span is the half-open range [lo, hi).
type span struct{ lo, hi uint64 }

// spans is a set of numbers: ranges in ascending order that neither overlap nor touch.
type spans []span

// find returns the index of the first span that ends after x.
func (s spans) find(x uint64) int {
	if n := len(s); n == 0 || s[n-1].hi <= x {
		return n // what is added is mostly the newest
	}
	i, _ := slices.BinarySearchFunc(s, x, func(e span, x uint64) int {
		if e.hi <= x {
			return -1
		}
		return 1
	})
	return i
}

// contains reports whether x is in the set.
func (s spans) contains(x uint64) bool {
	i := s.find(x)
	return i < len(s) && s[i].lo <= x
}

// add adds [lo, hi).
func (s *spans) add(lo, hi uint64) {
	if lo >= hi {
		return
	}
	v := *s
	if n := len(v); n > 0 && v[n-1].hi == lo {
		v[n-1].hi = hi
		return
	}
	i := v.find(lo)
	if i > 0 && v[i-1].hi == lo {
		i--
	}
	j := i
	for j < len(v) && v[j].lo <= hi {
		lo, hi = min(lo, v[j].lo), max(hi, v[j].hi)
		j++
	}
	if j == i+1 {
		v[i] = span{lo, hi}
		return
	}
	*s = slices.Replace(v, i, j, span{lo, hi})
}

// remove removes [lo, hi).
func (s *spans) remove(lo, hi uint64) {
	if lo >= hi {
		return
	}
	v := *s
	i := v.find(lo)
	if i == len(v) || v[i].lo >= hi {
		return
	}
	if v[i].lo < lo && v[i].hi > hi {
		upper := span{hi, v[i].hi}
		v[i].hi = lo
		*s = slices.Insert(v, i+1, upper)
		return
	}
	if v[i].lo < lo {
		v[i].hi = lo
		i++
	}
	j := i
	for j < len(v) && v[j].hi <= hi {
		j++
	}
	if j < len(v) && v[j].lo < hi {
		v[j].lo = hi
	}
	*s = slices.Delete(v, i, j)
}

// missing calls f with each part of [lo, hi) that is not in the set.
func (s spans) missing(lo, hi uint64, f func(lo, hi uint64)) {
	for i := s.find(lo); lo < hi; i++ {
		if i == len(s) || s[i].lo >= hi {
			f(lo, hi)
			return
		}
		if s[i].lo > lo {
			f(lo, s[i].lo)
		}
		lo = s[i].hi
	}
}
