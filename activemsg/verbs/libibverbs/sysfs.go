package libibverbs

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

// sysfsRoot is where the kernel describes its RDMA devices.
const sysfsRoot = "/sys/class/infiniband"

// maxGIDs bounds the table of a port: those of adapters have 256 entries at most, that of rxe has 1024. The kernel uses the first free
// one, so after maxFree of them in a row there are no more.
const (
	maxGIDs = 1024
	maxFree = 256
)

// transport reads what a device speaks.
func transport(sys fs.FS, device string) verbs.Transport {
	switch t := readLine(sys, path.Join(device, "node_type")); {
	case strings.HasPrefix(t, "1:"):
		return verbs.TransportIB
	case strings.HasPrefix(t, "4:"):
		return verbs.TransportIWARP
	}
	return verbs.TransportUnknown
}

// gids reads the addresses of a port that are set.
func gids(sys fs.FS, device string, port int) ([]verbs.GIDEntry, error) {
	dir := path.Join(device, "ports", strconv.Itoa(port))
	list, err := fs.ReadDir(sys, path.Join(dir, "gids"))
	if err != nil {
		return nil, fmt.Errorf("%w: port %d: %w", verbs.ErrNoDevice, port, err)
	}
	iwarp := transport(sys, device) == verbs.TransportIWARP
	var indexes []int
	for _, f := range list {
		if i, err := strconv.Atoi(f.Name()); err == nil {
			indexes = append(indexes, i)
		}
	}
	slices.Sort(indexes)
	var found []verbs.GIDEntry
	free := 0 // entries in a row
	for _, i := range indexes[:min(len(indexes), maxGIDs)] {
		e := verbs.GIDEntry{Index: i}
		file := strconv.Itoa(i)
		if !parseGID(readLine(sys, path.Join(dir, "gids", file)), &e.GID) || e.GID == (verbs.GID{}) {
			if free++; free == maxFree {
				break
			}
			continue
		}
		free = 0
		// Both can't be read for an entry that isn't set.
		e.Type = gidType(readLine(sys, path.Join(dir, "gid_attrs/types", file)), readLine(sys, path.Join(dir, "link_layer")))
		if iwarp {
			e.Type = verbs.GIDIWARP
		}
		e.Netdev = readLine(sys, path.Join(dir, "gid_attrs/ndevs", file))
		found = append(found, e)
	}
	return found, nil
}

func readLine(sys fs.FS, name string) string {
	b, err := fs.ReadFile(sys, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func parseGID(s string, g *verbs.GID) bool {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	return err == nil && copy(g[:], b) == len(g) && len(b) == len(g)
}

func gidType(s, linkLayer string) verbs.GIDType {
	switch {
	case s == "RoCE v2":
		return verbs.GIDRoCEv2
	case linkLayer == "InfiniBand":
		return verbs.GIDInfiniBand
	case s == "IB/RoCE v1":
		return verbs.GIDRoCEv1
	}
	return verbs.GIDUnknown
}
