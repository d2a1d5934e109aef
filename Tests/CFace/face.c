/* The whole C face, as a C program sees it: every function with arguments that cannot be, and every change of a packet,
 * looked at by a second engine in this process behind vhost-user rings. Prints what is not as it should be. */
#include <ringway.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_int failures;
#define CHECK(what)                                                                                                   \
    do {                                                                                                              \
        if (!(what) && atomic_fetch_add(&failures, 1) < 20)                                                           \
            fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #what, ringway_last_error());          \
    } while (0)

static ringway_burst *const wrong_burst = (ringway_burst *)0x10;
static ringway_engine *const wrong_engine = (ringway_engine *)0x20;

static uint32_t drop(void *state, ringway_burst *burst) {
    (void)state;
    (void)burst;
    return RINGWAY_DROP;
}

static ringway_function function(uint32_t (*process)(void *, ringway_burst *)) {
    ringway_function f = RINGWAY_FUNCTION_INIT;
    f.process = process;
    return f;
}

/* ---- Outside of callbacks ---- */

static void bad_bursts(ringway_burst *b, int expected) {
    ringway_burst_info info = {.size = sizeof info};
    ringway_view views[RINGWAY_BURST];
    uint32_t word = 0, other = 0;
    uint8_t *tail = NULL;
    uint16_t tag = 0;
    CHECK(ringway_burst_info_get(b, &info) == expected);
    CHECK(ringway_burst_views(b, views, RINGWAY_BURST) == expected);
    CHECK(ringway_burst_decide(b, &word, 1) == expected);
    CHECK(ringway_burst_set(b, &word, 1, &other) == expected);
    CHECK(ringway_burst_add(b, 0, 1) == expected);
    CHECK(ringway_burst_is_up(b, 0) == expected);
    ringway_port_info port = {.size = sizeof port};
    CHECK(ringway_burst_port_info(b, 0, &port) == expected);
    CHECK(ringway_packet_look(b, 0, views) == expected);
    CHECK(ringway_packet_decide(b, 0, RINGWAY_DROP) == expected);
    CHECK(ringway_packet_extend(b, 0, 200) == expected);
    CHECK(ringway_packet_prepend(b, 0, NULL, 4) == expected);
    CHECK(ringway_packet_remove_first(b, 0, 4) == expected);
    CHECK(ringway_packet_append(b, 0, 4, &tail) == expected);
    CHECK(ringway_packet_truncate(b, 0, 4) == expected);
    CHECK(ringway_packet_push_vlan(b, 0, 1, 0x8100) == expected);
    CHECK(ringway_packet_pop_vlan(b, 0, &tag) == expected);
    CHECK(ringway_packet_offload(b, 0, &word, &other) == expected);
    CHECK(ringway_packet_copy(b, 0, &word) == expected);
    CHECK(ringway_packet_originate(b, 60, &word) == expected);
}

static int new_with(const char *port, const ringway_options *o) {
    const char *ports[] = {port, "null:b"};
    ringway_engine *e = wrong_engine;
    int code = ringway_engine_new(ports, 2, o, &e);
    CHECK((code == RINGWAY_OK) == (e != NULL));
    if (code < 0) CHECK(ringway_last_error()[0] != 0);
    CHECK(ringway_engine_free(e) == RINGWAY_OK);
    return code;
}

