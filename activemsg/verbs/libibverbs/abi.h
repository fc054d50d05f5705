// What we use of the binary interface of libibverbs.so.1 (rdma-core), declared by ourselves so that nothing needs its headers. The interface
// is stable: names and layouts are those of <infiniband/verbs.h>, with vb_ for ibv_; fields that aren't used only keep their place.
// abi_test.go compares each with the real header, where that is installed.
#ifndef SOCKEMU_VERBS_ABI_H
#define SOCKEMU_VERBS_ABI_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

struct vb_device;
struct vb_pd;
struct vb_srq;

struct vb_device_attr {
	char fw_ver[64];
	uint64_t node_guid, sys_image_guid;
	uint64_t max_mr_size, page_size_cap;
	uint32_t vendor_id, vendor_part_id, hw_ver;
	int max_qp, max_qp_wr;
	unsigned int device_cap_flags;
	int max_sge, max_sge_rd, max_cq, max_cqe;
	int unused[22];
	uint16_t max_pkeys;
	uint8_t local_ca_ack_delay, phys_port_cnt;
};

struct vb_port_attr {
	int state, max_mtu, active_mtu;
	int gid_tbl_len;
	uint32_t port_cap_flags, max_msg_sz, bad_pkey_cntr, qkey_viol_cntr;
	uint16_t pkey_tbl_len, lid, sm_lid;
	uint8_t lmc, max_vl_num, sm_sl, subnet_timeout, init_type_reply, active_width, active_speed, phys_state;
	uint8_t link_layer, flags;
	uint16_t port_cap_flags2;
};

struct vb_comp_channel {
	struct vb_context *context;
	int fd;
	int refcnt;
};

struct vb_cq {
	struct vb_context *context;
	struct vb_comp_channel *channel;
	// and what the library keeps
};

struct vb_mr {
	struct vb_context *context;
	struct vb_pd *pd;
	void *addr;
	size_t length;
	uint32_t handle, lkey, rkey;
};

struct vb_qp_cap {
	uint32_t max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data;
};

struct vb_qp_init_attr {
	void *qp_context;
	struct vb_cq *send_cq, *recv_cq;
	struct vb_srq *srq;
	struct vb_qp_cap cap;
	int qp_type;
	int sq_sig_all;
};

struct vb_qp {
	struct vb_context *context;
	void *qp_context;
	struct vb_pd *pd;
	struct vb_cq *send_cq, *recv_cq;
	struct vb_srq *srq;
	uint32_t handle, qp_num;
	// and what the library keeps
};

struct vb_global_route {
	uint8_t dgid[16] __attribute__((aligned(8)));
	uint32_t flow_label;
	uint8_t sgid_index, hop_limit, traffic_class;
};

struct vb_ah_attr {
	struct vb_global_route grh;
	uint16_t dlid;
	uint8_t sl, src_path_bits, static_rate, is_global, port_num;
};

struct vb_qp_attr {
	int qp_state, cur_qp_state, path_mtu, path_mig_state;
	uint32_t qkey, rq_psn, sq_psn, dest_qp_num;
	unsigned int qp_access_flags;
	struct vb_qp_cap cap;
	struct vb_ah_attr ah_attr, alt_ah_attr;
	uint16_t pkey_index, alt_pkey_index;
	uint8_t en_sqd_async_notify, sq_draining, max_rd_atomic, max_dest_rd_atomic, min_rnr_timer;
	uint8_t port_num, timeout, retry_cnt, rnr_retry, alt_port_num, alt_timeout;
	uint32_t rate_limit;
};

struct vb_sge {
	uint64_t addr;
	uint32_t length, lkey;
};

struct vb_send_wr {
	uint64_t wr_id;
	struct vb_send_wr *next;
	struct vb_sge *sg_list;
	int num_sge;
	int opcode;
	unsigned int send_flags;
	uint32_t imm_data; // in network byte order
	union {
		struct {
			uint64_t remote_addr;
			uint32_t rkey;
		} rdma;
		uint64_t unused[4];
	} wr;
	uint64_t unused[7];
};

