// What Go calls: one crossing for a batch of requests or completions. Functions return 0 or an errno, those that return a number
// return -errno.
#ifndef SOCKEMU_VERBS_SHIM_H
#define SOCKEMU_VERBS_SHIM_H

#include "abi.h"

#include <errno.h>
#include <stdlib.h>

#define SK_POST 32 // verbs.MaxPost
#define SK_SGE 4   // verbs.MaxSGE

// Layouts of verbs.SendWR, verbs.RecvWR and verbs.Completion.
struct sk_send {
	uint64_t id, remote_addr;
	uint32_t rkey, imm;
	uint8_t op, flags, num_sge, unused[5];
	struct vb_sge sge[SK_SGE];
};
struct sk_recv {
	uint64_t id;
	struct vb_sge sge;
};
struct sk_completion {
	uint64_t id;
	uint32_t status, vendor, len, imm, qp;
	uint8_t op, has_imm, unused[2];
};

enum { SK_OP_SEND, SK_OP_SEND_IMM, SK_OP_WRITE, SK_OP_WRITE_IMM, SK_OP_RECV, SK_OP_RECV_WRITE_IMM };
enum { SK_SIGNALED = 1, SK_INLINE = 2 };

struct sk_connection {
	uint8_t gid[16];
	uint32_t qp, psn, remote_psn;
	uint16_t lid;
	uint8_t port, gid_index, global, mtu, timeout, retry, rnr_retry;
};

int sk_load(char *text, size_t len);
struct vb_device **sk_list(int *n);
void sk_list_done(struct vb_device **list);
const char *sk_name(struct vb_device *d);
int sk_close(struct vb_context *ctx);
int sk_attr(struct vb_context *ctx, struct vb_device_attr *a);
int sk_free_pd(struct vb_pd *pd);
int sk_unregister(struct vb_mr *mr);
int sk_free_qp(struct vb_qp *qp);
int sk_free_cq(struct vb_cq *cq, struct vb_comp_channel *channel);
int sk_open(const char *name, struct vb_context **out);
int sk_watch(int fd);
int sk_port(struct vb_context *ctx, int port, struct vb_port_attr *out);
int sk_pd(struct vb_context *ctx, struct vb_pd **out);
int sk_register(struct vb_pd *pd, uintptr_t addr, size_t len, int access, struct vb_mr **out);
int sk_cq(struct vb_context *ctx, int depth, struct vb_comp_channel **channel, struct vb_cq **cq);
int sk_event(struct vb_comp_channel *channel);
int sk_async(struct vb_context *ctx, int *type, int *port);
int sk_arm(struct vb_cq *cq);
int sk_poll(struct vb_cq *cq, struct sk_completion *out, int max);
int sk_spin(struct vb_cq *cq, struct sk_completion *out, int max, int64_t ns, int yield);
int sk_make_qp(struct vb_pd *pd, struct vb_cq *scq, struct vb_cq *rcq, int sends, int recvs, int sge, int inl, int port,
               struct vb_qp **out, int *granted);
int sk_connect(struct vb_qp *qp, const struct sk_connection *c);
int sk_fail(struct vb_qp *qp);
int sk_post(struct vb_qp *qp, struct sk_recv *recvs, int nrecvs, struct sk_send *sends, int nsends);

#endif