static void bad_options(void) {
    const char *ports[] = {"null:a", NULL};
    ringway_engine *e;
    ringway_options o = RINGWAY_OPTIONS_INIT;
    o.mode = "drop";
    CHECK(new_with("null:a", &o) == RINGWAY_OK);
    CHECK(ringway_engine_new(NULL, 1, &o, &e) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_engine_new(ports, 0, &o, &e) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_engine_new(ports, SIZE_MAX, &o, &e) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_engine_new(ports, 2, &o, &e) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_engine_new(ports, 1, NULL, &e) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_engine_new(ports, 1, &o, NULL) == RINGWAY_ERROR_ARGUMENT);
    CHECK(new_with("nonsense", &o) == RINGWAY_ERROR_OPTIONS);
    CHECK(new_with("null:b", &o) == RINGWAY_ERROR_OPTIONS);
    CHECK(new_with("\xff\xfe:\xff,queues=\xff", &o) == RINGWAY_ERROR_OPTIONS);
#define WITH(field, value, expected)                                                                                  \
    do {                                                                                                              \
        ringway_options changed = o;                                                                                  \
        changed.field = value;                                                                                        \
        CHECK(new_with("null:a", &changed) == expected);                                                              \
    } while (0)
    WITH(size, 0, RINGWAY_ERROR_SIZE);
    WITH(size, 8, RINGWAY_ERROR_SIZE);
    WITH(size, SIZE_MAX, RINGWAY_ERROR_SIZE);
    WITH(mode, NULL, RINGWAY_ERROR_OPTIONS);
    WITH(mode, "sieve", RINGWAY_ERROR_OPTIONS);
    WITH(mode, "generate=1", RINGWAY_ERROR_OPTIONS);
    WITH(mode, "generate=99999999999999999999999", RINGWAY_ERROR_OPTIONS);
    WITH(cpus, "", RINGWAY_ERROR_OPTIONS);
    WITH(cpus, "4000", RINGWAY_ERROR_OPTIONS);
    WITH(cpus, "0,0", RINGWAY_ERROR_OPTIONS);
    WITH(unpinned_threads, UINT32_MAX, RINGWAY_ERROR_OPTIONS);
    WITH(mac_ageing, UINT32_MAX, RINGWAY_OK);
    WITH(busyloop, "often", RINGWAY_ERROR_OPTIONS);
    WITH(pacing, "slow", RINGWAY_ERROR_OPTIONS);
    WITH(reserved, 1, RINGWAY_ERROR_OPTIONS);
    /* A later header's struct: fine as long as it asks for nothing that is new. */
    struct {
        ringway_options known;
        uint64_t later;
    } larger = {o, 0};
    larger.known.size = sizeof larger;
    CHECK(new_with("null:a", &larger.known) == RINGWAY_OK);
    larger.later = 1;
    CHECK(new_with("null:a", &larger.known) == RINGWAY_ERROR_SIZE);

    ringway_function f = function(drop);
    WITH(function, &f, RINGWAY_ERROR_OPTIONS); /* and a mode */
    o.mode = NULL;
    o.function = &f;
    CHECK(new_with("null:a", &o) == RINGWAY_OK);
    const char *names[65] = {NULL};
#define WITH_FUNCTION(field, value, expected)                                                                         \
    do {                                                                                                              \
        ringway_function changed = function(drop);                                                                    \
        changed.counters = changed.drop_causes = names;                                                               \
        changed.field = value;                                                                                        \
        o.function = &changed;                                                                                        \
        CHECK(new_with("null:a", &o) == expected);                                                                    \
    } while (0)
    WITH_FUNCTION(size, 1, RINGWAY_ERROR_SIZE);
    WITH_FUNCTION(process, NULL, RINGWAY_ERROR_ARGUMENT);
    WITH_FUNCTION(front_bytes, 257, RINGWAY_ERROR_OPTIONS);
    WITH_FUNCTION(front_bytes, UINT32_MAX, RINGWAY_ERROR_OPTIONS);
    WITH_FUNCTION(flags, 2, RINGWAY_ERROR_OPTIONS);
    WITH_FUNCTION(reserved, 2, RINGWAY_ERROR_OPTIONS);
    WITH_FUNCTION(counter_count, 1, RINGWAY_ERROR_ARGUMENT);
    WITH_FUNCTION(counter_count, 65, RINGWAY_ERROR_RANGE);
    WITH_FUNCTION(drop_cause_count, 1, RINGWAY_ERROR_ARGUMENT);
    WITH_FUNCTION(drop_cause_count, UINT32_MAX, RINGWAY_ERROR_RANGE);
    WITH_FUNCTION(tick_microseconds, UINT32_MAX, RINGWAY_OK);
    ringway_function nameless = function(drop);
    nameless.counter_count = 1;
    o.function = &nameless;
    CHECK(new_with("null:a", &o) == RINGWAY_ERROR_ARGUMENT);
}

static int refuse(void *user, uint32_t thread, void **state) {
    (void)state;
    return thread == 1 ? 7 : (++*(int *)user, 0);
}
static void give_back(void *user, uint32_t thread, void *state) {
    CHECK(state == NULL && thread == 0);
    --*(int *)user;
}
static void never(void *state, uint32_t thread, void *argument) {
    (void)state;
    (void)thread;
    (void)argument;
    CHECK(!"called");
}

