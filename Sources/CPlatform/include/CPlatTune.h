#pragma once
#include <stdint.h>
extern int64_t CPlat_tune[16];
static inline __attribute__((always_inline, swift_attr("@_noLocks"))) int64_t CPlat_t(int i) { return CPlat_tune[i]; }
