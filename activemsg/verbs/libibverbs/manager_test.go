//go:build linux && cgo

package libibverbs

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestManagerABI compares what is said to the connection manager, and read of its answers, with the kernel's header, which comes with a C compiler.
func TestManagerABI(t *testing.T) {
	if _, err := os.Stat("/usr/include/rdma/rdma_user_cm.h"); err != nil {
		t.Skipf("no header to compare with: %v", err)
	}
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skipf("no C compiler: %v", err)
	}
	var b strings.Builder
	b.WriteString("#include <stddef.h>\n#include <rdma/rdma_user_cm.h>\n")
	assert := func(what string, n int) { fmt.Fprintf(&b, "_Static_assert((%s) == %d, %q);\n", what, n, what) }
	at := netip.MustParseAddrPort("10.0.0.1:7")
	m := new(manager)
	const head = 8
	for name, n := range map[string]int{
		"cmd_hdr":      len(m.command(0, 0, 0, nil)),
		"create_id":    len(m.command(cmdCreate, createAnswer, 8, make([]byte, 16))) - head,
		"destroy_id":   len(m.command(cmdDestroy, destroyAnswer, 0, make([]byte, 8))) - head,
		"get_event":    len(m.command(cmdEvent, eventAnswer, 0, nil)) - head,
		"query":        len(m.command(cmdQuery, queryAnswer, 0, two(1, 0))) - head,
		"bind":         len(bindBody(1, at)),
		"listen":       len(two(1, 4)),
		"resolve_addr": len(resolveBody(1, at, at, time.Second)), "resolve_route": len(two(1, 4)),
		"connect": len(connectBody(1, 2, nil)), "accept": len(acceptBody(1, 2)), "reject": len(rejectBody(1)),
		"conn_param": connParamLen, "create_id_resp": createAnswer, "destroy_id_resp": destroyAnswer, "event_resp": eventAnswer,
		"query_addr_resp": queryAnswer,
	} {
		assert("sizeof(struct rdma_ucm_"+name+")", n)
	}
	for field, n := range map[string]int{
		"create_id, response": 8, "create_id, ps": 16, "create_id, qp_type": 18, "destroy_id, id": 8, "query, id": 8, "query, option": 12,
		"bind, addr_size": 4, "bind, addr": 8, "resolve_addr, timeout_ms": 4, "resolve_addr, src_size": 8, "resolve_addr, dst_size": 10,
		"resolve_addr, src_addr": 16, "resolve_addr, dst_addr": 16 + sockaddrLen, "conn_param, private_data": 8, "conn_param, private_data_len": 8 + privateLen,
		"conn_param, valid": connParamLen - 1, "connect, id": connParamLen, "accept, conn_param": 8, "accept, id": 8 + connParamLen,
		"event_resp, id": eventIDOffset, "event_resp, event": eventOffset, "event_resp, status": statusOffset,
		"event_resp, param.conn.private_data": privateOffset, "event_resp, param.conn.private_data_len": privateAtLen,
		"query_addr_resp, node_guid": 0, "query_addr_resp, src_addr": querySrcOffset,
	} {
		assert("offsetof(struct rdma_ucm_"+field+")", n)
	}
	for name, n := range map[string]int{
		"CREATE_ID": cmdCreate, "DESTROY_ID": cmdDestroy, "RESOLVE_ROUTE": cmdResolveRoute, "CONNECT": cmdConnect, "LISTEN": cmdListen, "ACCEPT": cmdAccept,
		"REJECT": cmdReject, "GET_EVENT": cmdEvent, "QUERY": cmdQuery, "BIND": cmdBind, "RESOLVE_ADDR": cmdResolveAddr,
	} {
		assert("RDMA_USER_CM_CMD_"+name, n)
	}
	assert("RDMA_PS_TCP", portSpaceTCP)
	assert("RDMA_MAX_PRIVATE_DATA", privateLen)
	compile := func(program string) (string, error) {
		cmd := exec.CommandContext(t.Context(), cc, "-std=gnu11", "-fsyntax-only", "-x", "c", "-")
		cmd.Stdin = strings.NewReader(program)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := compile(b.String())
	require.NoError(t, err, "%s", out)
	out, err = compile("#include <rdma/rdma_user_cm.h>\n_Static_assert(RDMA_PS_TCP == 1, \"a compiler that accepts anything\");")
	require.Error(t, err)
	require.Contains(t, out, "accepts anything")
}

// TestManagerAddresses: as the kernel has them.
func TestManagerAddresses(t *testing.T) {
	for _, s := range []string{"10.0.0.1:7471", "[fd00:9::1]:1", "0.0.0.0:0"} {
		a := netip.MustParseAddrPort(s)
		b, n := sockaddr(a)
		require.Len(t, b, sockaddrLen)
		require.Equal(t, a, addrPort(b))
		require.EqualValues(t, map[bool]int{true: 16, false: 28}[a.Addr().Is4()], n)
		require.Equal(t, a.Port(), binary.BigEndian.Uint16(b[2:]))
	}
	require.Zero(t, addrPort(make([]byte, sockaddrLen)))
	mapped, _ := sockaddr(netip.MustParseAddrPort("[::ffff:10.0.0.1]:7"))
	require.Equal(t, "10.0.0.1:7", addrPort(mapped).String())
}

// TestManagerEvents: in words.
func TestManagerEvents(t *testing.T) {
	require.EqualError(t, managerEvent{event: 8, status: -111}.err(), "the peer refused: connection refused")
	require.EqualError(t, managerEvent{event: 7}.err(), "no answer")
	require.EqualError(t, managerEvent{event: 99}.err(), "event 99 of the connection manager")
}