static void bad_handles(void) {
    ringway_stats *s;
    ringway_engine *wrong[] = {NULL, wrong_engine};
    int codes[] = {RINGWAY_ERROR_ARGUMENT, RINGWAY_ERROR_HANDLE};
    for (int i = 0; i < 2; i++) {
        CHECK(ringway_engine_start(wrong[i]) == codes[i]);
        CHECK(ringway_engine_stop(wrong[i]) == codes[i]);
        CHECK(ringway_engine_free(wrong[i]) == (i ? RINGWAY_ERROR_HANDLE : RINGWAY_OK));
        CHECK(ringway_engine_call(wrong[i], never, NULL) == codes[i]);
        CHECK(ringway_engine_stats(wrong[i], &s) == codes[i] && s == NULL);
        CHECK(ringway_engine_addresses(wrong[i], NULL, 0) == codes[i]);
        CHECK(ringway_engine_clear_addresses(wrong[i], RINGWAY_ANY_PORT, RINGWAY_ANY_VLAN) == codes[i]);
    }
    const char *ports[] = {"null:a", "null:b"};
    ringway_options o = RINGWAY_OPTIONS_INIT;
    o.mode = "crossconnect";
    ringway_engine *e;
    CHECK(ringway_engine_new(ports, 2, &o, &e) == RINGWAY_OK);
    CHECK(ringway_engine_stop(e) == RINGWAY_OK);
    CHECK(ringway_engine_stats(e, NULL) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_engine_stats(e, &s) == RINGWAY_OK && ringway_stats_ports(s) == 0);
    CHECK(ringway_stats_free(s) == RINGWAY_OK);
    CHECK(ringway_engine_call(e, NULL, NULL) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_engine_call(e, never, NULL) == RINGWAY_ERROR_STATE);
    CHECK(ringway_engine_start(e) == RINGWAY_OK);
    CHECK(ringway_engine_start(e) == RINGWAY_ERROR_STATE);
    CHECK(ringway_engine_call(e, never, NULL) == RINGWAY_ERROR_STATE);
    CHECK(ringway_engine_stats(e, &s) == RINGWAY_OK && ringway_stats_ports(s) == 2);
    CHECK(ringway_engine_stop(e) == RINGWAY_OK && ringway_engine_stop(e) == RINGWAY_OK);
    CHECK(ringway_engine_start(e) == RINGWAY_OK && ringway_engine_free(e) == RINGWAY_OK);
    CHECK(ringway_engine_free(e) == RINGWAY_ERROR_HANDLE && ringway_engine_start(e) == RINGWAY_ERROR_HANDLE);

    ringway_port_stats p = {.size = sizeof p};
    const char *name;
    uint64_t count;
    CHECK(ringway_stats_port(s, 0, &p) == RINGWAY_OK && strcmp(p.name, "null:a") == 0);
    CHECK(ringway_stats_port(s, 2, &p) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_stats_port(s, UINT32_MAX, &p) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_stats_port(s, 0, NULL) == RINGWAY_ERROR_ARGUMENT);
    p.size = 0;
    CHECK(ringway_stats_port(s, 0, &p) == RINGWAY_ERROR_SIZE);
    CHECK(ringway_stats_port(NULL, 0, &p) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_stats_port((ringway_stats *)e, 0, &p) == RINGWAY_ERROR_HANDLE);
    CHECK(ringway_stats_drop(s, 0, 0, &name, &count) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_stats_drop(s, 2, 0, &name, &count) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_stats_drop(s, 0, 0, NULL, &count) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_stats_drop(NULL, 0, 0, &name, &count) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_stats_counter(s, 0, &name, &count) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_stats_counter(s, 0, &name, NULL) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_stats_counter(NULL, 0, &name, &count) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_stats_ports(NULL) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_engine_start((ringway_engine *)s) == RINGWAY_ERROR_HANDLE);
    CHECK(ringway_stats_free(s) == RINGWAY_OK && ringway_stats_free(s) == RINGWAY_ERROR_HANDLE);
    CHECK(ringway_stats_free(NULL) == RINGWAY_OK);

    /* What does not start gives back what it had. */
    int states = 0;
    ringway_function f = function(drop);
    f.thread_init = refuse;
    f.thread_free = give_back;
    f.user = &states;
    o.mode = NULL;
    o.function = &f;
    o.unpinned_threads = 2;
    CHECK(ringway_engine_new(ports, 2, &o, &e) == RINGWAY_OK);
    CHECK(ringway_engine_start(e) == RINGWAY_ERROR_INIT && states == 0);
    CHECK(ringway_engine_free(e) == RINGWAY_OK);
    ports[1] = "vhost-user:/nowhere/at/all.sock";
    o.unpinned_threads = 1;
    CHECK(ringway_engine_new(ports, 2, &o, &e) == RINGWAY_OK);
    CHECK(ringway_engine_start(e) == RINGWAY_ERROR_START && states == 0);
    CHECK(strstr(ringway_last_error(), "nowhere") != NULL);
    CHECK(ringway_engine_free(e) == RINGWAY_OK);
    for (int code = -100; code < 10; code++) CHECK(strlen(ringway_error_text(code)) > 5);
    CHECK(strcmp(ringway_version(), RINGWAY_VERSION) == 0);
}

/* ---- What a switch knows ---- */

static void addresses(void) {
    const char *ports[] = {"null:source,emit=60", "null:sink,static=02:00:00:00:00:07", "null:other"};
    ringway_options o = RINGWAY_OPTIONS_INIT;
    o.mode = "switch";
    ringway_engine *e;
    ringway_address all[4];
    CHECK(ringway_engine_new(ports, 3, &o, &e) == RINGWAY_OK);
    CHECK(ringway_engine_addresses(e, all, 4) == 0);
    CHECK(ringway_engine_start(e) == RINGWAY_OK);
    /* The source's frames have one sender. */
    for (int i = 0; i < 5000 && ringway_engine_addresses(e, NULL, 0) < 2; i++) usleep(1000);
    memset(all, 0xee, sizeof all);
    CHECK(ringway_engine_addresses(e, all, 1) == 2);
    CHECK(all[0].port == 0 && all[0].kind == RINGWAY_LEARNED && all[0].mac[0] == 2 && all[0].mac[5] == 1);
    CHECK(all[1].port == 0xeeeeeeee);
    CHECK(ringway_engine_addresses(e, all, SIZE_MAX) == 2);
    CHECK(all[1].port == 1 && all[1].kind == RINGWAY_STATIC && all[1].mac[5] == 7 && all[1].vlan == RINGWAY_ANY_VLAN);
    CHECK(all[2].port == 0xeeeeeeee);
    CHECK(ringway_engine_addresses(e, NULL, 1) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_engine_clear_addresses(e, 3, RINGWAY_ANY_VLAN) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_engine_clear_addresses(e, RINGWAY_ANY_PORT, 4096) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_engine_clear_addresses(e, 1, RINGWAY_ANY_VLAN) == 0);
    CHECK(ringway_engine_clear_addresses(e, RINGWAY_ANY_PORT, RINGWAY_ANY_VLAN) == 1);
    CHECK(ringway_engine_free(e) == RINGWAY_OK);
}

/* ---- Causes by name ---- */

static ringway_cause typed, late;
static atomic_int judged;

static uint32_t because_typed(void *state, ringway_burst *b) {
    ringway_cause again;
    (void)state;
    atomic_fetch_add(&judged, 1);
    CHECK(ringway_cause_register("from a callback", &again) == RINGWAY_ERROR_CALLER && again.verdict == RINGWAY_DROP);
    CHECK(ringway_packet_decide(b, 0, typed.verdict) == RINGWAY_OK);
    return ringway_drop_because(typed);
}

