#include "CPlatTune.h"
#include <stdlib.h>
#include <stdio.h>
int64_t CPlat_tune[16] = {32, 24, 0, 64, 0};
__attribute__((constructor)) static void init(void) {
    const char *e = getenv("RT"); if (!e) return;
    for (int i = 0; i < 16 && *e; i++) { char *n; long v = strtol(e, &n, 10); if (n != e) CPlat_tune[i] = v; e = *n ? n + 1 : n; }
}
