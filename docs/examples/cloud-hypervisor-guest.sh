#!/bin/sh
# A Cloud Hypervisor guest with two queue pairs (num_queues counts both directions) on one of Ringway's sockets:
#   ringway port add vhost-user:/run/ringway/vm1.sock,queues=2
#   ./cloud-hypervisor-guest.sh /run/ringway/vm1.sock kernel disk.raw
set -eu
socket=$1
kernel=$2
disk=$3
# shared=on: Ringway reads and writes the guest's memory.
exec cloud-hypervisor --cpus boot=2 --memory size=1G,shared=on \
    --kernel "$kernel" --disk path="$disk" --cmdline "console=hvc0 root=/dev/vda1 rw" \
    --net vhost_user=true,socket="$socket",num_queues=4,queue_size=1024,mac=52:54:00:00:00:01