static uint32_t because_late(void *state, ringway_burst *b) {
    (void)state;
    atomic_fetch_add(&judged, 1);
    CHECK(ringway_packet_decide(b, 0, late.verdict) == RINGWAY_ERROR_RANGE);
    return ringway_drop_because(late);
}

/* How many of port 0's packets were dropped for `cause`, of an engine that runs until it has judged some. */
static uint64_t dropped(ringway_engine *e, const char *cause, uint64_t *all) {
    ringway_stats *s;
    ringway_port_stats p = {.size = sizeof p};
    const char *name;
    uint64_t count, found = 0;
    atomic_store(&judged, 0);
    CHECK(ringway_engine_start(e) == RINGWAY_OK);
    for (int i = 0; i < 5000 && atomic_load(&judged) < 10; i++) usleep(1000);
    CHECK(ringway_engine_stop(e) == RINGWAY_OK);
    CHECK(ringway_engine_stats(e, &s) == RINGWAY_OK && ringway_stats_port(s, 0, &p) == RINGWAY_OK);
    *all = p.drops;
    CHECK(p.drops > 0 && p.drops == p.rx_packets);
    for (uint32_t k = 0; ringway_stats_drop(s, 0, k, &name, &count) == RINGWAY_OK; k++) {
        CHECK(name[0] != 0);
        if (strcmp(name, cause) == 0) found += count;
    }
    CHECK(ringway_stats_free(s) == RINGWAY_OK);
    return found;
}

static void causes(void) {
    const char *ports[] = {"null:in,emit=60", "null:out"}, *own[] = {"its own", "another"};
    ringway_cause again = {1};
    ringway_engine *e;
    uint64_t all;
    CHECK(ringway_cause_register(NULL, &again) == RINGWAY_ERROR_ARGUMENT && again.verdict == RINGWAY_DROP);
    CHECK(ringway_cause_register("", &again) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_cause_register("nobody keeps it", NULL) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_cause_register("by name", &typed) == RINGWAY_OK && typed.verdict != RINGWAY_DROP);
    char name[16] = "by name";
    CHECK(ringway_cause_register(name, &again) == RINGWAY_OK && again.verdict == typed.verdict);
    memset(name, 'x', sizeof name - 1);

    ringway_function f = function(because_typed);
    f.drop_causes = own;
    f.drop_cause_count = 2;
    ringway_options o = RINGWAY_OPTIONS_INIT;
    o.function = &f;
    CHECK(ringway_engine_new(ports, 2, &o, &e) == RINGWAY_OK);
    CHECK(dropped(e, "by name", &all) == all);
    CHECK(ringway_engine_free(e) == RINGWAY_OK);
    /* What was registered after the engine was made is no verdict there. */
    f = function(because_late);
    CHECK(ringway_engine_new(ports, 2, &o, &e) == RINGWAY_OK);
    CHECK(ringway_cause_register("too late", &late) == RINGWAY_OK && late.verdict != typed.verdict);
    CHECK(dropped(e, "too late", &all) == 0);
    CHECK(ringway_engine_free(e) == RINGWAY_OK);
    f = function(because_typed);
    CHECK(ringway_engine_new(ports, 2, &o, &e) == RINGWAY_OK);
    CHECK(dropped(e, "by name", &all) == all);
    CHECK(ringway_engine_free(e) == RINGWAY_OK);

    /* 64 in all. */
    for (int i = 2; i < 63; i++) {
        snprintf(name, sizeof name, "cause %d", i);
        CHECK(ringway_cause_register(name, &again) == RINGWAY_OK);
    }
    f.drop_causes = own;
    f.drop_cause_count = 1;
    CHECK(new_with("null:a", &o) == RINGWAY_OK);
    f.drop_cause_count = 2;
    CHECK(new_with("null:a", &o) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_cause_register("cause 63", &again) == RINGWAY_OK);
    CHECK(ringway_cause_register("cause 64", &again) == RINGWAY_ERROR_RANGE && again.verdict == RINGWAY_DROP);
    CHECK(ringway_cause_register("by name", &again) == RINGWAY_OK && again.verdict == typed.verdict);
    f.drop_cause_count = 0;
    CHECK(new_with("null:a", &o) == RINGWAY_OK);
}

/* ---- In callbacks: one engine makes and changes packets, the other looks at them ---- */

enum { MARK = 0x5a, KINDS = 9 };
static const char *const kind_names[KINDS] = {"plain", "tagged", "in an outer header", "front taken off", "longer",
                                              "shorter", "untagged", "a copy", "of its own"};
enum { CAUSE_NOT_WANTED };
static const char *const maker_causes[] = {"no use for it", "never"};
static ringway_engine *maker, *looker;
static _Atomic(ringway_burst *) kept;
static atomic_int arguments_done, ticks_done, ups;

