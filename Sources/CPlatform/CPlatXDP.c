#define _GNU_SOURCE
#include "include/CPlatXDP.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <linux/bpf.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>

#ifndef BPF_F_XDP_HAS_FRAGS
#define BPF_F_XDP_HAS_FRAGS (1U << 5)
#endif

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), "not as in the kernel's headers")
SAME(CPlat_SIOCETHTOOL, SIOCETHTOOL);
SAME(CPlat_BPF_MAP_CREATE, BPF_MAP_CREATE);
SAME(CPlat_BPF_MAP_UPDATE_ELEM, BPF_MAP_UPDATE_ELEM);
SAME(CPlat_BPF_PROG_LOAD, BPF_PROG_LOAD);
SAME(CPlat_BPF_LINK_CREATE, BPF_LINK_CREATE);

static int bpf(enum bpf_cmd command, union bpf_attr *attributes) {
    return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

int CPlat_xdp_map(uint32_t queues) {
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.map_type = BPF_MAP_TYPE_XSKMAP;
    a.key_size = a.value_size = sizeof(uint32_t);
    a.max_entries = queues;
    strcpy(a.map_name, "ringway");
    return bpf(BPF_MAP_CREATE, &a);
}

int CPlat_xdp_map_set(int map, uint32_t queue, int socket) {
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.map_fd = (uint32_t)map;
    a.key = (uintptr_t)&queue;
    a.value = (uintptr_t)&socket;
    return bpf(BPF_MAP_UPDATE_ELEM, &a) == 0 ? 0 : errno;
}

int CPlat_xdp_program(int map, bool fragments) {
    /* return bpf_redirect_map(&map, context->rx_queue_index, XDP_PASS); */
    const struct bpf_insn code[] = {
        {BPF_LDX | BPF_MEM | BPF_W, BPF_REG_2, BPF_REG_1, offsetof(struct xdp_md, rx_queue_index), 0},
        {BPF_LD | BPF_IMM | BPF_DW, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, map},
        {0, 0, 0, 0, 0},
        {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, 0, XDP_PASS},
        {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_redirect_map},
        {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
    };
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.prog_type = BPF_PROG_TYPE_XDP;
    a.expected_attach_type = BPF_XDP;
    a.insns = (uintptr_t)code;
    a.insn_cnt = sizeof code / sizeof code[0];
    a.license = (uintptr_t)"Dual MIT/GPL";
    a.prog_flags = fragments ? BPF_F_XDP_HAS_FRAGS : 0;
    strcpy(a.prog_name, "ringway");
    return bpf(BPF_PROG_LOAD, &a);
}

int CPlat_xdp_attach(int program, int interface, bool in_driver) {
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.link_create.prog_fd = (uint32_t)program;
    a.link_create.target_ifindex = (uint32_t)interface;
    a.link_create.attach_type = BPF_XDP;
    a.link_create.flags = in_driver ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE;
    return bpf(BPF_LINK_CREATE, &a);
}

/* Closes fd and returns -1 with the errno of what failed before. */
static int failed(int fd) {
    int code = errno;
    close(fd);
    errno = code;
    return -1;
}

int CPlat_link_watcher(void) {
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) return -1;
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    return bind(fd, (struct sockaddr *)&address, sizeof address) == 0 ? fd : failed(fd);
}

void CPlat_link_watcher_drain(int watcher) {
    char message[8192];
    /* What it had no room for (ENOBUFS) was a change, too. */
    while (recv(watcher, message, sizeof message, MSG_DONTWAIT) >= 0 || errno == ENOBUFS || errno == EINTR) {}
}

int CPlat_promiscuous(int interface) {
    /* Of protocol 0: it receives nothing. */
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    struct packet_mreq wish = {.mr_ifindex = interface, .mr_type = PACKET_MR_PROMISC};
    return setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &wish, sizeof wish) == 0 ? fd : failed(fd);
}

static int ask(int fd, unsigned long request, struct ifreq *r) { return ioctl(fd, request, r) == 0 ? 0 : errno; }

static int read_link(int fd, struct ifreq *r, struct CPlat_link *link) {
    int code;
    if ((code = ask(fd, SIOCGIFINDEX, r)) != 0) return code;
    link->index = r->ifr_ifindex;
    if ((code = ask(fd, SIOCGIFFLAGS, r)) != 0) return code;
    link->is_up = r->ifr_flags & IFF_UP;
    link->has_carrier = link->is_up && (r->ifr_flags & IFF_RUNNING);
    if ((code = ask(fd, SIOCGIFMTU, r)) != 0) return code;
    link->mtu = r->ifr_mtu;
    if ((code = ask(fd, SIOCGIFHWADDR, r)) != 0) return code;
    link->is_ethernet = r->ifr_hwaddr.sa_family == ARPHRD_ETHER;
    memcpy(link->address, r->ifr_hwaddr.sa_data, sizeof link->address);
    struct ethtool_value flags = {.cmd = ETHTOOL_GFLAGS};
    r->ifr_data = (char *)&flags;
    if (ask(fd, SIOCETHTOOL, r) == 0) link->strips_tags = flags.data & ETH_FLAG_RXVLAN;
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
    r->ifr_data = (char *)&channels;
    if (ask(fd, SIOCETHTOOL, r) == 0) link->queues = (int)(channels.combined_count + channels.rx_count);
    return 0;
}

int CPlat_link_read(const char *name, struct CPlat_link *link) {
    struct ifreq r;
    memset(&r, 0, sizeof r);
    memset(link, 0, sizeof *link);
    if (strlen(name) >= sizeof r.ifr_name) return ENODEV;
    strcpy(r.ifr_name, name);
    /* Of any family: the requests are not the socket's own. */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return errno;
    int code = read_link(fd, &r, link);
    close(fd);
    return code;
}
