#!/bin/sh
# A QEMU guest with two queue pairs on one of Ringway's sockets:
#   ringway port add vhost-user:/run/ringway/vm1.sock,queues=2
#   ./qemu-guest.sh /run/ringway/vm1.sock disk.qcow2
set -eu
socket=$1
disk=$2
# Ringway reads and writes the guest's memory: a memfd that is shared. reconnect=1: the guest goes on after a restart
# of Ringway.
exec qemu-system-x86_64 -accel kvm -cpu host -smp 2 -m 1024 -nographic \
    -object memory-backend-memfd,id=memory,size=1024M,share=on -numa node,memdev=memory \
    -drive file="$disk",if=virtio \
    -chardev socket,id=ringway,path="$socket",reconnect=1 \
    -netdev vhost-user,id=net,chardev=ringway,queues=2 \
    -device virtio-net-pci,netdev=net,mac=52:54:00:00:00:01,mq=on,packed=on
