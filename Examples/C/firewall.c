/* A firewall in C: drops UDP datagrams to some ports, passes all else from one Ringway port to the other.
 *
 *   cc -Wall firewall.c $(pkg-config --cflags --libs ringway) -o firewall
 *   ./firewall vhost-user:/run/vm1.sock vhost-user:/run/vm2.sock 53 123     # ends with Ctrl-C
 *
 * Options: -s SECONDS ends after so long; -c CPUS as in "1,2". */
#include <ringway.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Written before the engine starts, read by its threads. */
struct rules {
    uint8_t denied[65536];
};

/* Registered before the engine is made. */
static ringway_cause denied_port;
enum { COUNT_UDP, COUNT_OTHER };
static const char *const counters[] = {"UDP", "other"};

/* The destination port of a UDP datagram over IPv4, or -1. Of a fragment only the first has one. */
static int udp_port(const uint8_t *p, uint32_t n) {
    uint32_t at = 14;
    if (n >= 18 && p[12] == 0x81 && p[13] == 0) at = 18;
    if (n < at + 20 || p[at - 2] != 8 || p[at - 1] != 0) return -1;
    uint32_t header = (p[at] & 15u) * 4;
    if (p[at] >> 4 != 4 || header < 20 || n < at + header + 4 || p[at + 9] != 17) return -1;
    if (((p[at + 6] & 0x1f) << 8 | p[at + 7]) != 0) return -1;
    return p[at + header + 2] << 8 | p[at + header + 3];
}

/* On a poll thread, once for each burst. */
static uint32_t process(void *state, ringway_burst *burst) {
    const struct rules *rules = state;
    ringway_burst_info info = {.size = sizeof info};
    ringway_view views[RINGWAY_BURST];
    uint32_t verdicts[RINGWAY_BURST];
    uint64_t udp = 0;
    ringway_burst_info_get(burst, &info);
    int n = ringway_burst_views(burst, views, RINGWAY_BURST);
    for (int i = 0; i < n; i++) {
        int port = udp_port(views[i].front, views[i].front_length);
        udp += port >= 0;
        int is_denied = port >= 0 && rules->denied[port];
        verdicts[i] = is_denied ? ringway_drop_because(denied_port) : ringway_to_port(1 - info.port);
    }
    if (n < 0 || ringway_burst_decide(burst, verdicts, (size_t)n) < 0) return RINGWAY_DROP;
    ringway_burst_add(burst, COUNT_UDP, udp);
    ringway_burst_add(burst, COUNT_OTHER, (uint64_t)n - udp);
    return RINGWAY_EACH;
}

static void tell(void *user, int level, const char *message) {
    (void)user;
    (void)level;
    fprintf(stderr, "firewall: %s\n", message);
}

static int fail(const char *what, int code) {
    fprintf(stderr, "firewall: %s: %s: %s\n", what, ringway_error_text(code), ringway_last_error());
    return 1;
}

static int print(ringway_engine *engine) {
    ringway_stats *stats;
    int code = ringway_engine_stats(engine, &stats);
    if (code < 0) return fail("statistics", code);
    for (int i = 0; i < ringway_stats_ports(stats); i++) {
        ringway_port_stats port = {.size = sizeof port};
        ringway_stats_port(stats, (uint32_t)i, &port);
        printf("%s: received %llu packets, %llu bytes; delivered %llu packets, %llu bytes\n", port.name,
               (unsigned long long)port.rx_packets, (unsigned long long)port.rx_bytes,
               (unsigned long long)port.tx_packets, (unsigned long long)port.tx_bytes);
        const char *name;
        uint64_t count;
        for (uint32_t k = 0; ringway_stats_drop(stats, (uint32_t)i, k, &name, &count) == RINGWAY_OK; k++)
            printf("  dropped, %s: %llu\n", name, (unsigned long long)count);
    }
    const char *name;
    uint64_t count;
    for (uint32_t k = 0; ringway_stats_counter(stats, k, &name, &count) == RINGWAY_OK; k++)
        printf("%s: %llu\n", name, (unsigned long long)count);
    fflush(stdout);
    ringway_stats_free(stats);
    return 0;
}

int main(int argc, char **argv) {
    static struct rules rules;
    ringway_options options = RINGWAY_OPTIONS_INIT;
    double seconds = 0;
    int option;
    while ((option = getopt(argc, argv, "s:c:")) != -1) {
        if (option == 's') seconds = atof(optarg);
        else if (option == 'c') options.cpus = optarg;
        else return 64;
    }
    if (argc - optind < 2) {
        fprintf(stderr, "usage: firewall [-s SECONDS] [-c CPUS] PORT PORT [UDP-PORT...]\n");
        return 64;
    }
    for (int i = optind + 2; i < argc; i++) rules.denied[atoi(argv[i]) & 65535] = 1;

    int code = ringway_cause_register("denied port", &denied_port);
    if (code < 0) return fail("cause", code);
    ringway_function function = RINGWAY_FUNCTION_INIT;
    function.process = process;
    function.user = &rules;
    function.counters = counters;
    function.counter_count = sizeof counters / sizeof *counters;
    options.function = &function;
    options.log = tell;
    options.log_level = RINGWAY_WARNING;

    /* The engine's threads inherit the mask: signals come to `sigtimedwait` below alone. */
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    sigprocmask(SIG_BLOCK, &ends, NULL);

    const char *ports[] = {argv[optind], argv[optind + 1]};
    ringway_engine *engine;
    code = ringway_engine_new(ports, 2, &options, &engine);
    if (code < 0) return fail("options", code);
    code = ringway_engine_start(engine);
    if (code < 0) {
        ringway_engine_free(engine);
        return fail("start", code);
    }
    printf("running\n");
    fflush(stdout);
    if (seconds > 0) {
        struct timespec time = {.tv_sec = (time_t)seconds};
        time.tv_nsec = (long)((seconds - (double)time.tv_sec) * 1e9);
        sigtimedwait(&ends, NULL, &time);
    } else {
        sigwaitinfo(&ends, NULL);
    }
    /* What was counted can still be asked for, and is exact now. */
    ringway_engine_stop(engine);
    int status = print(engine);
    ringway_engine_free(engine);
    return status;
}
