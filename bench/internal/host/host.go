//go:build linux

// Package host is what a benchmark needs of the machine below it: which CPUs it may use and how far apart they are, a
// place (CPUs, network namespace) to start a process in, and the congestion control of kernel TCP. Linux only.
package host

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// maxCPU bounds the CPUs looked at: the width of the kernel's affinity mask as unix.CPUSet has it.
const maxCPU = 1024

// CPUs returns the CPUs that the calling process may run on, ascending.
func CPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("ask for the allowed CPUs: %w", err)
	}
	var cpus []int
	for cpu := range maxCPU {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// A Place is where a process is to run. The zero Place is wherever the caller runs.
type Place struct {
	CPUs      []int      // the CPUs it may use; empty: the caller's
	Namespace *Namespace // its network; nil: the caller's
}

// In calls fn on an OS thread that stands in place p: a process that fn starts inherits it, before its first instruction.
// That matters for CPUs, since the Go runtime sizes itself by the CPUs it finds when it starts.
func (p Place) In(fn func() error) error {
	return onThread(p.Namespace != nil, func() error {
		if len(p.CPUs) > 0 {
			var set unix.CPUSet
			for _, cpu := range p.CPUs {
				set.Set(cpu)
			}
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				return fmt.Errorf("pin to CPUs %v: %w", p.CPUs, err)
			}
		}
		if p.Namespace != nil {
			if err := p.Namespace.enter(); err != nil {
				return err
			}
		}
		return fn()
	})
}

// onThread calls fn on an OS thread that no other goroutine uses meanwhile, and afterwards gives the thread its CPUs and,
// if network is set, its network namespace back. A thread that can't be put back is not used again.
func onThread(network bool, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var cpus unix.CPUSet
		if err := unix.SchedGetaffinity(0, &cpus); err != nil {
			done <- err
			return
		}
		var home *os.File
		if network {
			var err error
			if home, err = os.Open("/proc/thread-self/ns/net"); err != nil {
				done <- err
				return
			}
			defer home.Close()
		}
		err := fn()
		clean := unix.SchedSetaffinity(0, &cpus) == nil
		if network {
			clean = unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil && clean
		}
		if clean {
			runtime.UnlockOSThread() // else the thread ends with this goroutine
		}
		done <- err
	}()
	return <-done
}

// CPUModel returns the name of the first CPU, or the architecture if the kernel doesn't tell.
func CPUModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// Kernel returns the release of the running kernel, as uname -r prints it.
func Kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// LoadAverage returns the load of the last minute, 0 if the kernel doesn't tell.
func LoadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	var load float64
	if _, err := fmt.Sscan(string(b), &load); err != nil {
		return 0
	}
	return load
}