static void bad_arguments(ringway_burst *b, int n) {
    ringway_view views[RINGWAY_BURST];
    ringway_burst_info info = {.size = 3};
    uint32_t words[RINGWAY_BURST + 1] = {0}, made = 0;
    uint32_t two[] = {0, 2};
    uint8_t *tail;
    CHECK(ringway_burst_info_get(b, NULL) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_burst_info_get(b, &info) == RINGWAY_ERROR_SIZE);
    CHECK(ringway_burst_views(b, NULL, RINGWAY_BURST) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_burst_views(b, views, (size_t)n - 1) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_burst_views(b, views, SIZE_MAX) == n);
    CHECK(ringway_burst_decide(b, NULL, 1) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_burst_decide(b, words, (size_t)n + 1) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_burst_decide(b, words, SIZE_MAX) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_burst_set(b, NULL, 1, &made) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_burst_set(b, two, 1, NULL) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_burst_set(b, two, 2, &made) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_burst_set(b, two, SIZE_MAX, &made) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_burst_add(b, KINDS, 1) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_burst_add(b, UINT32_MAX, 1) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_burst_is_up(b, 2) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_burst_is_up(b, 0) >= 0);
    ringway_port_info port = {.size = sizeof port, .is_up = 9};
    CHECK(ringway_burst_port_info(b, 2, &port) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_burst_port_info(b, UINT32_MAX, &port) == RINGWAY_ERROR_RANGE);
    CHECK(ringway_burst_port_info(b, 0, NULL) == RINGWAY_ERROR_ARGUMENT && port.is_up == 9);
    CHECK(ringway_burst_port_info(b, 0, &port) == RINGWAY_OK && port.is_up <= 1 && port.mtu == 0);
    uint32_t verdicts[] = {ringway_to_port(2), ringway_to_port(UINT32_MAX), ringway_drop_for(2),
                           ringway_drop_for(64), 0xc0000000u, 0xc0000040u, RINGWAY_EACH, 0xfffffffdu, 0x7fffffffu};
    for (size_t i = 0; i < sizeof verdicts / sizeof *verdicts; i++) {
        /* A port that is no number drops. */
        int expected = verdicts[i] == RINGWAY_DROP ? RINGWAY_OK : RINGWAY_ERROR_RANGE;
        CHECK(ringway_packet_decide(b, 0, verdicts[i]) == expected);
        CHECK(ringway_burst_decide(b, &verdicts[i], 1) == expected);
    }
    uint32_t none[] = {(uint32_t)n, RINGWAY_BURST, RINGWAY_BURST + 5, UINT32_MAX};
    for (size_t i = n == RINGWAY_BURST ? 1 : 0; i < 4; i++) {
        CHECK(ringway_packet_look(b, none[i], views) == RINGWAY_ERROR_RANGE);
        CHECK(ringway_packet_decide(b, none[i], RINGWAY_DROP) == RINGWAY_ERROR_RANGE);
        CHECK(ringway_packet_extend(b, none[i], 10) == RINGWAY_ERROR_RANGE);
        CHECK(ringway_packet_prepend(b, none[i], words, 10) == RINGWAY_ERROR_RANGE);
        CHECK(ringway_packet_remove_first(b, none[i], 10) == RINGWAY_ERROR_RANGE);
        CHECK(ringway_packet_append(b, none[i], 10, &tail) == RINGWAY_ERROR_RANGE);
        CHECK(ringway_packet_truncate(b, none[i], 10) == RINGWAY_ERROR_RANGE);
        CHECK(ringway_packet_push_vlan(b, none[i], 1, 0x8100) == RINGWAY_ERROR_RANGE);
        CHECK(ringway_packet_pop_vlan(b, none[i], NULL) == RINGWAY_ERROR_RANGE);
        CHECK(ringway_packet_offload(b, none[i], NULL, NULL) == RINGWAY_ERROR_RANGE);
        CHECK(ringway_packet_copy(b, none[i], &made) == RINGWAY_ERROR_RANGE);
    }
    CHECK(ringway_packet_look(b, 0, NULL) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_packet_append(b, 0, 10, NULL) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_packet_copy(b, 0, NULL) == RINGWAY_ERROR_ARGUMENT);
    CHECK(ringway_packet_originate(b, 60, NULL) == RINGWAY_ERROR_ARGUMENT);
    uint32_t lengths[] = {0, 13, 1729, UINT32_MAX};
    for (int i = 0; i < 4; i++) CHECK(ringway_packet_originate(b, lengths[i], &made) == RINGWAY_ERROR_RANGE);
    uint32_t large[] = {129, 257, 100000, 0x7fffffff, UINT32_MAX};
    for (int i = 0; i < 5; i++) {
        CHECK(ringway_packet_extend(b, 0, large[i]) == RINGWAY_ERROR_IMPOSSIBLE);
        CHECK(ringway_packet_prepend(b, 0, NULL, large[i]) == RINGWAY_ERROR_IMPOSSIBLE);
        CHECK(ringway_packet_prepend(b, 0, words, large[i]) == RINGWAY_ERROR_IMPOSSIBLE);
        CHECK(ringway_packet_remove_first(b, 0, large[i]) == RINGWAY_ERROR_IMPOSSIBLE);
        CHECK(ringway_packet_append(b, 0, large[i], &tail) == RINGWAY_ERROR_IMPOSSIBLE);
        CHECK(ringway_packet_truncate(b, 0, large[i]) == RINGWAY_ERROR_IMPOSSIBLE);
    }
    CHECK(ringway_packet_append(b, 0, 0, &tail) == RINGWAY_ERROR_IMPOSSIBLE);
    CHECK(ringway_packet_pop_vlan(b, 0, NULL) == RINGWAY_ERROR_IMPOSSIBLE);
    /* From inside an engine's calls: they would wait for themselves. */
    ringway_stats *s;
    ringway_engine *e;
    CHECK(ringway_engine_stop(maker) == RINGWAY_ERROR_CALLER);
    CHECK(ringway_engine_free(maker) == RINGWAY_ERROR_CALLER);
    CHECK(ringway_engine_start(maker) == RINGWAY_ERROR_CALLER);
    CHECK(ringway_engine_stats(maker, &s) == RINGWAY_ERROR_CALLER && s == NULL);
    CHECK(ringway_engine_call(maker, never, NULL) == RINGWAY_ERROR_CALLER);
    CHECK(ringway_engine_new(NULL, 0, NULL, &e) == RINGWAY_ERROR_CALLER && e == NULL);
    CHECK(ringway_stats_ports(s) == RINGWAY_ERROR_CALLER);
    bad_bursts(wrong_burst, RINGWAY_ERROR_CALLER);
    bad_bursts(NULL, RINGWAY_ERROR_ARGUMENT);
    /* All that is as it was. */
    CHECK(ringway_packet_look(b, 0, &views[1]) == RINGWAY_OK);
    CHECK(views[0].frame_length == views[1].frame_length && views[0].front_length == views[1].front_length);
    /* Sets: 128 different ones, which two ports do not give; and packets: 64. */
    CHECK(ringway_burst_set(b, two, 1, &made) == RINGWAY_OK && ringway_packet_decide(b, 0, made) == RINGWAY_OK);
    CHECK(ringway_burst_set(b, NULL, 0, &made) == RINGWAY_OK);
    for (int i = 0; i < RINGWAY_BURST; i++) {
        CHECK(ringway_packet_originate(b, 60, &made) == RINGWAY_OK && made == RINGWAY_BURST + (uint32_t)i);
        CHECK(ringway_packet_look(b, made, views) == RINGWAY_OK && views[0].front_length == 60);
    }
    CHECK(ringway_packet_originate(b, 60, &made) == RINGWAY_ERROR_FULL);
    CHECK(ringway_packet_copy(b, 0, &made) == RINGWAY_ERROR_FULL);
    CHECK(ringway_packet_copy(b, RINGWAY_BURST, &made) == RINGWAY_ERROR_RANGE);
}

