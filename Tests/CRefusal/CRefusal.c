#define _GNU_SOURCE
#include "include/CRefusal.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

bool CRefusal_isThere(void) {
    struct seccomp_notif_sizes sizes;
    return syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) == 0;
}

int CRefusal_begin(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

bool CRefusal_next(int supervisor, int milliseconds, uint64_t *id, uint32_t *to_submit) {
    struct pollfd p = {.fd = supervisor, .events = POLLIN};
    if (poll(&p, 1, milliseconds) != 1 || !(p.revents & POLLIN)) return false;
    struct seccomp_notif n;
    memset(&n, 0, sizeof n);
    if (ioctl(supervisor, SECCOMP_IOCTL_NOTIF_RECV, &n) != 0) return false;
    *id = n.id;
    *to_submit = (uint32_t)n.data.args[1];
    return true;
}

void CRefusal_answer(int supervisor, uint64_t id, int error) {
    struct seccomp_notif_resp r;
    memset(&r, 0, sizeof r);
    r.id = id;
    if (error == 0) r.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    else r.error = -error;
    /* The thread may have gone meanwhile, or been interrupted: it asks again. */
    if (ioctl(supervisor, SECCOMP_IOCTL_NOTIF_SEND, &r) != 0) return;
}
