package substrate

import (
	"errors"
	"net"
)

// IsBadAddress reports an error of package net that is about what the caller said: an address or network that isn't one, a name or a port that
// doesn't exist. A name that couldn't be looked up just now is none. Such errors are of class Config.
func IsBadAddress(err error) bool {
	var (
		addr    *net.AddrError
		parse   *net.ParseError
		dns     *net.DNSError
		network net.UnknownNetworkError
		invalid net.InvalidAddrError
	)
	if errors.As(err, &dns) {
		return dns.IsNotFound && !dns.IsTemporary && !dns.IsTimeout
	}
	return errors.As(err, &addr) || errors.As(err, &parse) || errors.As(err, &network) || errors.As(err, &invalid)
}

// Cause strips what package net puts around an error and an Error repeats: operation, network and addresses.
func Cause(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}
