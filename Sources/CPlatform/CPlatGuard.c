#define _GNU_SOURCE
#include "include/CPlatGuard.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { PLACES = 32768 };

/* `base` is set last and cleared first: the handler reads it with acquire. */
static struct { _Atomic(uintptr_t) base; size_t length; int notify; } places[PLACES];
static _Atomic int high;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;
static bool installed;

static void handler(int signal, siginfo_t *info, void *context) {
    int error = errno;
    uintptr_t at = (uintptr_t)info->si_addr;
    int n = atomic_load(&high);
    for (int i = 0; i < n; i++) {
        uintptr_t base = atomic_load_explicit(&places[i].base, memory_order_acquire);
        if (!base || at - base >= places[i].length) continue;
        void *p = mmap((void *)base, places[i].length, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) break;
        uint64_t one = 1;
        if (places[i].notify >= 0 && write(places[i].notify, &one, sizeof one) < 0) { /* full: told already */ }
        errno = error;
        return;
    }
    errno = error;
    /* Not ours: whoever was responsible before. The access faults again after returning. */
    if ((previous.sa_flags & SA_SIGINFO) && previous.sa_sigaction) previous.sa_sigaction(signal, info, context);
    else sigaction(SIGBUS, &previous, NULL);
}

int CPlat_guard(void *p, size_t n, int notify) {
    int found = -1;
    pthread_mutex_lock(&mutex);
    if (!installed) {
        struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
        sigemptyset(&action.sa_mask);
        installed = sigaction(SIGBUS, &action, &previous) == 0;
    }
    for (int i = 0; i < PLACES && found < 0; i++) if (!atomic_load(&places[i].base)) found = i;
    if (found >= 0) {
        places[found].length = n;
        places[found].notify = notify;
        if (found >= atomic_load(&high)) atomic_store(&high, found + 1);
        atomic_store_explicit(&places[found].base, (uintptr_t)p, memory_order_release);
    }
    pthread_mutex_unlock(&mutex);
    return found;
}

void CPlat_unguard(int handle) {
    if (handle < 0 || handle >= PLACES) return;
    pthread_mutex_lock(&mutex);
    atomic_store_explicit(&places[handle].base, 0, memory_order_release);
    pthread_mutex_unlock(&mutex);
}

uint64_t CPlat_file_page_size(int fd) {
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0) return 0;
    /* HUGETLBFS_MAGIC of <linux/magic.h>; other file systems are mapped in base pages. */
    return fs.f_type == 0x958458f6 ? (uint64_t)fs.f_bsize : (uint64_t)sysconf(_SC_PAGESIZE);
}

bool CPlat_is_eventfd(int fd) {
    char path[64], target[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0) return false;
    target[n] = 0;
    return strcmp(target, "anon_inode:[eventfd]") == 0;
}
