/* AF_XDP: the calls of bpf(2), and what the kernel says of a network interface, that Swift cannot import. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <linux/if_xdp.h>

/* struct xdp_umem_reg of Linux 6.8: the headers of Debian 12 lack the last word. Older kernels ignore it. */
struct CPlat_umem_reg {
    uint64_t address, bytes;
    uint32_t chunk, headroom, flags, metadata;
};
/* Newer than those headers, too. Flags of bind (Linux 6.6), of a UMEM (6.8), of a descriptor (6.6, 6.8), and of
   struct xsk_tx_metadata. */
enum {
    CPlat_XDP_USE_SG = 1 << 4,
    CPlat_XDP_UMEM_TX_METADATA_LEN = 1 << 2,
    CPlat_XDP_PKT_CONTD = 1 << 0,
    CPlat_XDP_TX_METADATA = 1 << 1,
    CPlat_XDP_TXMD_FLAGS_CHECKSUM = 1 << 1,
};

/* What is asked of the kernel here, for who confines the process: a request of ioctl(2), commands of bpf(2). */
enum {
    CPlat_SIOCETHTOOL = 0x8946,
    CPlat_BPF_MAP_CREATE = 0,
    CPlat_BPF_MAP_UPDATE_ELEM = 2,
    CPlat_BPF_PROG_LOAD = 5,
    CPlat_BPF_LINK_CREATE = 28,
};

/* A map from queues to AF_XDP sockets: its descriptor, or -1 and errno. */
int CPlat_xdp_map(uint32_t queues);
/* 0, or an errno value. */
int CPlat_xdp_map_set(int map, uint32_t queue, int socket);
/* A program that hands each frame to the socket of its queue, and to the kernel's stack where there is none.
   `fragments`: frames may lie in several pieces. Its descriptor, or -1 and errno. */
int CPlat_xdp_program(int map, bool fragments);
/* Attaches it in the driver, or before the kernel's stack. A link, which ends with its last descriptor, whatever ends
   the process; or -1 and errno. */
int CPlat_xdp_attach(int program, int interface, bool in_driver);

/* A netlink socket that is readable after each change of an interface; -1 and errno. */
int CPlat_link_watcher(void);
/* Reads what it has, without waiting. */
void CPlat_link_watcher_drain(int watcher);
/* A socket as long as which the interface takes frames for any address; -1 and errno. */
int CPlat_promiscuous(int interface);

struct CPlat_link {
    int index;
    /* IFF_UP; and the other end of the cable is there. */
    bool is_up, has_carrier;
    bool is_ethernet;
    /* VLAN tags are taken off frames before XDP sees them (ethtool -k: rx-vlan-offload). */
    bool strips_tags;
    int mtu;
    /* Receive queues; 0: the driver does not say. */
    int queues;
    uint8_t address[6];
};
/* What the kernel says of the interface; 0, or an errno value. */
int CPlat_link_read(const char *name, struct CPlat_link *link);
