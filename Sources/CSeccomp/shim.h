#pragma once
#include <seccomp.h>
/* Values that arguments of system calls are checked for. */
#include <linux/prctl.h>
#include <linux/sched.h>
