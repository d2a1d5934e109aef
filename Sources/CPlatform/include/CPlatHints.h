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
