// Package libibverbs is the provider of verbs for real devices, by the rdma-core library. The library is looked for when the program runs: a
// program that was built on a machine without it works on one that has it, and elsewhere every call fails with an error that wraps
// verbs.ErrUnavailable and says why. It needs Linux, and cgo at build time.
package libibverbs
