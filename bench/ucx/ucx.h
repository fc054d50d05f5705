// The part of UCX's interface (API 1.10 and later) that package ucx uses, declared again so that no header is needed. Of the structs
// that have a mask only the fields named here are ever used; the rest is room.
#include <stddef.h>
#include <stdint.h>

enum { UX_OK = 0, UX_INPROGRESS = 1, UX_BUSY = -15 };
enum {
	UX_PARAM_FEATURES = 1, UX_FEATURE_WAKEUP = 16, UX_FEATURE_STREAM = 32,
	UX_WORKER_THREAD_MODE = 1, UX_THREAD_SERIALIZED = 1,
	UX_EP_ADDRESS = 1,
};

typedef struct { uint64_t mask, features; char room[112]; } ux_params;
typedef struct { uint64_t mask; int thread_mode; char room[244]; } ux_worker_params;
typedef struct { uint64_t mask; const void *address; char room[112]; } ux_ep_params;
typedef struct {
	uint32_t mask, flags;
	void *request, *cb;
	uint64_t datatype;
	void *user_data;
	char room[88];
} ux_request_param;
