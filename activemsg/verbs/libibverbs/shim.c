//go:build linux && cgo

#include "shim.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SK_FUNCTIONS(F)                                                                                   \
	F(struct vb_device **, get_device_list, (int *))                                                  \
	F(void, free_device_list, (struct vb_device **))                                                  \
	F(const char *, get_device_name, (struct vb_device *))                                            \
	F(struct vb_context *, open_device, (struct vb_device *))                                         \
	F(int, close_device, (struct vb_context *))                                                       \
	F(int, query_device, (struct vb_context *, struct vb_device_attr *))                              \
	F(int, query_port, (struct vb_context *, uint8_t, void *))                                        \
	F(struct vb_pd *, alloc_pd, (struct vb_context *))                                                \
	F(int, dealloc_pd, (struct vb_pd *))                                                              \
	F(struct vb_mr *, reg_mr, (struct vb_pd *, void *, size_t, int))                                  \
	F(int, dereg_mr, (struct vb_mr *))                                                                \
	F(struct vb_comp_channel *, create_comp_channel, (struct vb_context *))                           \
	F(int, destroy_comp_channel, (struct vb_comp_channel *))                                          \
	F(struct vb_cq *, create_cq, (struct vb_context *, int, void *, struct vb_comp_channel *, int))   \
	F(int, destroy_cq, (struct vb_cq *))                                                              \
	F(int, get_cq_event, (struct vb_comp_channel *, struct vb_cq **, void **))                        \
	F(void, ack_cq_events, (struct vb_cq *, unsigned int))                                            \
	F(struct vb_qp *, create_qp, (struct vb_pd *, struct vb_qp_init_attr *))                          \
	F(int, modify_qp, (struct vb_qp *, struct vb_qp_attr *, int))                                     \
	F(int, destroy_qp, (struct vb_qp *))                                                              \
	F(int, get_async_event, (struct vb_context *, struct vb_async_event *))                           \
	F(void, ack_async_event, (struct vb_async_event *))

#define F(result, name, args) static result(*sk_##name) args;
SK_FUNCTIONS(F)
#undef F