struct vb_recv_wr {
	uint64_t wr_id;
	struct vb_recv_wr *next;
	struct vb_sge *sg_list;
	int num_sge;
};

struct vb_wc {
	uint64_t wr_id;
	int status, opcode;
	uint32_t vendor_err, byte_len;
	uint32_t imm_data; // in network byte order
	uint32_t qp_num, src_qp;
	unsigned int wc_flags;
	uint16_t pkey_index, slid;
	uint8_t sl, dlid_path_bits;
};

struct vb_async_event {
	union {
		struct vb_cq *cq;
		struct vb_qp *qp;
		int port_num;
	} element;
	int event_type;
};

// What the header's inline functions call.
struct vb_context_ops {
	void *unused0[11];
	int (*poll_cq)(struct vb_cq *cq, int num_entries, struct vb_wc *wc);
	int (*req_notify_cq)(struct vb_cq *cq, int solicited_only);
	void *unused1[12];
	int (*post_send)(struct vb_qp *qp, struct vb_send_wr *wr, struct vb_send_wr **bad_wr);
	int (*post_recv)(struct vb_qp *qp, struct vb_recv_wr *wr, struct vb_recv_wr **bad_wr);
	void *unused2[5];
};

struct vb_context {
	struct vb_device *device;
	struct vb_context_ops ops;
	int cmd_fd, async_fd, num_comp_vectors;
	pthread_mutex_t mutex;
	void *abi_compat;
};

enum {
	VB_ACCESS_LOCAL_WRITE = 1,
	VB_ACCESS_REMOTE_WRITE = 2,

	VB_QPT_RC = 2,

	VB_QPS_INIT = 1,
	VB_QPS_RTR = 2,
	VB_QPS_RTS = 3,
	VB_QPS_ERR = 6,

	VB_QP_STATE = 1 << 0,
	VB_QP_ACCESS_FLAGS = 1 << 3,
	VB_QP_PKEY_INDEX = 1 << 4,
	VB_QP_PORT = 1 << 5,
	VB_QP_AV = 1 << 7,
	VB_QP_PATH_MTU = 1 << 8,
	VB_QP_TIMEOUT = 1 << 9,
	VB_QP_RETRY_CNT = 1 << 10,
	VB_QP_RNR_RETRY = 1 << 11,
	VB_QP_RQ_PSN = 1 << 12,
	VB_QP_MAX_QP_RD_ATOMIC = 1 << 13,
	VB_QP_MIN_RNR_TIMER = 1 << 15,
	VB_QP_SQ_PSN = 1 << 16,
	VB_QP_MAX_DEST_RD_ATOMIC = 1 << 17,
	VB_QP_DEST_QPN = 1 << 20,

	VB_WR_RDMA_WRITE = 0,
	VB_WR_RDMA_WRITE_WITH_IMM = 1,
	VB_WR_SEND = 2,
	VB_WR_SEND_WITH_IMM = 3,

	VB_SEND_SIGNALED = 1 << 1,
	VB_SEND_INLINE = 1 << 3,

	VB_WC_SEND = 0,
	VB_WC_RDMA_WRITE = 1,
	VB_WC_RECV = 128,
	VB_WC_RECV_RDMA_WITH_IMM = 129,
	VB_WC_WITH_IMM = 1 << 1,

	VB_LINK_LAYER_INFINIBAND = 1,
	VB_LINK_LAYER_ETHERNET = 2,

	VB_TRANSPORT_IB = 0,
	VB_TRANSPORT_IWARP = 1,

	VB_EVENT_DEVICE_FATAL = 8,
	VB_EVENT_PORT_ACTIVE = 9,
	VB_EVENT_PORT_ERR = 10,
	VB_EVENT_LID_CHANGE = 11,
	VB_EVENT_GID_CHANGE = 18,
};

#endif
