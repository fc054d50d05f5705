package inventory

import "testing"

// BenchmarkHost is what looking again costs after a change.
func BenchmarkHost(b *testing.B) {
	for b.Loop() {
		Host()
	}
}

// BenchmarkReadRDMA reads an adapter with 256 table entries, most of them free, from memory.
func BenchmarkReadRDMA(b *testing.B) {
	root, used := roce()
	gids(root, "mlx5_0/ports/1", 256, used...)
	for b.Loop() {
		ReadRDMA(root)
	}
}
