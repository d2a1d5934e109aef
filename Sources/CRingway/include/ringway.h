/* Ringway for C: engines, ports, statistics, and packet functions. docs/c-api.md leads through it.
 *
 * Errors. Functions that return `int` return RINGWAY_OK (0), or more where the text says so, or a code below 0
 * (`ringway_code`). Nothing is changed then, unless the text says otherwise. `ringway_error_text` tells what a code
 * means, `ringway_last_error` what the last failed call of this thread had to say; functions that take a burst give
 * codes alone. Each pointer and number is checked: a handle that was freed, a burst whose call is over, a packet that
 * is none give a code. What cannot be checked is whether a pointer to memory of yours points at as much of it as is
 * said.
 *
 * Threads. Functions that take an engine or statistics may be called from any thread; calls for one engine wait for
 * each other. They may not be called from a callback (RINGWAY_ERROR_CALLER). Functions that take a burst may be called
 * only during the `process` or `tick` call that got it, on its thread. The rest may be called from anywhere.
 *
 * Callbacks must return: no exception and no longjmp may leave them. Those on a poll thread should not block or
 * allocate: packets wait meanwhile.
 *
 * A child process after fork() must not call anything here. */
#ifndef RINGWAY_H
#define RINGWAY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* This header's version; `ringway_version` tells the library's. */
#define RINGWAY_VERSION "0.1.0"

typedef enum ringway_code {
    RINGWAY_OK = 0,
    RINGWAY_ERROR_ARGUMENT = -1,   /* NULL where there must be something */
    RINGWAY_ERROR_HANDLE = -2,     /* no engine, or no statistics: never was, or freed */
    RINGWAY_ERROR_SIZE = -3,       /* a struct's `size` is none that this library knows */
    RINGWAY_ERROR_RANGE = -4,      /* a number that is too large: no such packet, port, counter, cause, entry */
    RINGWAY_ERROR_OPTIONS = -5,    /* ports or options that cannot be; the message says what to write */
    RINGWAY_ERROR_STATE = -6,      /* the engine runs already, or does not run */
    RINGWAY_ERROR_START = -7,      /* a port or thread could not be started; the message says why */
    RINGWAY_ERROR_CALLER = -8,     /* may not be called from here */
    RINGWAY_ERROR_IMPOSSIBLE = -9, /* the packet cannot be changed in this way: no room, or nothing there */
    RINGWAY_ERROR_FULL = -10,      /* this burst can have no more of them */
    RINGWAY_ERROR_INIT = -11       /* the function's `thread_init` refused */
} ringway_code;

/* What a code means, in English; never NULL, lives for ever. */
const char *ringway_error_text(int code);
/* What the last call of this thread that failed had to say; "" before. Lives until the thread's next such call. */
const char *ringway_last_error(void);
/* The library's version, as "0.1.0". */
const char *ringway_version(void);

/* An engine: ports, poll threads, and what is done with packets. */
typedef struct ringway_engine ringway_engine;
/* Packets of one call of `process`, or none but those that are made, in `tick`. */
typedef struct ringway_burst ringway_burst;
/* Counters at one moment. */
typedef struct ringway_stats ringway_stats;

/* ---- Where a packet goes: a verdict ---- */

#define RINGWAY_DROP 0u
/* To every port but the one it came from. */
#define RINGWAY_FLOOD 0xffffffffu
/* The function has used the packet up, such as an answer that it had asked for: consumed, which is no drop. */
#define RINGWAY_CONSUMED 0xfffffffcu
/* From `process` alone: each packet has a verdict of its own (RINGWAY_DROP where none was given). */
#define RINGWAY_EACH 0xfffffffeu
/* To a port, by its place among those of `ringway_engine_new`. */
static inline uint32_t ringway_to_port(uint32_t port) { return port < 0x3fffffffu ? port + 1u : RINGWAY_DROP; }
/* To a port by one of its pairs, modulo those that it uses, instead of the pair of the number that it came by: with a
 * hash of the flow for `pair` each flow leaves by one pair. */
static inline uint32_t ringway_to_pair(uint32_t port, uint32_t pair) {
    return port < 0xfffffu ? 0x40000000u | (pair & 0x3ffu) << 20 | (port + 1u) : RINGWAY_DROP;
}
/* Drops, for a cause by its place in the function's `drop_causes`. */
static inline uint32_t ringway_drop_for(uint32_t cause) { return 0x80000000u | (cause & 0x3fffffffu); }
/* A cause of drops by name: a type of its own, which is taken for no port and no counter. */
typedef struct ringway_cause {
    uint32_t verdict;
} ringway_cause;
/* Registers a cause by its name, for all functions of engines that are made from then on, and stores it in `*cause`.
 * The same name gives the same cause again. At most 64, together with a function's `drop_causes`. Not from a
 * callback. */
