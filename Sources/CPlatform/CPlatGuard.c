#define _GNU_SOURCE
#include "include/CPlatGuard.h"
#include <errno.h>
#include <fcntl.h>
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

/* A sequence lock each: `version` is odd while the place changes. The handler takes no lock and must
   not see the base of one range with the length of another. A place that changes cannot be the one it
   looks for: nobody uses a range that is not guarded yet, or any more. */
static struct {
    _Atomic unsigned version;
    _Atomic int notify;
    _Atomic(uintptr_t) base;
    _Atomic size_t length;
} places[PLACES];
static _Atomic int high;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;
static bool installed;

static void handler(int signal, siginfo_t *info, void *context) {
    int error = errno;
    uintptr_t at = (uintptr_t)info->si_addr;
    int n = atomic_load(&high);
    for (int i = 0; i < n; i++) {
        unsigned version = atomic_load_explicit(&places[i].version, memory_order_acquire);
        uintptr_t base = atomic_load_explicit(&places[i].base, memory_order_relaxed);
        size_t length = atomic_load_explicit(&places[i].length, memory_order_relaxed);
        int notify = atomic_load_explicit(&places[i].notify, memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        if (version & 1 || version != atomic_load_explicit(&places[i].version, memory_order_relaxed)) continue;
        if (!base || at - base >= length) continue;
        void *p = mmap((void *)base, length, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) break;
        uint64_t one = 1;
        if (notify >= 0 && write(notify, &one, sizeof one) < 0) { /* full: told already */ }
        errno = error;
        return;
    }
    errno = error;
    /* Not ours: whoever was responsible before. The access faults again after returning. */
    if ((previous.sa_flags & SA_SIGINFO) && previous.sa_sigaction) previous.sa_sigaction(signal, info, context);
    else sigaction(SIGBUS, &previous, NULL);
}

/* With the mutex held. */
static void set(int i, uintptr_t base, size_t length, int notify) {
    unsigned version = atomic_load_explicit(&places[i].version, memory_order_relaxed);
    atomic_store_explicit(&places[i].version, version + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&places[i].base, base, memory_order_relaxed);
    atomic_store_explicit(&places[i].length, length, memory_order_relaxed);
    atomic_store_explicit(&places[i].notify, notify, memory_order_relaxed);
    atomic_store_explicit(&places[i].version, version + 2, memory_order_release);
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
        set(found, (uintptr_t)p, n, notify);
        if (found >= atomic_load(&high)) atomic_store(&high, found + 1);
    }
    pthread_mutex_unlock(&mutex);
    return found;
}

void CPlat_unguard(int handle) {
    if (handle < 0 || handle >= PLACES) return;
    pthread_mutex_lock(&mutex);
    set(handle, 0, 0, -1);
    pthread_mutex_unlock(&mutex);
}

uint64_t CPlat_file_page_size(int fd) {
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0) return 0;
    /* HUGETLBFS_MAGIC of <linux/magic.h>; other file systems are mapped in base pages. */
    return fs.f_type == 0x958458f6 ? (uint64_t)fs.f_bsize : (uint64_t)sysconf(_SC_PAGESIZE);
}

bool CPlat_is_shared_memory(int fd) { return fcntl(fd, F_GET_SEALS) >= 0; }

void CPlat_file_system(int fd, char *name, size_t size) {
    char path[64], line[4096];
    int wanted = -1, id;
    snprintf(name, size, "no file system");
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) if (sscanf(line, "mnt_id: %d", &wanted) == 1) break;
    if (f) fclose(f);
    f = wanted >= 0 ? fopen("/proc/self/mountinfo", "re") : NULL;
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%d ", &id) != 1 || id != wanted) continue;
        char *type = strstr(line, " - ");
        if (type) snprintf(name, size, "%.*s", (int)strcspn(type + 3, " \n"), type + 3);
        break;
    }
    if (f) fclose(f);
}

/* What /proc calls it: a path, or "kind:[number]". */
static bool named(int fd, char *target, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, target, size - 1);
    target[n < 0 ? 0 : n] = 0;
    return n > 0;
}

bool CPlat_is_eventfd(int fd) {
    char target[64];
    return named(fd, target, sizeof target) && strcmp(target, "anon_inode:[eventfd]") == 0;
}

bool CPlat_is_pipe(int fd) {
    char target[64];
    return named(fd, target, sizeof target) && strncmp(target, "pipe:[", 6) == 0;
}

bool CPlat_is_file(int fd) {
    char target[64];
    return named(fd, target, sizeof target) && target[0] == '/';
}