struct maker_state {
    uint64_t packets;
    uint32_t thread;
    int called;
};

static int make_state(void *user, uint32_t thread, void **state) {
    struct maker_state *s = calloc(1, sizeof *s);
    s->thread = thread;
    *state = s;
    ++*(int *)user;
    return 0;
}
static void free_state(void *user, uint32_t thread, void *state) {
    CHECK(((struct maker_state *)state)->thread == thread);
    free(state);
    --*(int *)user;
}

/* The frame's 46 bytes of payload are `MARK`, its type says what it is. */
static void dress(ringway_burst *b, uint32_t packet, uint32_t kind) {
    ringway_view v;
    CHECK(ringway_packet_look(b, packet, &v) == RINGWAY_OK && v.front_length == 60 && v.frame_length == 60);
    memset(v.front, MARK, v.front_length);
    v.front[0] = v.front[6] = 2;
    v.front[12] = 0x90;
    v.front[13] = (uint8_t)kind;
}

/* Nothing more is made. */
static atomic_int is_quiet;

static uint32_t make(void *state, ringway_burst *b) {
    struct maker_state *s = state;
    ringway_burst_info info = {.size = sizeof info};
    CHECK(ringway_burst_info_get(b, &info) == RINGWAY_OK && info.ports == 2 && info.count <= RINGWAY_BURST);
    atomic_store(&kept, b);
    if (info.port != 0 || atomic_load(&is_quiet)) return RINGWAY_DROP;
    if (info.count > 0 && !atomic_exchange(&arguments_done, 1)) {
        bad_arguments(b, (int)info.count);
        return ringway_drop_for(CAUSE_NOT_WANTED);
    }
    for (uint32_t i = 0; i < info.count; i++) {
        uint32_t kind = (uint32_t)(s->packets++ % KINDS), other;
        uint8_t *tail, outer[50];
        uint16_t tag = 0;
        uint32_t verdict = ringway_to_port(1), send = i;
        dress(b, i, kind);
        switch (kind) {
        case 1: CHECK(ringway_packet_push_vlan(b, i, 0x6123, 0x88a8) == RINGWAY_OK); break;
        case 2:
            memset(outer, 0x22, sizeof outer);
            outer[0] = 2;
            CHECK(ringway_packet_prepend(b, i, outer, sizeof outer) == RINGWAY_OK);
            break;
        case 3:
            CHECK(ringway_packet_remove_first(b, i, 14) == RINGWAY_OK);
            CHECK(ringway_packet_prepend(b, i, NULL, 14) == RINGWAY_OK);
            break;
        case 4:
            CHECK(ringway_packet_append(b, i, 20, &tail) == RINGWAY_OK);
            memset(tail, 0x44, 20);
            break;
        case 5: CHECK(ringway_packet_truncate(b, i, 33) == RINGWAY_OK); break;
        case 6:
            CHECK(ringway_packet_push_vlan(b, i, 0x6123, 0x8100) == RINGWAY_OK);
            CHECK(ringway_packet_pop_vlan(b, i, &tag) == RINGWAY_OK && tag == 0x6123);
            break;
        case 7:
            if (ringway_packet_copy(b, i, &other) < 0) break;
            send = other;
            break;
        case 8:
            if (ringway_packet_originate(b, 60, &other) < 0) break;
            dress(b, other, kind);
            send = other;
            break;
        }
        if (kind == 3) CHECK(ringway_burst_set(b, (uint32_t[]){0, 1}, 2, &verdict) == RINGWAY_OK);
        CHECK(ringway_packet_decide(b, send, verdict) == RINGWAY_OK);
        if (send != i) CHECK(ringway_packet_decide(b, i, ringway_drop_for(CAUSE_NOT_WANTED)) == RINGWAY_OK);
        ringway_burst_add(b, kind, 1);
    }
    return RINGWAY_EACH;
}

