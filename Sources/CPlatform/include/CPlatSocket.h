/* Unix stream sockets that carry descriptors (SCM_RIGHTS). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* recvmsg with room for `capacity` (at most 256) descriptors, opened close-on-exec.
   Returns bytes read, 0 at the end, or -1 and errno. `*count` descriptors are in
   `fds` and belong to the caller, also on a short read. `*truncated` is set when the
   sender attached more than fitted (MSG_CTRUNC). */
ssize_t CPlat_receive_fds(int socket, void *bytes, size_t length, int flags,
                          int *fds, int capacity, int *count, bool *truncated);
/* sendmsg with `count` descriptors; MSG_NOSIGNAL. Bytes sent, or -1 and errno. */
ssize_t CPlat_send_fds(int socket, const void *bytes, size_t length, int flags, const int *fds, int count);
/* socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK); -1 and errno. */
int CPlat_unix_socket(void);
/* bind or connect to a path (at most 107 bytes); 0, or -1 and errno. */
int CPlat_unix_bind(int socket, const char *path);
/* The same as bind, and its file has exactly these permissions from the first moment on, whatever the umask is. */
int CPlat_unix_bind_mode(int socket, const char *path, unsigned int mode);
/* Gives the socket's file, which this user has made, to others (UINT32_MAX: stays); 0, or -1 and errno. */
int CPlat_unix_give(const char *path, uint32_t user, uint32_t group);
int CPlat_unix_connect(int socket, const char *path);
/* accept4 with close-on-exec, non-blocking; -1 and errno. */
int CPlat_accept(int socket);
/* Whether it is a Unix stream socket; one that listens; any socket that is connected. */
bool CPlat_is_stream(int socket);
bool CPlat_is_listening(int socket);
bool CPlat_is_connected(int socket);
/* Whether it is a connected Unix stream socket of which neither end has a name, as socketpair makes them.
   A connection to or from a path has one: it is no channel, but may be the other end of one of ours. */
bool CPlat_is_channel(int socket);
/* Bytes sent with MSG_OOB, which can carry descriptors, come with the others: else they stay in the queue. */
void CPlat_read_urgent_inline(int socket);
/* Nothing can be sent to it any more, and nothing is left in its queue (descriptors in it are closed). */
void CPlat_make_send_only(int socket);