int ringway_cause_register(const char *name, ringway_cause *cause);
/* Drops, for a cause that was registered before the engine was made. */
static inline uint32_t ringway_drop_because(ringway_cause cause) { return cause.verdict; }
/* To several ports: see `ringway_burst_set`. */

/* ---- Packet functions ---- */

/* A packet may be judged again later when its destination had no buffers for it. Without it, it is dropped then. */
#define RINGWAY_JUDGES_AGAIN 1u

/* What is done with packets. Begin with RINGWAY_FUNCTION_INIT. The struct and what it points at are copied; `user` is
 * only handed on. */
typedef struct ringway_function {
    size_t size; /* sizeof(ringway_function) */
    /* Bytes of each packet's front that are read from its sender before `process`, 0 to 256. What is read is what
     * receivers get: the sender cannot change it any more. */
    uint32_t front_bytes;
    /* Microseconds between two calls of `tick`, about; 0: none. */
    uint32_t tick_microseconds;
    uint32_t flags; /* RINGWAY_JUDGES_AGAIN or 0 */
    /* Names of the function's own causes of drops and of its counters, at most 64 of each. */
    uint32_t drop_cause_count;
    const char *const *drop_causes;
    const char *const *counters;
    uint32_t counter_count;
    uint32_t reserved; /* 0 */
    void *user;
    /* Makes the state of a poll thread (0, 1, ...) and stores it in `*state` (NULL before). Called by
     * `ringway_engine_start`, on its thread. Not 0: the engine does not start. May be NULL: the state is `user`. */
    int (*thread_init)(void *user, uint32_t thread, void **state);
    /* Takes the state back, on the thread that calls stop or free, or start when that fails. May be NULL. */
    void (*thread_free)(void *user, uint32_t thread, void *state);
    /* Judges a burst: returns one verdict for all its packets, or RINGWAY_EACH. What is no verdict drops. On the poll
     * thread, one indirect call a burst. Must not be NULL. */
    uint32_t (*process)(void *state, ringway_burst *burst);
    /* Keeps house; `burst` has no packets, but takes ones that are made. On the poll thread. May be NULL. */
    void (*tick)(void *state, ringway_burst *burst);
    /* A port got its first queue pair that takes packets, or lost its last. On the poll thread. May be NULL. */
    void (*port_changed)(void *state, uint32_t port, int is_up);
} ringway_function;

#define RINGWAY_FUNCTION_INIT { .size = sizeof(ringway_function), .front_bytes = 128 }

/* ---- Engines ---- */

/* Levels of `log`. */
typedef enum ringway_level {
    RINGWAY_TRACE, RINGWAY_DEBUG, RINGWAY_INFO, RINGWAY_NOTICE, RINGWAY_WARNING, RINGWAY_ERROR, RINGWAY_CRITICAL
} ringway_level;

/* Begin with RINGWAY_OPTIONS_INIT. What is 0 or NULL takes the default. All is copied. */
typedef struct ringway_options {
    size_t size; /* sizeof(ringway_options) */
    /* What is done with packets: either "switch", "crossconnect", "macswap", "drop" or "generate=BYTES", or a function
     * of yours. Exactly one of the two. */
    const char *mode;
    const ringway_function *function;
    /* CPUs of the poll threads, one thread each, as "0,2-4". NULL: threads that are not pinned. */
    const char *cpus;
    /* Poll threads that are not pinned, 1 to 64; 0: one. Not together with `cpus`. */
    uint32_t unpinned_threads;
    /* Seconds after which the switch forgets a MAC address; 0: 300. */
    uint32_t mac_ageing;
    /* How long idle queues are polled: "poll", "auto" (NULL), "0", or microseconds as "50us". */
    const char *busyloop;
    /* "auto" (NULL), "throughput" or "latency". */
    const char *pacing;
    /* What the engine has to tell, from `log_level` (a ringway_level) on; `message` lives during the call. Called on
     * threads of the library's and on yours, on several at once. NULL: nothing is told. */
    void (*log)(void *log_user, int level, const char *message);
    void *log_user;
    uint32_t log_level;
    uint32_t reserved; /* 0 */
} ringway_options;

#define RINGWAY_OPTIONS_INIT { .size = sizeof(ringway_options), .log_level = RINGWAY_INFO }

/* Makes an engine of `port_count` ports, each written as for the program's --port ("vhost-user:/run/vm1.sock,queues=2",
 * "tap:tap0", "null:sink"), and stores it in `*engine` (NULL where that fails). Opens nothing yet. It is yours: free
 * it. */
int ringway_engine_new(const char *const *ports, size_t port_count, const ringway_options *options,
                       ringway_engine **engine);
