/* Atomic accesses to memory shared with another process. Naturally aligned
   addresses only. The names give width and ordering. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define CPLAT_HOT static inline __attribute__((always_inline))

CPLAT_HOT uint8_t CPlat_load8_relaxed(const void *p) { return __atomic_load_n((const uint8_t *)p, __ATOMIC_RELAXED); }
CPLAT_HOT void CPlat_store8_release(void *p, uint8_t v) { __atomic_store_n((uint8_t *)p, v, __ATOMIC_RELEASE); }
CPLAT_HOT uint16_t CPlat_load16_acquire(const void *p) { return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE); }
CPLAT_HOT uint16_t CPlat_load16_relaxed(const void *p) { return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED); }
CPLAT_HOT uint32_t CPlat_load32_acquire(const void *p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE); }
CPLAT_HOT uint32_t CPlat_load32_relaxed(const void *p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED); }
CPLAT_HOT uint64_t CPlat_load64_acquire(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE); }
CPLAT_HOT uint64_t CPlat_load64_relaxed(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED); }
CPLAT_HOT void CPlat_store16_release(void *p, uint16_t v) { __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELEASE); }
CPLAT_HOT void CPlat_store16_relaxed(void *p, uint16_t v) { __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELAXED); }
CPLAT_HOT void CPlat_store32_release(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELEASE); }
CPLAT_HOT void CPlat_store32_relaxed(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED); }
CPLAT_HOT void CPlat_store64_release(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE); }
CPLAT_HOT void CPlat_store64_relaxed(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED); }
CPLAT_HOT uint8_t CPlat_or8_relaxed(void *p, uint8_t v) { return __atomic_fetch_or((uint8_t *)p, v, __ATOMIC_RELAXED); }
CPLAT_HOT uint32_t CPlat_exchange32(void *p, uint32_t v) { return __atomic_exchange_n((uint32_t *)p, v, __ATOMIC_ACQ_REL); }
/* Value before. */
CPLAT_HOT uint32_t CPlat_sub32_release(void *p, uint32_t v) { return __atomic_fetch_sub((uint32_t *)p, v, __ATOMIC_ACQ_REL); }
CPLAT_HOT uint32_t CPlat_add32_relaxed(void *p, uint32_t v) { return __atomic_fetch_add((uint32_t *)p, v, __ATOMIC_RELAXED); }
/* Whether *p was `expected` and is `v` now. */
CPLAT_HOT bool CPlat_replace64(void *p, uint64_t expected, uint64_t v) { return __atomic_compare_exchange_n((uint64_t *)p, &expected, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED); }
/* 64 bits that lie at a multiple of 4 (used ring) or anywhere (indirect tables): one move on x86, never read or written twice. */
typedef uint64_t __attribute__((aligned(1), may_alias)) CPlat_unaligned64;
CPLAT_HOT uint64_t CPlat_load64_unaligned(const void *p) { return *(const volatile CPlat_unaligned64 *)p; }
CPLAT_HOT void CPlat_store64_unaligned(void *p, uint64_t v) { *(volatile CPlat_unaligned64 *)p = v; }
/* Store-load barrier: what the notification decision needs (virtio 1.3, 2.7.10 and 2.8.10). */
CPLAT_HOT void CPlat_fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
CPLAT_HOT void CPlat_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
