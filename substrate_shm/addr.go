package shm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// maxPath is the length of a UNIX socket's path, without the byte that ends it (unix(7)).
const maxPath = 107

// addr is the address of an end of a link: HOST:/path/of/socket, or HOST:process/PID for an end that listens nowhere.
type addr string

var _ net.Addr = addr("")

func (a addr) Network() string { return name }

func (a addr) String() string { return string(a) }

// hostID is a short name of the running kernel: every boot of every host has another one, all its containers have the same.
var hostID = sync.OnceValues(func() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	h := sha256.Sum256([]byte(strings.TrimSpace(string(id))))
	return hex.EncodeToString(h[:4]), nil
})

func processAddr(host string, pid int) addr { return addr(host + ":process/" + strconv.Itoa(pid)) }

// socketPath takes the path out of an address that is for this host.
func socketPath(address, host string) (string, error) {
	at, path, ok := strings.Cut(address, ":")
	if !ok || at == "" || !filepath.IsAbs(path) {
		return "", errors.New("want HOST:/path/of/socket")
	}
	if at != host {
		return "", fmt.Errorf("other host: boot id %s, here %s", at, host)
	}
	return path, checkPath(path)
}

func checkPath(path string) error {
	if len(path) > maxPath {
		return fmt.Errorf("the path of a socket has at most %d bytes, this one %d", maxPath, len(path))
	}
	if strings.ContainsRune(path, 0) {
		return errors.New("a path has no zero bytes")
	}
	return nil
}
