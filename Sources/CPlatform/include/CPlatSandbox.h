/* What a process gives up for good: glibc has no functions for it. All of it is the calling thread's, and that of the
   threads which it starts afterwards. */
#pragma once
#include <stdint.h>

/* No program that is executed can gain privileges. 0, or an errno value. */
int CPlat_no_new_privileges(void);
/* Gives up all capabilities but those of `kept` (bit n: capability n): effective, permitted, inheritable, ambient, and,
   where this process may, of the bounding set. 0, or an errno value. */
int CPlat_keep_capabilities(uint64_t kept);
/* The effective ones. */
uint64_t CPlat_capabilities(void);

/* Version of the kernel's Landlock; 0: it has none, or it is not enabled. */
int CPlat_landlock_version(void);
/* A set of rules that denies these rights to files, TCP ports, and what is outside of the process; -1 and errno. */
int CPlat_landlock_rules(int version, uint64_t files, uint64_t tcp, uint64_t scopes);
/* Allows `rights` at and beneath what `fd` is open at. 0, or an errno value. */
int CPlat_landlock_allow(int rules, int fd, uint64_t rights);
/* From now on they are in force. 0, or an errno value. */
int CPlat_landlock_enter(int rules);
/* open(2) of a file or folder that is only named; -1 and errno. */
int CPlat_open_path(const char *path);

/* Tries what a dataplane never does: attempt n of a list. Its name, NULL behind the last; *error is 0 where it was
   carried out, else an errno value. */
const char *CPlat_attempt(int n, int *error);
