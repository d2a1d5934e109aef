#include "CRingwayInner.h"
#include "ringway.h"

#include <string.h>

_Thread_local struct CRingway_thread CRingway_current;
static _Thread_local char message[512];

void CRingway_note(const char *text) {
    size_t n = strnlen(text, sizeof message - 1);
    memcpy(message, text, n);
    message[n] = 0;
}

const char *ringway_last_error(void) { return message; }

const char *ringway_version(void) { return RINGWAY_VERSION; }

#ifndef RINGWAY_COMMIT
#define RINGWAY_COMMIT ""
#endif
const char *CRingway_commit(void) { return RINGWAY_COMMIT; }

const char *ringway_error_text(int code) {
    switch (code) {
    case RINGWAY_OK: return "no error";
    case RINGWAY_ERROR_ARGUMENT: return "a pointer is NULL that must not be";
    case RINGWAY_ERROR_HANDLE: return "no such engine or statistics, or freed already";
    case RINGWAY_ERROR_SIZE: return "a struct's size is none that this library knows";
    case RINGWAY_ERROR_RANGE: return "a number is too large";
    case RINGWAY_ERROR_OPTIONS: return "ports or options that cannot be";
    case RINGWAY_ERROR_STATE: return "the engine runs already, or does not run";
    case RINGWAY_ERROR_START: return "a port or thread could not be started";
    case RINGWAY_ERROR_CALLER: return "may not be called from here";
    case RINGWAY_ERROR_IMPOSSIBLE: return "the packet cannot be changed in this way";
    case RINGWAY_ERROR_FULL: return "this burst can have no more of them";
    case RINGWAY_ERROR_INIT: return "the function's thread_init refused";
    default: return code > 0 ? "no error" : "an error that this library does not know";
    }
}
