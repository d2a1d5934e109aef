/* The kernel refuses io_uring requests, for tests: io_uring_enter(2) of a thread, and of the threads that it makes
   afterwards, is decided on by a supervisor (seccomp user notification). The code under test knows nothing of it. */
#include <stdbool.h>
#include <stdint.h>

/* Whether the kernel can do it. */
bool CRefusal_isThere(void);
/* For the calling thread, for good. The supervisor's descriptor; -1 and errno. */
int CRefusal_begin(void);
/* The next call, waited for at most `milliseconds`. False: none. */
bool CRefusal_next(int supervisor, int milliseconds, uint64_t *id, uint32_t *to_submit);
/* The call fails with `error`; 0: the kernel carries it out. */
void CRefusal_answer(int supervisor, uint64_t id, int error);
