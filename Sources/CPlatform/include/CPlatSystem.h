/* Threads, CPUs, descriptors and memory: what `import Glibc` lacks. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <sys/types.h>

/* 0, or an errno value. Pins the calling thread to one CPU. */
int CPlat_pin_to_cpu(int cpu);
/* Whether the process may run on `cpu`. */
bool CPlat_cpu_allowed(int cpu);
/* Name of the calling thread, cut to 15 bytes. */
void CPlat_set_thread_name(const char *name);
/* eventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK); -1 and errno. */
int CPlat_eventfd(unsigned int initial);
/* pipe2, close-on-exec and non-blocking; 0, or -1 and errno. */
int CPlat_pipe(int *ends);
/* splice from pipe to pipe; waits for neither, whatever O_NONBLOCK says there, and raises no SIGPIPE. Bytes, 0 at the
   end, or -1 and errno. */
ssize_t CPlat_splice_now(int from, int to, size_t length);
/* An epoll descriptor, which poll(2) finds readable when something happened; -1 and errno. */
int CPlat_watcher(void);
/* Each write to fd is told once, whether or not fd stays readable: a semaphore eventfd does. 0, or -1 and errno. */
int CPlat_watch(int watcher, int fd);
/* Before fd is closed. */
void CPlat_unwatch(int watcher, int fd);
/* At most 16 descriptors to which something happened; their number. */
int CPlat_watched(int watcher, int *fds, int capacity);
/* memfd_create with MFD_CLOEXEC; huge_page_shift 0, 21 or 30. -1 and errno. */
int CPlat_memfd(const char *name, int huge_page_shift, bool sealable);
/* Adds F_SEAL_SHRINK. -1 and errno. */
int CPlat_seal_shrink(int fd);
/* The node on which the page at p lies, -1 if unknown. */
int CPlat_node_of_page(void *p);
/* RWF_NOWAIT of <linux/fs.h>. */
enum { CPlat_RWF_NOWAIT = 8 };
/* Reads an eventfd that somebody else holds, too: never waits, whatever O_NONBLOCK says. What was read, or 0. */
uint64_t CPlat_take_now(int fd);
/* Adds one to an eventfd that somebody else holds, too: never waits, whatever O_NONBLOCK says and however full it is.
   0, or an errno value. */
int CPlat_signal_now(int fd);
/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t CPlat_monotonic_ns(void);
/* CLOCK_REALTIME in nanoseconds: since 1970. */
uint64_t CPlat_realtime_ns(void);
/* A timer that ends this process by SIGKILL, also where it hangs or is stopped; it is not set. -1 and errno. */
long CPlat_deadline(void);
/* Has it end the process so many seconds from now; 0: never. 0, or -1 and errno. */
int CPlat_deadline_set(long timer, uint32_t seconds);
void CPlat_deadline_remove(long timer);
