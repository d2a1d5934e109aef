/* Constants of <linux/vhost.h>, <linux/if_tun.h> that Swift cannot import (ioctl macros). */
#pragma once
#include <stdint.h>
