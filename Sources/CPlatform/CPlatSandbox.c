#define _GNU_SOURCE
#include "include/CPlatSandbox.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/capability.h>

static int code(long status) { return status < 0 ? errno : 0; }

int CPlat_no_new_privileges(void) { return code(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }

typedef struct __user_cap_header_struct cap_header;
typedef struct __user_cap_data_struct cap_data;

uint64_t CPlat_capabilities(void) {
    cap_header header = {_LINUX_CAPABILITY_VERSION_3, 0};
    cap_data data[2] = {{0}};
    if (syscall(SYS_capget, &header, data) != 0) return 0;
    return data[0].effective | (uint64_t)data[1].effective << 32;
}

int CPlat_keep_capabilities(uint64_t kept) {
    cap_header header = {_LINUX_CAPABILITY_VERSION_3, 0};
    cap_data data[2] = {{0}};
    /* Without CAP_SETPCAP it stays as it is: no program can gain by it any more. */
    for (int i = 0; i < 64 && prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++)
        if (!(kept >> i & 1)) prctl(PR_CAPBSET_DROP, i, 0, 0, 0);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (syscall(SYS_capget, &header, data) != 0) return errno;
    for (int i = 0; i < 2; i++) {
        uint32_t half = (uint32_t)(kept >> 32 * i);
        data[i].effective &= half;
        data[i].permitted &= half;
        data[i].inheritable = 0;
    }
    return code(syscall(SYS_capset, &header, data));
}

/* <linux/landlock.h> of Linux 6.12; Debian 12 has that of 6.1. */
struct rules { uint64_t files, tcp, scopes; };
struct beneath { uint64_t rights; int32_t fd; } __attribute__((packed));
enum { ASK_VERSION = 1, PATH_BENEATH = 1 };

int CPlat_landlock_version(void) {
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, ASK_VERSION);
    return version < 0 ? 0 : (int)version;
}

int CPlat_landlock_rules(int version, uint64_t files, uint64_t tcp, uint64_t scopes) {
    struct rules r = {files, tcp, scopes};
    size_t size = version < 4 ? offsetof(struct rules, tcp) : version < 6 ? offsetof(struct rules, scopes) : sizeof r;
    return (int)syscall(SYS_landlock_create_ruleset, &r, size, 0);
}

int CPlat_landlock_allow(int rules, int fd, uint64_t rights) {
    struct beneath b = {rights, fd};
    return code(syscall(SYS_landlock_add_rule, rules, PATH_BENEATH, &b, 0));
}

int CPlat_landlock_enter(int rules) { return code(syscall(SYS_landlock_restrict_self, rules, 0)); }

int CPlat_open_path(const char *path) { return open(path, O_PATH | O_CLOEXEC); }

/* Attempts. One that is carried out takes back what it did. */

static int closing(int fd) {
    if (fd >= 0) close(fd);
    return code(fd);
}

static int make_process(void) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    if (child > 0) waitpid(child, NULL, 0);
    return code(child);
}

/* In a process of its own where there can be one. */
static int run_program(void) {
    char *words[] = {"true", NULL};
    int status = 0;
    pid_t child = fork();
    if (child <= 0) execv("/bin/true", words);
    if (child == 0) _exit(errno);
    if (child < 0) return errno;
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
}

static int trace_parent(void) {
    long status = ptrace(PTRACE_SEIZE, getppid(), NULL, NULL);
    return code(status);
}

static int read_passwords(void) { return closing(open("/etc/shadow", O_RDONLY | O_CLOEXEC)); }

static int make_file(void) {
    const char *path = "/tmp/ringway-sandbox-attempt";
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0) unlink(path);
    return closing(fd);
}

static int change_mode(void) { return code(chmod("/proc/self/exe", 0755)); }
static int internet(void) { return closing(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); }
static int raw_packets(void) { return closing(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)); }
static int new_user(void) { return code(syscall(SYS_setuid, 65534)); }
static int new_namespace(void) { return code(unshare(CLONE_NEWUSER)); }
static int mount_files(void) { return code(mount("none", "/proc/self/nowhere", "tmpfs", 0, NULL)); }
static int load_bpf(void) { return code(syscall(SYS_bpf, 0, NULL, 0)); }
static int signal_parent(void) { return code(kill(getppid(), 0)); }
/* A terminal takes it as typed. */
static int type_ahead(void) { return code(syscall(SYS_ioctl, 0, 0x5412, "")); }

const char *CPlat_attempt(int n, int *error) {
    static const struct { const char *name; int (*try)(void); } attempts[] = {
        {"start a process", make_process},
        {"trace its parent", trace_parent},
        {"signal its parent", signal_parent},
        {"read /etc/shadow", read_passwords},
        {"make a file in /tmp", make_file},
        {"change a file's mode", change_mode},
        {"open a TCP socket", internet},
        {"open a packet socket", raw_packets},
        {"become another user", new_user},
        {"enter a namespace of its own", new_namespace},
        {"mount a file system", mount_files},
        {"load a BPF program", load_bpf},
        {"type into its terminal", type_ahead},
        {"run a program", run_program},
    };
    if (n < 0 || n >= (int)(sizeof attempts / sizeof *attempts)) return NULL;
    *error = attempts[n].try();
    return attempts[n].name;
}
