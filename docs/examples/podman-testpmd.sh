#!/bin/sh
# DPDK's testpmd in a container, as a virtio-user driver on one of Ringway's sockets. IMAGE has dpdk-testpmd on PATH.
#   ringway port add vhost-user:/run/ringway/pod1.sock
#   ./podman-testpmd.sh /run/ringway/pod1.sock IMAGE
set -eu
socket=$1
image=$2
# Its memory is files of hugetlbfs, which DPDK hands to Ringway; --single-file-segments keeps them few.
exec podman run --rm -it --network none \
    --volume "$socket:/ringway.sock" --volume /dev/hugepages:/dev/hugepages \
    --cap-add IPC_LOCK --group-add keep-groups "$image" \
    dpdk-testpmd --single-file-segments --no-pci -m 512 --file-prefix pod1 \
    --vdev net_virtio_user0,path=/ringway.sock,queues=1,queue_size=1024 -- -i
