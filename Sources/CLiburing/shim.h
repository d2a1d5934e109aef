#pragma once
/* <liburing.h> defines feature macros; fixing fd_set's layout first keeps the
   module compatible with every other one in debug builds. */
#include <sys/types.h>
#include <liburing.h>
