package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"

	"github.com/sockemu/sockemu/sockemu"
	"github.com/sockemu/sockemu/substrate"
	"github.com/sockemu/sockemu/wire"
)

// explainFailure says what it means that a peer could not be reached, and what to do next; behind it, in brackets, what was tried and what came
// of it. longer is the flag with which the command waits longer, "" if it has none.
func explainFailure(peer, longer string, err error) error {
	if advice := adviceFor(longer, err); advice != "" {
		return fmt.Errorf("%s: %s (%w)", peer, advice, err)
	}
	return fmt.Errorf("%s: %w", peer, err)
}

func adviceFor(longer string, err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return "there is no host of that name: check it, or use an address"
		}
		return "the name can't be looked up now: check the name server, or use an address"
	}
	if refused, ok := errors.AsType[*sockemu.RefusedError](err); ok {
		return adviceForRefusal(refused.Status)
	}
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
	tried, ok := errors.AsType[*substrate.Error](err)
	dialing := ok && tried.Op == "dial"
	switch {
	case errors.Is(err, sockemu.ErrNotSockemu):
		return "something listens there that does not speak sockemu: is the port right, and does that program use sockemu? " +
			"If it says nothing, it may also be stopped or overloaded"
	case errors.Is(err, substrate.ErrRefused):
		return "the host answers, but nobody listens on that port, or a firewall rejects it: is the program running, is the port right?"
	case late:
		advice := "it accepts connections, but does not answer in time: is it overloaded?"
		if dialing {
			advice = "no answer in time: the host is down, or a firewall drops the packets; check both"
		}
		if longer != "" {
			advice += " (or wait longer: " + longer + ")"
		}
		return advice
	case dialing && isErrno(err, syscall.EINVAL, syscall.EACCES, syscall.EPERM):
		return "this host itself sends nothing there: look for a blackhole or prohibit route (sockemu probe --self) and at its own firewall"
	case errors.Is(err, substrate.ErrConfig):
		return "this can't work as it is asked for"
	case errors.Is(err, substrate.ErrProtocol):
		return "what answers breaks the protocol: compare the cluster keys (--key-file) and sockemu version on both hosts"
	case errors.Is(err, substrate.ErrPathDown) && dialing:
		return "the host can't be reached: check the address, the routes (sockemu probe --self) and firewalls"
	}
	return ""
}

// isErrno reports whether err is one of the system's.
func isErrno(err error, list ...syscall.Errno) bool {
	e, ok := errors.AsType[syscall.Errno](err)
	return ok && slices.Contains(list, e)
}

// adviceForRefusal is about a process with sockemu that answers, but not as wished.
func adviceForRefusal(st wire.Status) string {
	switch st {
	case wire.StatusKey:
		return "a program with sockemu answers there, but with another cluster key, or only one end has one: give both the same (--key-file)"
	case wire.StatusBusy:
		return "a program with sockemu answers there, but is busy with as many set-ups or probes as it admits: try again in a moment"
	case wire.StatusPolicy:
		return "a program with sockemu answers there, but only one end demands encryption or a key: configure both alike (--encrypt, --key-file)"
	case wire.StatusVersion:
		return "a program with sockemu answers there, but the two have no version of the protocol in common: compare sockemu version"
	case wire.StatusNoListener:
		return "a program with sockemu answers there, but takes no new connections: is it about to end?"
	}
	return "a program with sockemu answers there, but refuses: its log may say more"
}