static void tick(void *state, ringway_burst *b) {
    ringway_burst_info info = {.size = sizeof info};
    uint32_t packet;
    (void)state;
    CHECK(ringway_burst_info_get(b, &info) == RINGWAY_OK && info.count == 0 && info.port == UINT32_MAX);
    CHECK(ringway_burst_views(b, NULL, 0) == 0);
    CHECK(ringway_packet_originate(b, 60, &packet) == RINGWAY_OK && packet == RINGWAY_BURST);
    CHECK(ringway_packet_decide(b, 0, RINGWAY_DROP) == RINGWAY_ERROR_RANGE);
    atomic_fetch_add(&ticks_done, 1);
}

static void port_changed(void *state, uint32_t port, int is_up) {
    CHECK(state != NULL && port < 2);
    CHECK(ringway_engine_stop(maker) == RINGWAY_ERROR_CALLER);
    if (is_up) atomic_fetch_add(&ups, 1);
}

static void command(void *state, uint32_t thread, void *argument) {
    struct maker_state *s = state;
    CHECK(s->thread == thread);
    s->called++;
    atomic_fetch_add((atomic_int *)argument, 1);
    CHECK(ringway_engine_stop(maker) == RINGWAY_ERROR_CALLER);
    bad_bursts(atomic_load(&kept), atomic_load(&kept) ? RINGWAY_ERROR_CALLER : RINGWAY_ERROR_ARGUMENT);
}

static int all(const uint8_t *p, uint32_t n, uint8_t value) {
    for (uint32_t i = 0; i < n; i++)
        if (p[i] != value) return 0;
    return 1;
}

/* Which kind a frame is, byte for byte; -1: none. */
static int kind_of(const ringway_view *v) {
    const uint8_t *p = v->front;
    uint32_t n = v->frame_length;
    if (n != v->front_length || n < 33) return -1;
    if (n == 110 && p[0] == 2 && all(p + 1, 49, 0x22) && p[62] == 0x90 && p[63] == 2 && all(p + 64, 46, MARK)) return 2;
    if (n == 64 && memcmp(p + 12, "\x88\xa8\x61\x23\x90\x01", 6) == 0 && all(p + 18, 46, MARK)) return 1;
    if (n == 60 && all(p, 14, 0) && all(p + 14, 46, MARK)) return 3;
    if (p[0] != 2 || p[6] != 2 || p[12] != 0x90) return -1;
    switch (p[13]) {
    case 4: return n == 80 && all(p + 14, 46, MARK) && all(p + 60, 20, 0x44) ? 4 : -1;
    case 5: return n == 33 && all(p + 14, 19, MARK) ? 5 : -1;
    case 0: case 6: case 7: case 8: return n == 60 && all(p + 14, 46, MARK) ? p[13] : -1;
    default: return -1;
    }
}

static uint32_t look(void *state, ringway_burst *b) {
    ringway_view views[RINGWAY_BURST];
    ringway_port_info port = {.size = sizeof port};
    int n = ringway_burst_views(b, views, RINGWAY_BURST);
    (void)state;
    CHECK(ringway_burst_port_info(b, 0, &port) == RINGWAY_OK && port.mtu == 1400);
    CHECK(memcmp(port.mac, "\2\0\0\1\2\3", 6) == 0);
    for (int i = 0; i < n; i++) {
        uint32_t partial = 9, size = 9;
        int kind = kind_of(&views[i]);
        CHECK(kind >= 0);
        CHECK(ringway_packet_offload(b, (uint32_t)i, &partial, &size) == RINGWAY_OK && partial == 0 && size == 0);
        if (kind >= 0) CHECK(ringway_burst_add(b, (uint32_t)kind, 1) == RINGWAY_OK);
    }
    return ringway_to_port(1);
}

static uint32_t no_verdict(void *state, ringway_burst *b) {
    (void)state;
    (void)b;
    return ringway_to_port(77);
}

static atomic_int logged;
static void tell(void *user, int level, const char *message) {
    CHECK(user == &logged && level >= 0 && message != NULL);
    CHECK(ringway_engine_stop(maker) < 0);
    atomic_fetch_add(&logged, 1);
}

static ringway_port_stats port_of(ringway_engine *e, uint32_t port, uint64_t *counts, uint64_t *drops) {
    ringway_stats *s;
    ringway_port_stats p = {.size = sizeof p};
    const char *name;
    CHECK(ringway_engine_stats(e, &s) == RINGWAY_OK);
    CHECK(ringway_stats_port(s, port, &p) == RINGWAY_OK);
    for (uint32_t k = 0; counts && ringway_stats_counter(s, k, &name, &counts[k]) == RINGWAY_OK; k++)
        CHECK(strcmp(name, kind_names[k]) == 0);
    if (drops) *drops = 0;
    uint64_t sum = 0, count;
    for (uint32_t k = 0; ringway_stats_drop(s, port, k, &name, &count) == RINGWAY_OK; k++) {
        sum += count;
        if (drops && strcmp(name, "no use for it") == 0) *drops = count;
    }
    CHECK(sum == p.drops);
    CHECK(ringway_stats_free(s) == RINGWAY_OK);
    return p;
}

