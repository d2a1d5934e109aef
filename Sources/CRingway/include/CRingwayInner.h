/* What the Swift rooms have from here: what each thread of the C face has of its own, and the commit. Not installed. */
#ifndef CRINGWAY_INNER_H
#define CRINGWAY_INNER_H

#include <stdint.h>

struct CRingway_thread {
    /* The burst whose call is under way. */
    const void *burst;
    /* Callbacks under way. */
    int64_t callbacks;
};

/* One word from the thread's pointer on, without a call: this is read for each packet. */
extern _Thread_local struct CRingway_thread CRingway_current
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

static inline int CRingway_is_open(const void *burst) { return burst && burst == CRingway_current.burst; }
static inline int CRingway_in_callback(void) { return CRingway_current.callbacks > 0; }
static inline void CRingway_enter(const void *burst) {
    CRingway_current.burst = burst;
    CRingway_current.callbacks += 1;
}
static inline void CRingway_leave(void) {
    CRingway_current.burst = 0;
    CRingway_current.callbacks -= 1;
}

/* Notes what a call has to say; a longer text is cut. */
void CRingway_note(const char *text);

/* What this was built from, or "" where nobody said it: tools/package does. */
const char *CRingway_commit(void);

#endif
