/* Processor hints and copies that the ring core uses on the path of a packet. */
#pragma once
#include <stdint.h>
#include <string.h>
#include "CPlatAtomics.h"

#if defined(__x86_64__)
CPLAT_HOT void CPlat_pause(void) { __builtin_ia32_pause(); }
CPLAT_HOT uint64_t CPlat_cycles(void) { return __builtin_ia32_rdtsc(); }
/* __builtin_prefetch(p, 1) becomes prefetchw only with -mprfchw: say it outright. */
CPLAT_HOT void CPlat_prefetch_write(const void *p) { __asm__ volatile("prefetchw (%0)" : : "r"(p)); }
#elif defined(__aarch64__)
CPLAT_HOT void CPlat_pause(void) { __asm__ volatile("yield"); }
CPLAT_HOT uint64_t CPlat_cycles(void) { uint64_t v; __asm__ volatile("mrs %0, cntvct_el0" : "=r"(v)); return v; }
CPLAT_HOT void CPlat_prefetch_write(const void *p) { __builtin_prefetch(p, 1, 3); }
#else
#error "Ringway knows x86-64 and arm64"
#endif
CPLAT_HOT void CPlat_prefetch_read(const void *p) { __builtin_prefetch(p, 0, 3); }
CPLAT_HOT void CPlat_copy(void *to, const void *from, uint64_t n) { memcpy(to, from, n); }
CPLAT_HOT void CPlat_zero(void *to, uint64_t n) { memset(to, 0, n); }

/* Copies 0 to some hundred bytes without a call. Never past the end of either; the last bytes may be read twice, the
   later reading counts. */
CPLAT_HOT void CPlat_copy_short(void *to, const void *from, uint64_t n) {
    char *t = (char *)to;
    const char *f = (const char *)from;
    if (n >= 64) {
        __builtin_memcpy(t, f, 64);
        if (n <= 80) {
            __builtin_memcpy(t + n - 16, f + n - 16, 16);
            return;
        }
#pragma clang loop unroll(disable)
        for (uint64_t i = 64; i + 64 < n; i += 64) __builtin_memcpy(t + i, f + i, 64);
        __builtin_memcpy(t + n - 64, f + n - 64, 64);
    } else if (n >= 32) {
        __builtin_memcpy(t, f, 32);
        __builtin_memcpy(t + n - 32, f + n - 32, 32);
    } else if (n >= 16) {
        __builtin_memcpy(t, f, 16);
        __builtin_memcpy(t + n - 16, f + n - 16, 16);
    } else if (n >= 8) {
        __builtin_memcpy(t, f, 8);
        __builtin_memcpy(t + n - 8, f + n - 8, 8);
    } else if (n >= 4) {
        __builtin_memcpy(t, f, 4);
        __builtin_memcpy(t + n - 4, f + n - 4, 4);
    } else {
        for (uint64_t i = 0; i < n; i++) t[i] = f[i];
    }
}

/* Copies whole cache lines, at least one. */
CPLAT_HOT void CPlat_copy_lines(void *to, const void *from, uint64_t lines) {
    char *t = (char *)to;
    const char *f = (const char *)from;
    __builtin_memcpy(t, f, 64);
#pragma clang loop unroll(disable)
    while (--lines) {
        t += 64;
        f += 64;
        __builtin_memcpy(t, f, 64);
    }
}
