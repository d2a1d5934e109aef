#define _GNU_SOURCE
#include "include/CPlatSystem.h"
#include "include/CPlatVhost.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>

int CPlat_pin_to_cpu(int cpu) {
    if (cpu < 0 || cpu >= CPU_SETSIZE) return EINVAL;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

bool CPlat_cpu_allowed(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    return cpu >= 0 && cpu < CPU_SETSIZE && sched_getaffinity(getpid(), sizeof set, &set) == 0 && CPU_ISSET(cpu, &set);
}

void CPlat_set_thread_name(const char *name) {
    char cut[16];
    strncpy(cut, name, 15);
    cut[15] = 0;
    pthread_setname_np(pthread_self(), cut);
}

int CPlat_eventfd(unsigned int initial) { return eventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK); }

int CPlat_pipe(int *ends) { return pipe2(ends, O_CLOEXEC | O_NONBLOCK); }

/* SIGPIPE, which an embedder may not expect, is taken away where it was not there before. */
ssize_t CPlat_splice_now(int from, int to, size_t length) {
    sigset_t pipe, old, pending;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe, &old);
    ssize_t n = splice(from, NULL, to, NULL, length, SPLICE_F_NONBLOCK);
    int error = errno;
    struct timespec now = {0, 0};
    if (n < 0 && error == EPIPE && !sigismember(&pending, SIGPIPE)) sigtimedwait(&pipe, NULL, &now);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = error;
    return n;
}

int CPlat_watcher(void) { return epoll_create1(EPOLL_CLOEXEC); }

int CPlat_watch(int watcher, int fd) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.fd = fd};
    if (epoll_ctl(watcher, EPOLL_CTL_ADD, fd, &e) == 0) return 0;
    return errno == EEXIST ? epoll_ctl(watcher, EPOLL_CTL_MOD, fd, &e) : -1;
}

void CPlat_unwatch(int watcher, int fd) { epoll_ctl(watcher, EPOLL_CTL_DEL, fd, NULL); }

int CPlat_watched(int watcher, int *fds, int capacity) {
    struct epoll_event events[16];
    int n = epoll_wait(watcher, events, capacity < 16 ? capacity : 16, 0);
    for (int i = 0; i < n; i++) fds[i] = events[i].data.fd;
    return n;
}

int CPlat_memfd(const char *name, int huge_page_shift, bool sealable) {
    unsigned int flags = MFD_CLOEXEC;
    if (sealable) flags |= MFD_ALLOW_SEALING;
    if (huge_page_shift) flags |= MFD_HUGETLB | ((unsigned)huge_page_shift << MFD_HUGE_SHIFT);
    return memfd_create(name, flags);
}

int CPlat_seal_shrink(int fd) { return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK); }

int CPlat_node_of_page(void *p) {
    int node = -1;
    if (syscall(SYS_get_mempolicy, &node, NULL, 0, p, MPOL_F_NODE | MPOL_F_ADDR) != 0) return -1;
    return node;
}

uint64_t CPlat_monotonic_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t CPlat_realtime_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The kernel's own numbers: glibc's timer_t may be one of its pointers. */
long CPlat_deadline(void) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
    int timer;
    return syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer) == 0 ? timer : -1;
}

int CPlat_deadline_set(long timer, uint32_t seconds) {
    struct itimerspec end = {.it_value.tv_sec = seconds};
    return (int)syscall(SYS_timer_settime, (int)timer, 0, &end, NULL);
}

void CPlat_deadline_remove(long timer) { syscall(SYS_timer_delete, (int)timer); }

_Static_assert(CPlat_RWF_NOWAIT == RWF_NOWAIT, "CPlat_RWF_NOWAIT");

uint64_t CPlat_take_now(int fd) {
    uint64_t count = 0;
    struct iovec v = {&count, sizeof count};
    return preadv2(fd, &v, 1, -1, RWF_NOWAIT) == sizeof count ? count : 0;
}

/* The kernel adds to an eventfd that is registered with an io_uring at each completion, and never waits for it: write(2)
   waits at a full counter, and RWF_NOWAIT is not for writing eventfds. So a request that does nothing is completed. */
int CPlat_signal_now(int fd) {
    struct io_uring_params p = {0};
    int error = 0;
    int ring = (int)syscall(SYS_io_uring_setup, 1, &p);
    if (ring < 0) return errno;
    size_t bytes = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
    char *queue = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *request = mmap(
        NULL, p.sq_entries * sizeof *request, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
    if (queue == MAP_FAILED || request == MAP_FAILED || syscall(SYS_io_uring_register, ring, IORING_REGISTER_EVENTFD, &fd, 1) != 0) {
        error = errno;
    } else {
        memset(request, 0, sizeof *request);
        request->opcode = IORING_OP_NOP;
        *(uint32_t *)(queue + p.sq_off.array) = 0;
        __atomic_store_n((uint32_t *)(queue + p.sq_off.tail), 1, __ATOMIC_RELEASE);
        long n;
        /* A signal, or a kernel that lacks memory just now: a second at most. */
        for (int tries = 0;; tries++) {
            n = syscall(SYS_io_uring_enter, ring, 1, 0, 0, NULL, 0);
            if (n >= 0 || tries == 1000 || (errno != EINTR && errno != EAGAIN && errno != EBUSY && errno != ENOMEM)) break;
            if (errno != EINTR) usleep(1000);
        }
        if (n != 1) error = n < 0 ? errno : EAGAIN;
    }
    if (request != MAP_FAILED) munmap(request, p.sq_entries * sizeof *request);
    if (queue != MAP_FAILED) munmap(queue, bytes);
    close(ring);
    return error;
}

int CPlat_ioctl(int fd, unsigned long request, void *argument) { return ioctl(fd, request, argument); }

int CPlat_ioctl_number(int fd, unsigned long request, unsigned long number) { return ioctl(fd, request, number); }
