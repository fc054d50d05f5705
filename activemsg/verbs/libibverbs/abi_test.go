//go:build linux

package libibverbs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// abi is what abi.h declares: structures with their fields, then constants. A structure with a + is the beginning of a longer one.
const abi = `
device_attr fw_ver node_guid sys_image_guid max_mr_size page_size_cap vendor_id max_qp max_qp_wr device_cap_flags max_sge max_cqe max_pkeys phys_port_cnt
+port_attr state max_mtu active_mtu gid_tbl_len port_cap_flags max_msg_sz pkey_tbl_len lid sm_lid lmc phys_state link_layer flags
comp_channel context fd refcnt
+cq context channel
mr context pd addr length handle lkey rkey
qp_cap max_send_wr max_recv_wr max_send_sge max_recv_sge max_inline_data
qp_init_attr qp_context send_cq recv_cq srq cap qp_type sq_sig_all
+qp context qp_context pd send_cq recv_cq srq handle qp_num
global_route dgid flow_label sgid_index hop_limit traffic_class
ah_attr grh dlid sl src_path_bits static_rate is_global port_num
+qp_attr qp_state cur_qp_state path_mtu path_mig_state qkey rq_psn sq_psn dest_qp_num qp_access_flags cap ah_attr alt_ah_attr pkey_index max_rd_atomic max_dest_rd_atomic min_rnr_timer port_num timeout retry_cnt rnr_retry alt_timeout
sge addr length lkey
send_wr wr_id next sg_list num_sge opcode send_flags imm_data wr.rdma.remote_addr wr.rdma.rkey
recv_wr wr_id next sg_list num_sge
wc wr_id status opcode vendor_err byte_len imm_data qp_num src_qp wc_flags pkey_index slid sl dlid_path_bits
async_event element event_type
context_ops poll_cq req_notify_cq post_send post_recv
context device ops cmd_fd async_fd num_comp_vectors mutex abi_compat

ACCESS_LOCAL_WRITE ACCESS_REMOTE_WRITE QPT_RC QPS_INIT QPS_RTR QPS_RTS QPS_ERR
QP_STATE QP_ACCESS_FLAGS QP_PKEY_INDEX QP_PORT QP_AV QP_PATH_MTU QP_TIMEOUT QP_RETRY_CNT QP_RNR_RETRY QP_RQ_PSN QP_MAX_QP_RD_ATOMIC
QP_MIN_RNR_TIMER QP_SQ_PSN QP_MAX_DEST_RD_ATOMIC QP_DEST_QPN
WR_RDMA_WRITE WR_RDMA_WRITE_WITH_IMM WR_SEND WR_SEND_WITH_IMM SEND_SIGNALED SEND_INLINE
WC_SEND WC_RDMA_WRITE WC_RECV WC_RECV_RDMA_WITH_IMM WC_WITH_IMM LINK_LAYER_INFINIBAND LINK_LAYER_ETHERNET TRANSPORT_IB TRANSPORT_IWARP
EVENT_DEVICE_FATAL EVENT_PORT_ACTIVE EVENT_PORT_ERR EVENT_LID_CHANGE EVENT_GID_CHANGE
`

// numbers are those of verbs.Status, of mtuNumber and of verbs.PortState.
const numbers = `
IBV_WC_SUCCESS 0 IBV_WC_LOC_LEN_ERR 1 IBV_WC_LOC_QP_OP_ERR 2 IBV_WC_LOC_PROT_ERR 4 IBV_WC_WR_FLUSH_ERR 5 IBV_WC_BAD_RESP_ERR 7
IBV_WC_LOC_ACCESS_ERR 8 IBV_WC_REM_INV_REQ_ERR 9 IBV_WC_REM_ACCESS_ERR 10 IBV_WC_REM_OP_ERR 11 IBV_WC_RETRY_EXC_ERR 12
IBV_WC_RNR_RETRY_EXC_ERR 13 IBV_WC_REM_ABORT_ERR 16 IBV_WC_FATAL_ERR 19 IBV_WC_RESP_TIMEOUT_ERR 20 IBV_WC_GENERAL_ERR 21
IBV_MTU_256 1 IBV_MTU_4096 5 IBV_PORT_DOWN 1 IBV_PORT_ACTIVE 4
`

// TestABI compares abi.h with the header of rdma-core (Debian: libibverbs-dev), found in SOCKEMU_VERBS_INCLUDE or /usr/include.
func TestABI(t *testing.T) {
	include := os.Getenv("SOCKEMU_VERBS_INCLUDE")
	if include == "" {
		include = "/usr/include"
	}
	header := filepath.Join(include, "infiniband", "verbs.h")
	if _, err := os.Stat(header); err != nil {
		t.Skipf("no header to compare with (SOCKEMU_VERBS_INCLUDE may name a folder): %v", err)
	}
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skipf("no C compiler: %v", err)
	}
	own, err := filepath.Abs("abi.h")
	require.NoError(t, err)
	compile := func(program string) (string, error) {
		cmd := exec.CommandContext(t.Context(), cc, "-std=gnu11", "-fsyntax-only", "-I"+include, "-x", "c", "-")
		cmd.Stdin = strings.NewReader(fmt.Sprintf("#include <infiniband/verbs.h>\n#include %q\n", own) + program)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := compile(asserts())
	require.NoError(t, err, "%s", out)
	t.Logf("abi.h agrees with %s", header)

	// A compiler that accepts anything would prove nothing.
	out, err = compile(`_Static_assert(offsetof(struct vb_wc, status) == offsetof(struct ibv_wc, opcode), "status");`)
	require.Error(t, err)
	require.Contains(t, out, "status")
}

func asserts() string {
	var b strings.Builder
	assert := func(text, a, x string) { fmt.Fprintf(&b, "_Static_assert(%s == %s, %q);\n", a, x, text) }
	structs, constants, _ := strings.Cut(strings.TrimSpace(abi), "\n\n")
	for line := range strings.Lines(structs) {
		fields := strings.Fields(line)
		name, longer := strings.CutPrefix(fields[0], "+")
		for _, f := range fields[1:] {
			assert(name+"."+f, "offsetof(struct vb_"+name+", "+f+")", "offsetof(struct ibv_"+name+", "+f+")")
			if !strings.HasPrefix(f, "wr.") && name != "context_ops" {
				assert("sizeof "+name+"."+f, "sizeof(((struct vb_"+name+"*)0)->"+f+")", "sizeof(((struct ibv_"+name+"*)0)->"+f+")")
			}
		}
		if !longer {
			assert("sizeof "+name, "sizeof(struct vb_"+name+")", "sizeof(struct ibv_"+name+")")
		}
	}
	for _, c := range strings.Fields(constants) {
		assert(c, "(int)VB_"+c, "(int)IBV_"+c)
	}
	list := strings.Fields(numbers)
	for i := 0; i < len(list); i += 2 {
		assert(list[i], list[i+1], "(int)"+list[i])
	}
	return b.String()
}