/* Opens the ports and starts the threads; returns when every socket listens. */
int ringway_engine_start(ringway_engine *engine);
/* Ends the threads, closes connections, removes sockets. RINGWAY_OK also where it does not run. It can be started
 * again; counters begin at 0 then. */
int ringway_engine_stop(ringway_engine *engine);
/* Stops it, too. NULL: does nothing. */
int ringway_engine_free(ringway_engine *engine);
/* Calls `call` once for each poll thread's state, on that thread, between two bursts, and returns when all have
 * returned: what it has replaced no thread reads any more. For engines with a function that run. */
int ringway_engine_call(ringway_engine *engine, void (*call)(void *state, uint32_t thread, void *argument),
                        void *argument);

/* ---- Statistics ---- */

/* Packets and bytes (of frames, without net headers and CRC) of a port since the start. Over all ports, at rest:
 * rx_packets + made = tx_packets + drops + flooded + consumed. */
typedef struct ringway_port_stats {
    size_t size; /* sizeof(ringway_port_stats); the caller sets it */
    const char *name; /* lives as long as the statistics */
    uint64_t rx_packets, rx_bytes; /* received from the port's driver */
    uint64_t tx_packets, tx_bytes; /* delivered to it */
    uint64_t drops;   /* all causes */
    uint64_t flooded; /* received and sent to several ports: each copy is one that was made */
    uint64_t made;    /* made for the port's driver */
    uint32_t is_connected;
    uint32_t drop_causes; /* causes with a count: see ringway_stats_drop */
    uint64_t consumed; /* received, and used up by the function (RINGWAY_CONSUMED) */
} ringway_port_stats;

/* Takes the counters of this moment; after a stop those of the moment before. `*stats` is yours: free it. Before the
 * first start there are no ports in it. */
int ringway_engine_stats(ringway_engine *engine, ringway_stats **stats);
/* NULL: does nothing. */
int ringway_stats_free(ringway_stats *stats);
/* How many ports there are, or a code. */
int ringway_stats_ports(const ringway_stats *stats);
int ringway_stats_port(const ringway_stats *stats, uint32_t port, ringway_port_stats *out);
/* The name of a port's `entry`th cause of drops (0, 1, ...) that has a count, and its count. */
int ringway_stats_drop(const ringway_stats *stats, uint32_t port, uint32_t entry, const char **cause,
                       uint64_t *packets);
/* The name of the function's `counter`th counter, and its sum over all threads. */
int ringway_stats_counter(const ringway_stats *stats, uint32_t counter, const char **name, uint64_t *count);

/* ---- What a switch has learned ---- */

typedef enum ringway_address_kind {
    RINGWAY_LEARNED = 0, /* from packets; forgotten when nothing is heard of it any more */
    RINGWAY_STICKY = 1,  /* the same, of a port whose addresses stay */
    RINGWAY_STATIC = 2   /* from the port's options */
} ringway_address_kind;

#define RINGWAY_ANY_PORT UINT32_MAX
#define RINGWAY_ANY_VLAN 0xffff

typedef struct ringway_address {
    uint8_t mac[6];
    uint16_t vlan; /* 0: frames without a tag of a switch without VLANs; RINGWAY_ANY_VLAN: any of its port's */
    uint32_t port; /* its place among the engine's ports */
    uint32_t kind; /* a ringway_address_kind */
    uint32_t age;  /* seconds since it was last heard of */
} ringway_address;

/* Stores up to `room` of the addresses that the engine's switch knows in `out`, by port, VLAN and address, and returns
 * how many it knows, or a code. None in other modes, and where the engine does not run. Packets go on meanwhile. `out`
 * may be NULL where `room` is 0. */
int ringway_engine_addresses(ringway_engine *engine, ringway_address *out, size_t room);
/* Forgets what was learned, of sticky ports, too, on one port (RINGWAY_ANY_PORT: on all) and in one VLAN
 * (RINGWAY_ANY_VLAN: in all); static addresses stay. Returns how many there were, or a code. */
int ringway_engine_clear_addresses(ringway_engine *engine, uint32_t port, uint16_t vlan);

/* ---- During process and tick ---- */

typedef struct ringway_burst_info {
    size_t size; /* sizeof(ringway_burst_info); the caller sets it */
    uint32_t count;   /* packets, at most RINGWAY_BURST; they are numbered 0, 1, ... */
    uint32_t port;    /* where they came from; UINT32_MAX in `tick` */
    uint32_t pair;    /* queue pair that they came from */
    uint32_t ports;   /* of the engine */
    uint32_t seconds; /* of a clock that only goes forward */
    uint32_t reserved;
    uint64_t ticks;   /* the time-stamp counter at the start of the round */
    uint64_t refused; /* packets this thread's function made so far for which receivers had no buffers */
} ringway_burst_info;