// sk_load finds the library. On failure it says why in text.
int sk_load(char *text, size_t len)
{
	void *lib = dlopen("libibverbs.so.1", RTLD_NOW);
	if (!lib) {
		snprintf(text, len, "%s", dlerror());
		return ENOENT;
	}
#define F(result, name, args)                                                    \
	if (!(*(void **)(&sk_##name) = dlsym(lib, "ibv_" #name))) {              \
		snprintf(text, len, "libibverbs.so.1 has no ibv_" #name);        \
		return ENOSYS;                                                   \
	}
	SK_FUNCTIONS(F)
#undef F
	return 0;
}

static int sk_error(void) { return errno ? errno : EIO; }

// Function pointers can't be called from Go.
struct vb_device **sk_list(int *n)
{
	errno = 0;
	return sk_get_device_list(n);
}
void sk_list_done(struct vb_device **list) { sk_free_device_list(list); }
const char *sk_name(struct vb_device *d) { return sk_get_device_name(d); }
int sk_close(struct vb_context *ctx) { return sk_close_device(ctx); }
int sk_attr(struct vb_context *ctx, struct vb_device_attr *a) { return sk_query_device(ctx, a); }
int sk_free_pd(struct vb_pd *pd) { return sk_dealloc_pd(pd); }
int sk_unregister(struct vb_mr *mr) { return sk_dereg_mr(mr); }
int sk_free_qp(struct vb_qp *qp) { return sk_destroy_qp(qp); }
int sk_free_cq(struct vb_cq *cq, struct vb_comp_channel *channel)
{
	int err = sk_destroy_cq(cq);
	int err2 = sk_destroy_comp_channel(channel);
	return err ? err : err2;
}

// The layout of struct ibv_device is the library's own, its transport is told by sysfs.
int sk_open(const char *name, struct vb_context **out)
{
	int n = 0, err = ENODEV;
	struct vb_device **list = sk_get_device_list(&n);
	if (!list)
		return sk_error();
	for (int i = 0; i < n; i++) {
		if (strcmp(sk_get_device_name(list[i]), name))
			continue;
		errno = 0;
		*out = sk_open_device(list[i]);
		err = *out ? 0 : sk_error();
		break;
	}
	sk_free_device_list(list);
	return err;
}

static int sk_nonblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? errno : 0;
}

// sk_watch returns a descriptor for Go's poller that stands for fd, or -errno.
int sk_watch(int fd)
{
	int err = sk_nonblock(fd);
	if (err)
		return -err;
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return copy < 0 ? -errno : copy;
}

// sk_port asks by the old entry point, whose structure is shorter than today's: the rest stays 0.
int sk_port(struct vb_context *ctx, int port, struct vb_port_attr *out)
{
	char buf[256] __attribute__((aligned(8))) = {0};
	int err = sk_query_port(ctx, port, buf);
	memcpy(out, buf, sizeof *out);
	return err;
}

int sk_pd(struct vb_context *ctx, struct vb_pd **out)
{
	errno = 0;
	return (*out = sk_alloc_pd(ctx)) ? 0 : sk_error();
}

int sk_register(struct vb_pd *pd, uintptr_t addr, size_t len, int access, struct vb_mr **out)
{
	errno = 0;
	return (*out = sk_reg_mr(pd, (void *)addr, len, access)) ? 0 : sk_error();
}

int sk_cq(struct vb_context *ctx, int depth, struct vb_comp_channel **channel, struct vb_cq **cq)
{
	errno = 0;
	if (!(*channel = sk_create_comp_channel(ctx)))
		return sk_error();
	if ((*cq = sk_create_cq(ctx, depth, 0, *channel, 0)))
		return 0;
	int err = sk_error();
	sk_destroy_comp_channel(*channel);
	return err;
}

// sk_event takes all events of a channel: 0 if there was one, else EAGAIN or worse.
int sk_event(struct vb_comp_channel *channel)
{
	struct vb_cq *cq;
	void *context;
	int result = EAGAIN;
	for (;;) {
		errno = 0;
		if (sk_get_cq_event(channel, &cq, &context))
			return result == 0 || errno == EAGAIN || errno == EINTR ? result : sk_error();
		sk_ack_cq_events(cq, 1);
		result = 0;
	}
}

int sk_async(struct vb_context *ctx, int *type, int *port)
{
	struct vb_async_event e;
	errno = 0;
	if (sk_get_async_event(ctx, &e))
		return sk_error();
	*type = e.event_type;
	*port = e.element.port_num;
	sk_ack_async_event(&e);
	return 0;
}

int sk_arm(struct vb_cq *cq) { return cq->context->ops.req_notify_cq(cq, 0); }

// sk_poll returns the number of completions or -errno.
int sk_poll(struct vb_cq *cq, struct sk_completion *out, int max)
{
	struct vb_wc wc[SK_POST];
	int n = cq->context->ops.poll_cq(cq, max > SK_POST ? SK_POST : max, wc);
	if (n < 0)
		return -EIO;
	for (int i = 0; i < n; i++) {
		struct vb_wc *w = &wc[i];
		struct sk_completion *c = &out[i];
		memset(c, 0, sizeof *c);
		c->id = w->wr_id;
		c->status = w->status;
		c->vendor = w->vendor_err;
		c->qp = w->qp_num;
		if (w->status)
			continue; // the rest says nothing
		c->vendor = 0;
		switch (w->opcode) {
		case VB_WC_SEND:
			c->op = SK_OP_SEND;
			break;
		case VB_WC_RDMA_WRITE:
			c->op = SK_OP_WRITE;
			break;
		case VB_WC_RECV:
		case VB_WC_RECV_RDMA_WITH_IMM:
			c->op = w->opcode == VB_WC_RECV ? SK_OP_RECV : SK_OP_RECV_WRITE_IMM;
			c->len = w->byte_len;
			if (w->wc_flags & VB_WC_WITH_IMM) {
				c->has_imm = 1;
				c->imm = ntohl(w->imm_data);
			}
			break;
		}
	}
	return n;
}

static int64_t sk_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

// sk_spin polls until there is something or ns have passed.
int sk_spin(struct vb_cq *cq, struct sk_completion *out, int max, int64_t ns, int yield)
{
	int64_t end = 0;
	for (int i = 0;; i++) {
		int n = sk_poll(cq, out, max);
		if (n)
			return n;
		if (yield || i % 16 == 0) {
			int64_t now = sk_now();
			if (!end)
				end = now + ns;
			if (now >= end)
				return 0;
		}
		if (yield)
			sched_yield();
	}
}

int sk_make_qp(struct vb_pd *pd, struct vb_cq *scq, struct vb_cq *rcq, int sends, int recvs, int sge, int inl, int port,
               struct vb_qp **out, int *granted)
{
	for (;; inl /= 2) { // devices refuse what is too much for them
		struct vb_qp_init_attr a = {
			.send_cq = scq,
			.recv_cq = rcq,
			.cap = {.max_send_wr = sends, .max_recv_wr = recvs, .max_send_sge = sge, .max_recv_sge = 1, .max_inline_data = inl},
			.qp_type = VB_QPT_RC,
		};
		errno = 0;
		*out = sk_create_qp(pd, &a);
		*granted = a.cap.max_inline_data;
		if (*out)
			break;
		if (inl == 0 || (errno != EINVAL && errno != ENOMEM))
			return sk_error();
	}
	struct vb_qp_attr init = {.qp_state = VB_QPS_INIT, .port_num = port, .qp_access_flags = VB_ACCESS_REMOTE_WRITE};
	int mask = VB_QP_STATE | VB_QP_ACCESS_FLAGS;
	if (port) // iWARP has no partitions, and chooses its port when it is joined
		mask |= VB_QP_PKEY_INDEX | VB_QP_PORT;
	int err = sk_modify_qp(*out, &init, mask);
	if (err)
		sk_destroy_qp(*out);
	return err;
}

int sk_connect(struct vb_qp *qp, const struct sk_connection *c)
{
	struct vb_qp_attr rtr = {
		.qp_state = VB_QPS_RTR,
		.path_mtu = c->mtu,
		.dest_qp_num = c->qp,
		.rq_psn = c->remote_psn,
		.max_dest_rd_atomic = 0,
		.min_rnr_timer = 12, // 0.64 ms
		.ah_attr = {.dlid = c->lid, .is_global = c->global, .port_num = c->port},
	};
	if (c->global) {
		memcpy(rtr.ah_attr.grh.dgid, c->gid, 16);
		rtr.ah_attr.grh.sgid_index = c->gid_index;
		rtr.ah_attr.grh.hop_limit = 64;
	}
	int err = sk_modify_qp(qp, &rtr, VB_QP_STATE | VB_QP_AV | VB_QP_PATH_MTU | VB_QP_DEST_QPN | VB_QP_RQ_PSN | VB_QP_MAX_DEST_RD_ATOMIC | VB_QP_MIN_RNR_TIMER);
	if (err)
		return err;
	struct vb_qp_attr rts = {
		.qp_state = VB_QPS_RTS,
		.timeout = c->timeout,
		.retry_cnt = c->retry,
		.rnr_retry = c->rnr_retry,
		.sq_psn = c->psn,
	};
	return sk_modify_qp(qp, &rts, VB_QP_STATE | VB_QP_TIMEOUT | VB_QP_RETRY_CNT | VB_QP_RNR_RETRY | VB_QP_SQ_PSN | VB_QP_MAX_QP_RD_ATOMIC);
}

int sk_fail(struct vb_qp *qp)
{
	struct vb_qp_attr a = {.qp_state = VB_QPS_ERR};
	return sk_modify_qp(qp, &a, VB_QP_STATE);
}

int sk_post(struct vb_qp *qp, struct sk_recv *recvs, int nrecvs, struct sk_send *sends, int nsends)
{
	static const int opcode[] = {VB_WR_SEND, VB_WR_SEND_WITH_IMM, VB_WR_RDMA_WRITE, VB_WR_RDMA_WRITE_WITH_IMM};
	if (nrecvs > 0) {
		struct vb_recv_wr wr[SK_POST], *bad;
		for (int i = 0; i < nrecvs; i++)
			wr[i] = (struct vb_recv_wr){
				.wr_id = recvs[i].id,
				.next = i + 1 < nrecvs ? &wr[i + 1] : NULL,
				.sg_list = &recvs[i].sge,
				.num_sge = recvs[i].sge.length > 0,
			};
		int err = qp->context->ops.post_recv(qp, wr, &bad);
		if (err)
			return err < 0 ? -err : err;
	}
	if (nsends > 0) {
		struct vb_send_wr wr[SK_POST], *bad;
		for (int i = 0; i < nsends; i++) {
			struct sk_send *s = &sends[i];
			wr[i].wr_id = s->id;
			wr[i].next = i + 1 < nsends ? &wr[i + 1] : NULL;
			wr[i].sg_list = s->sge;
			wr[i].num_sge = s->num_sge;
			wr[i].opcode = opcode[s->op & 3];
			wr[i].send_flags = (s->flags & SK_SIGNALED ? VB_SEND_SIGNALED : 0) | (s->flags & SK_INLINE ? VB_SEND_INLINE : 0);
			wr[i].imm_data = htonl(s->imm);
			wr[i].wr.rdma.remote_addr = s->remote_addr;
			wr[i].wr.rdma.rkey = s->rkey;
		}
		int err = qp->context->ops.post_send(qp, wr, &bad);
		if (err)
			return err < 0 ? -err : err;
	}
	return 0;
}
