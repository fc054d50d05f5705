package libibverbs

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/sockemu/sockemu/activemsg/verbs"
)

func TestSysfs(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s + "\n")} }
	sys := fstest.MapFS{
		"rxe0/node_type":                       file("1: CA"),
		"siw0/node_type":                       file("4: RNIC"),
		"rxe0/ports/1/link_layer":              file("Ethernet"),
		"rxe0/ports/1/gids/0":                  file("fe80:0000:0000:0000:5054:00ff:fe12:3456"),
		"rxe0/ports/1/gids/1":                  file("0000:0000:0000:0000:0000:ffff:0a09:0001"),
		"rxe0/ports/1/gids/2":                  file("0000:0000:0000:0000:0000:0000:0000:0000"),
		"rxe0/ports/1/gids/10":                 file("fd00:0000:0000:0000:0000:0000:0000:0001"),
		"rxe0/ports/1/gids/bad":                file("x"),
		"rxe0/ports/1/gids/11":                 file("fd00:0001"),
		"rxe0/ports/1/gid_attrs/types/0":       file("IB/RoCE v1"),
		"rxe0/ports/1/gid_attrs/types/1":       file("RoCE v2"),
		"rxe0/ports/1/gid_attrs/types/10":      file("RoCE v2"),
		"rxe0/ports/1/gid_attrs/ndevs/1":       file("d0"),
		"siw0/ports/1/link_layer":              file("Ethernet"),
		"siw0/ports/1/gids/0":                  file("5254:0000:0901:0000:0000:0000:0000:0000"),
		"siw0/ports/1/gid_attrs/types/0":       file("IB/RoCE v1"),
		"mlx5_0/ports/1/link_layer":            file("InfiniBand"),
		"mlx5_0/ports/1/gids/0":                file("fe80:0000:0000:0000:248a:0703:00ab:cdef"),
		"mlx5_0/ports/1/gid_attrs/types/0":     file("IB/RoCE v1"),
		"mlx5_0/ports/1/gid_attrs/unexpected0": file(""),
	}
	require.Equal(t, verbs.TransportIB, transport(sys, "rxe0"))
	require.Equal(t, verbs.TransportIWARP, transport(sys, "siw0"))
	require.Equal(t, verbs.TransportUnknown, transport(sys, "nothing"))
	list, err := gids(sys, "rxe0", 1)
	require.NoError(t, err)
	var text []string
	for _, e := range list {
		text = append(text, e.String())
	}
	require.Equal(t, []string{
		"gid 0 fe80::5054:ff:fe12:3456 (RoCE v1)", "gid 1 10.9.0.1 (RoCE v2, d0)", "gid 10 fd00::1 (RoCE v2)",
	}, text)
	list, err = gids(sys, "mlx5_0", 1)
	require.NoError(t, err)
	require.Equal(t, verbs.GIDInfiniBand, list[0].Type)
	list, err = gids(sys, "siw0", 1)
	require.NoError(t, err)
	require.Equal(t, verbs.GIDIWARP, list[0].Type)
	_, err = gids(sys, "rxe0", 2)
	require.ErrorIs(t, err, verbs.ErrNoDevice)
}
