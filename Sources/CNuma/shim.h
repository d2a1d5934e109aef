#pragma once
#include <sys/types.h>
#include <numa.h>
#include <numaif.h>
