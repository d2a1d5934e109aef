#define _GNU_SOURCE
#include "include/CPlatSocket.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAX_FDS = 253 };  /* the kernel's SCM_MAX_FD */

ssize_t CPlat_receive_fds(int socket, void *bytes, size_t length, int flags,
                          int *fds, int capacity, int *count, bool *truncated) {
    union { struct cmsghdr align; char room[CMSG_SPACE(sizeof(int) * MAX_FDS)]; } control;
    struct iovec iov = {bytes, length};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    *count = 0;
    *truncated = false;
    ssize_t n = recvmsg(socket, &msg, flags | MSG_CMSG_CLOEXEC);
    if (n < 0) return n;
    if (msg.msg_flags & MSG_CTRUNC) *truncated = true;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < got; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
            if (*count < capacity) fds[(*count)++] = fd;
            else { close(fd); *truncated = true; }
        }
    }
    return n;
}

ssize_t CPlat_send_fds(int socket, const void *bytes, size_t length, int flags, const int *fds, int count) {
    union { struct cmsghdr align; char room[CMSG_SPACE(sizeof(int) * MAX_FDS)]; } control;
    struct iovec iov = {(void *)bytes, length};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count > MAX_FDS) { errno = EINVAL; return -1; }
    if (count > 0) {
        msg.msg_control = control.room;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        memset(control.room, 0, msg.msg_controllen);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    }
    return sendmsg(socket, &msg, flags | MSG_NOSIGNAL);
}

int CPlat_unix_socket(void) { return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

static int address(const char *path, struct sockaddr_un *a) {
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof a->sun_path) { errno = ENAMETOOLONG; return -1; }
    strcpy(a->sun_path, path);
    return 0;
}

int CPlat_unix_bind(int socket, const char *path) {
    struct sockaddr_un a;
    return address(path, &a) ? -1 : bind(socket, (struct sockaddr *)&a, sizeof a);
}

struct binding { int socket; const char *path; unsigned int mode; int error; };

/* The umask is taken off the mode of what is bound, and belongs to the process: so this thread gets one of its own. */
static void *bind_apart(void *raw) {
    struct binding *b = raw;
    if (unshare(CLONE_FS) != 0) { b->error = errno; return NULL; }
    umask(0);
    if (fchmod(b->socket, b->mode) != 0 || CPlat_unix_bind(b->socket, b->path) != 0) b->error = errno;
    return NULL;
}

int CPlat_unix_bind_mode(int socket, const char *path, unsigned int mode) {
    struct binding b = {socket, path, mode, 0};
    pthread_t thread;
    errno = pthread_create(&thread, NULL, bind_apart, &b);
    if (errno != 0) return -1;
    pthread_join(thread, NULL);
    errno = b.error;
    return errno ? -1 : 0;
}

/* By descriptor: whoever may write to the directory could put another file there meanwhile. */
int CPlat_unix_give(const char *path, uint32_t user, uint32_t group) {
    struct stat s;
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return -1;
    int status = fstat(fd, &s);
    if (status == 0 && (!S_ISSOCK(s.st_mode) || s.st_uid != geteuid())) { errno = ESTALE; status = -1; }
    if (status == 0) status = fchownat(fd, "", user, group, AT_EMPTY_PATH);
    int error = errno;
    close(fd);
    errno = error;
    return status;
}

int CPlat_unix_connect(int socket, const char *path) {
    struct sockaddr_un a;
    return address(path, &a) ? -1 : connect(socket, (struct sockaddr *)&a, sizeof a);
}

bool CPlat_is_stream(int socket) {
    int domain = 0, type = 0;
    socklen_t n = sizeof domain;
    if (getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &n) || domain != AF_UNIX) return false;
    n = sizeof type;
    return !getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &n) && type == SOCK_STREAM;
}

bool CPlat_is_listening(int socket) {
    int listens = 0;
    socklen_t n = sizeof listens;
    return !getsockopt(socket, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) && listens;
}

bool CPlat_is_connected(int socket) {
    struct sockaddr_un a;
    socklen_t n = sizeof a;
    return getpeername(socket, (struct sockaddr *)&a, &n) == 0;
}

bool CPlat_is_channel(int socket) {
    struct sockaddr_un a;
    socklen_t own = sizeof a, other = sizeof a;
    return CPlat_is_stream(socket) && getsockname(socket, (struct sockaddr *)&a, &own) == 0 && own == sizeof a.sun_family
        && getpeername(socket, (struct sockaddr *)&a, &other) == 0 && other == sizeof a.sun_family;
}

void CPlat_read_urgent_inline(int socket) {
    int one = 1;
    setsockopt(socket, SOL_SOCKET, SO_OOBINLINE, &one, sizeof one);
}

void CPlat_make_send_only(int socket) {
    char bytes[4096];
    CPlat_read_urgent_inline(socket);
    shutdown(socket, SHUT_RD);
    for (;;) {
        ssize_t n = recv(socket, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EINTR)) return;
    }
}

int CPlat_accept(int socket) { return accept4(socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK); }
