/* Memory that somebody else can take away: a file that is truncated behind a mapping
   raises SIGBUS at the next access. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* From now on a SIGBUS inside [p, p+n) replaces the whole range by zeroed private memory and
   writes to the eventfd `notify`, instead of ending the process. A handle, or -1 when all
   32768 places are taken. Other SIGBUS go where they went before. */
int CPlat_guard(void *p, size_t n, int notify);
/* Ends the guard; the caller unmaps the range. */
void CPlat_unguard(int handle);
/* Page size of the file behind fd (huge for hugetlbfs), or 0 and errno. */
uint64_t CPlat_file_page_size(int fd);
/* Whether fd is a file of memfd, tmpfs or hugetlbfs (the only ones that have seals). Asks no file
   system: one of FUSE would be asked in its own process, which need not answer. */
bool CPlat_is_shared_memory(int fd);
/* Name of the type of the file system that fd lies in, as far as this process sees its mount. Asks no
   file system. */
void CPlat_file_system(int fd, char *name, size_t size);
/* Whether fd is an eventfd. */
bool CPlat_is_eventfd(int fd);
/* Whether fd is an end of a pipe without a name. */
bool CPlat_is_pipe(int fd);
/* Whether fd was opened by a path, or is a memfd. Asks no file system. */
bool CPlat_is_file(int fd);