static void traffic(const char *folder) {
    char device[200], driver[200];
    snprintf(device, sizeof device, "vhost-user:%s/c.sock,mtu=1400,mac=02:00:00:01:02:03", folder);
    snprintf(driver, sizeof driver, "virtio-user:%s/c.sock", folder);
    const char *looks[] = {device, "null:out"}, *makes[] = {"null:in,emit=60", driver};

    ringway_function f = function(look);
    f.counters = kind_names;
    f.counter_count = KINDS;
    ringway_options o = RINGWAY_OPTIONS_INIT;
    o.function = &f;
    o.log = tell;
    o.log_user = &logged;
    o.log_level = RINGWAY_TRACE;
    CHECK(ringway_engine_new(looks, 2, &o, &looker) == RINGWAY_OK);
    CHECK(ringway_engine_start(looker) == RINGWAY_OK);

    int states = 0;
    f = function(make);
    f.counters = kind_names;
    f.counter_count = KINDS;
    f.drop_causes = maker_causes;
    f.drop_cause_count = 2;
    f.user = &states;
    f.thread_init = make_state;
    f.thread_free = free_state;
    f.tick = tick;
    f.tick_microseconds = 1000;
    f.port_changed = port_changed;
    CHECK(ringway_engine_new(makes, 2, &o, &maker) == RINGWAY_OK);
    /* All was copied. */
    memset(&f, 0xee, sizeof f);
    memset(&o, 0xee, sizeof o);
    CHECK(ringway_engine_start(maker) == RINGWAY_OK);
    CHECK(states == 1);
    atomic_int calls = 0;
    for (int i = 0; i < 300 && (atomic_load(&ups) < 2 || port_of(looker, 0, NULL, NULL).rx_packets < 100000); i++) {
        usleep(10000);
        CHECK(ringway_engine_call(maker, command, &calls) == RINGWAY_OK);
        CHECK(atomic_load(&calls) == i + 1);
    }
    CHECK(atomic_load(&ups) == 2 && atomic_load(&ticks_done) > 0 && atomic_load(&arguments_done));
    bad_bursts(atomic_load(&kept), RINGWAY_ERROR_CALLER);
    /* What lies in a ring when its driver goes is lost: first all of it arrives, on a busy machine, too. */
    atomic_store(&is_quiet, 1);
    CHECK(ringway_engine_call(maker, command, &calls) == RINGWAY_OK);
    for (int i = 0; i < 6000; i++) {
        if (port_of(looker, 0, NULL, NULL).rx_packets == port_of(maker, 1, NULL, NULL).tx_packets) break;
        usleep(10000);
    }
    CHECK(ringway_engine_stop(maker) == RINGWAY_OK && states == 0);

    uint64_t made[KINDS] = {0}, seen[KINDS] = {0}, unwanted = 0;
    ringway_port_stats in = port_of(maker, 0, made, &unwanted), out = port_of(maker, 1, NULL, NULL);
    ringway_port_stats got = {0};
    for (int i = 0; i < 200 && got.rx_packets < out.tx_packets; i++) {
        got = port_of(looker, 0, NULL, NULL);
        usleep(10000);
    }
    CHECK(ringway_engine_stop(looker) == RINGWAY_OK);
    got = port_of(looker, 0, seen, NULL);
    ringway_port_stats sunk = port_of(looker, 1, NULL, NULL);
    CHECK(got.rx_packets >= 100000 && got.rx_packets == out.tx_packets && got.rx_bytes == out.tx_bytes);
    CHECK(sunk.tx_packets == got.rx_packets && got.drops == 0);
    CHECK(in.rx_packets + in.made + out.made == in.tx_packets + out.tx_packets + in.drops + out.drops + in.flooded
          + in.consumed);
    CHECK(unwanted >= made[7] + made[8]);
    uint64_t sum = 0;
    for (int k = 0; k < KINDS; k++) {
        CHECK(seen[k] > 0 && seen[k] <= made[k]);
        printf("%s: %llu made, %llu arrived\n", kind_names[k], (unsigned long long)made[k],
               (unsigned long long)seen[k]);
        sum += seen[k];
    }
    CHECK(sum == got.rx_packets);
    CHECK(atomic_load(&logged) > 0);
    CHECK(ringway_engine_free(maker) == RINGWAY_OK && ringway_engine_free(looker) == RINGWAY_OK);

    /* What is no verdict drops. */
    f = function(no_verdict);
    ringway_options last = RINGWAY_OPTIONS_INIT;
    last.function = &f;
    makes[1] = "null:out";
    CHECK(ringway_engine_new(makes, 2, &last, &maker) == RINGWAY_OK && ringway_engine_start(maker) == RINGWAY_OK);
    usleep(20000);
    CHECK(ringway_engine_stop(maker) == RINGWAY_OK);
    in = port_of(maker, 0, NULL, NULL);
    CHECK(in.rx_packets > 0 && in.drops == in.rx_packets);
    CHECK(ringway_engine_free(maker) == RINGWAY_OK);
}

static void *other_thread(void *unused) {
    (void)unused;
    CHECK(ringway_last_error()[0] == 0);
    CHECK(ringway_engine_start(NULL) == RINGWAY_ERROR_ARGUMENT && ringway_last_error()[0] != 0);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 2) return 64;
    CHECK(ringway_last_error()[0] == 0);
    bad_bursts(NULL, RINGWAY_ERROR_ARGUMENT);
    bad_bursts(wrong_burst, RINGWAY_ERROR_CALLER);
    bad_options();
    bad_handles();
    addresses();
    pthread_t thread;
    pthread_create(&thread, NULL, other_thread, NULL);
    pthread_join(thread, NULL);
    traffic(argv[1]);
    causes();
    printf("%d checks failed\n", atomic_load(&failures));
    return atomic_load(&failures) != 0;
}