/* What is known of a port at this moment. */
typedef struct ringway_port_info {
    size_t size; /* sizeof(ringway_port_info); the caller sets it */
    uint32_t is_up;   /* it has a queue pair that takes packets */
    uint32_t mtu;     /* that its driver was offered, in bytes; 0: none */
    uint64_t offloads; /* virtio's GUEST_* feature bits that its driver takes */
    uint8_t mac[6];   /* that its driver was offered; zeros: none */
    uint8_t reserved[2];
} ringway_port_info;

/* Packets of a burst at most; as many can be made during one. */
#define RINGWAY_BURST 64

/* A packet's first bytes, to be read and changed in place, and how long it is. Valid until the packet is changed by
 * one of the functions below, and until the call is over. */
typedef struct ringway_view {
    uint8_t *front;
    uint32_t front_length; /* bytes at `front`: nothing else there may be touched */
    uint32_t frame_length; /* bytes of the frame, without CRC */
} ringway_view;

int ringway_burst_info_get(const ringway_burst *burst, ringway_burst_info *info);
/* Views of all packets, for which there must be `room` (RINGWAY_BURST suffices). Returns how many packets there are. */
int ringway_burst_views(ringway_burst *burst, ringway_view *views, size_t room);
/* Verdicts of the first `count` packets. */
int ringway_burst_decide(ringway_burst *burst, const uint32_t *verdicts, size_t count);
/* The verdict that sends to several ports (of the first 256), but not to where the packet came from. A burst can have
 * 128 different sets. */
int ringway_burst_set(ringway_burst *burst, const uint32_t *ports, size_t count, uint32_t *verdict);
/* Adds to a counter by its place in the function's `counters`. */
int ringway_burst_add(ringway_burst *burst, uint32_t counter, uint64_t n);
/* 1: the port has a queue pair that takes packets; 0: it has none. */
int ringway_burst_is_up(const ringway_burst *burst, uint32_t port);
int ringway_burst_port_info(const ringway_burst *burst, uint32_t port, ringway_port_info *info);

/* In the following, `packet` is a packet's number in the burst, or one that `ringway_packet_copy` or
 * `ringway_packet_originate` gave. */
int ringway_packet_look(ringway_burst *burst, uint32_t packet, ringway_view *view);
int ringway_packet_decide(ringway_burst *burst, uint32_t packet, uint32_t verdict);
/* Reads more of the front, up to `n` bytes in all (256 at most). RINGWAY_ERROR_IMPOSSIBLE where the frame, or the
 * room, is shorter: the front is then as long as it can be. */
int ringway_packet_extend(ringway_burst *burst, uint32_t packet, uint32_t n);
/* Puts `n` bytes before the frame: those at `bytes`, or zeros where it is NULL. 128 can be put on, and as many again as
 * were taken off. */
int ringway_packet_prepend(ringway_burst *burst, uint32_t packet, const void *bytes, uint32_t n);
/* Takes the first `n` bytes off, at most those of the front. */
int ringway_packet_remove_first(ringway_burst *burst, uint32_t packet, uint32_t n);
/* Appends `n` bytes of zero (1 to 64), once a packet; `*tail` is where they lie. */
int ringway_packet_append(ringway_burst *burst, uint32_t packet, uint32_t n, uint8_t **tail);
/* Cuts the end off: `n` bytes stay. */
int ringway_packet_truncate(ringway_burst *burst, uint32_t packet, uint32_t n);
/* Puts a VLAN tag of `type` (0x8100, 0x88a8) behind the addresses. */
int ringway_packet_push_vlan(ringway_burst *burst, uint32_t packet, uint16_t tag, uint16_t type);
/* Takes the outermost tag off and stores it; `tag` may be NULL. */
int ringway_packet_pop_vlan(ringway_burst *burst, uint32_t packet, uint16_t *tag);
/* Whether the transport checksum is still to be filled in (1 or 0), and how many bytes of payload each segment has that
 * the packet is to be cut into (0: it is one). Either pointer may be NULL. */
int ringway_packet_offload(const ringway_burst *burst, uint32_t packet, uint32_t *partial_checksum,
                           uint32_t *segment_size);
/* The same packet (one that came, not a made one) once more, with a front and a verdict of its own, RINGWAY_DROP at
 * first. Its number goes to `*made`. RINGWAY_ERROR_FULL when 64 were made, or its pieces have no room. */
int ringway_packet_copy(ringway_burst *burst, uint32_t packet, uint32_t *made);
/* A packet of the function's own, `length` bytes (14 to 1728) of zero, all of them front; its verdict is RINGWAY_DROP
 * at first. */
int ringway_packet_originate(ringway_burst *burst, uint32_t length, uint32_t *made);

#ifdef __cplusplus
}
#endif

#endif
