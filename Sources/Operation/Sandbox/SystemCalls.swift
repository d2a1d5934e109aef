import CPlatform
import CSeccomp
import Glibc

/// System calls that are needed for one thing.
///
/// Most of them `strace -f` shows after the start (docs/security.md); the others do the same in other versions of the
/// libraries, or of the architecture. All integration tests run under them. What is in no group fails with ENOSYS, as
/// on a kernel that has not got it: so libraries fall back on what they did before there was such a call, and a mistake
/// in this list fails one request instead of ending the dataplane of all guests.
struct CallGroup: Sendable {
    /// A call that is allowed where an argument's bits of `mask` are `value`.
    struct Checked: Sendable {
        let call: String
        let argument: UInt32
        let value: UInt64
        var mask = UInt64.max
    }

    /// Allowed with any arguments. Names that an architecture has not got are passed over.
    var calls = ""
    var checked: [Checked] = []

    /// Network interfaces: their queues' sockets, promiscuous mode, changes of them; what they are; and for bpf(2) the
    /// commands that put one program on them. Of a dataplane with CAP_BPF alone.
    static let interfaces = CallGroup(
        checked: [AF_XDP, AF_PACKET, AF_NETLINK].map { Checked(call: "socket", argument: 0, value: UInt64($0)) }
            + [Int(SIOCGIFFLAGS), Int(SIOCGIFMTU), Int(SIOCGIFHWADDR), CPlat_SIOCETHTOOL].map {
                Checked(call: "ioctl", argument: 1, value: UInt64($0))
            }
            + [CPlat_BPF_MAP_CREATE, CPlat_BPF_MAP_UPDATE_ELEM, CPlat_BPF_PROG_LOAD, CPlat_BPF_LINK_CREATE].map {
                Checked(call: "bpf", argument: 0, value: UInt64($0))
            })

    /// Of one that goes on in the place of another, with the timer that it has made before (`Deadline`).
    static let deadline = CallGroup(calls: "timer_settime timer_delete")

    /// Of every dataplane. What only some have is added to it by `Sandbox`.
    static let base = [
        memory, threads, signals, time, packets, descriptors, sockets, socketFiles, files, identity, devices,
    ]

    /// Our own, that of guests, rings shared with the kernel; on a NUMA node.
    static let memory = CallGroup(
        calls: """
            brk mmap munmap mremap mprotect madvise mlock munlock msync mincore mbind get_mempolicy set_mempolicy \
            memfd_create ftruncate fallocate
            """)

    /// Threads, their CPUs and names, and waiting for each other. No processes: CLONE_THREAD has to be there. (clone3
    /// says in memory what it is for, so it is left out.)
    static let threads = CallGroup(
        calls: """
            futex futex_waitv set_robust_list get_robust_list rseq set_tid_address gettid getpid getppid exit \
            exit_group sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler getcpu \
            membarrier restart_syscall arch_prctl
            """,
        checked: [
            Checked(call: "clone", argument: 0, value: UInt64(CLONE_THREAD), mask: UInt64(CLONE_THREAD)),
            Checked(call: "prctl", argument: 0, value: UInt64(PR_SET_NAME)),
            Checked(call: "prctl", argument: 0, value: UInt64(PR_GET_NAME)),
            // Names of malloc's mappings.
            Checked(call: "prctl", argument: 0, value: UInt64(PR_SET_VMA)),
        ])

    /// Of this process, to this process.
    static let signals = CallGroup(
        calls: "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait rt_sigpending sigaltstack signalfd4 pause",
        checked: ["kill", "tgkill"].map { Checked(call: $0, argument: 0, value: UInt64(getpid())) })

    /// Time, and what was used of it.
    static let time = CallGroup(
        calls: """
            clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage timerfd_create \
            timerfd_settime timerfd_gettime
            """)

    /// Packets, kicks and calls, and waiting for them.
    static let packets = CallGroup(
        calls: """
            io_uring_setup io_uring_enter io_uring_register eventfd2 read write readv writev pread64 pwrite64 \
            preadv preadv2 pwritev pwritev2 poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl \
            epoll_wait epoll_pwait epoll_pwait2
            """)

    /// Descriptors; what standard output is.
    static let descriptors = CallGroup(
        calls: "close close_range dup dup2 dup3 fcntl lseek pipe2 splice",
        checked: [TCGETS, TIOCGWINSZ].map { Checked(call: "ioctl", argument: 1, value: UInt64($0)) })

    /// Unix sockets: ports, control, service manager.
    static let sockets = CallGroup(
        calls: """
            bind listen accept accept4 connect shutdown sendmsg sendmmsg recvmsg recvmmsg sendto recvfrom getsockopt \
            setsockopt getsockname getpeername
            """,
        checked: ["socket", "socketpair"].map { Checked(call: $0, argument: 0, value: UInt64(AF_UNIX)) })

    /// A socket's file with its mode, whatever the umask is, and with its owner. (Not chmod: a file's mode is changed
    /// by descriptor alone.)
    static let socketFiles = CallGroup(
        calls: "umask fchmod fchownat",
        checked: [Checked(call: "unshare", argument: 0, value: UInt64(CLONE_FS))])

    /// Of sockets and devices, the configuration, CPUs and nodes: which ones, is said to Landlock (`FileRules`).
    static let files = CallGroup(
        calls: """
            open openat openat2 stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink \
            readlinkat getdents64 getcwd unlink unlinkat fadvise64
            """)

    /// Who and where this process is.
    static let identity = CallGroup(
        calls: "getuid geteuid getgid getegid getgroups capget uname sysinfo getrandom getpgrp getsid",
        checked: [0, UInt64(getpid())].map { Checked(call: "prlimit64", argument: 0, value: $0) })

    /// /dev/vhost-net and /dev/vhost-vdpa-N, whose requests have one letter, and /dev/net/tun; whether there is an
    /// interface of a name.
    static let devices = CallGroup(
        checked: [Checked(call: "ioctl", argument: 1, value: 0xaf00, mask: 0xff00)]
            + [
                CPlat_TUNSETIFF, CPlat_TUNGETIFF, CPlat_TUNGETFEATURES, CPlat_TUNSETVNETHDRSZ, CPlat_TUNGETVNETHDRSZ,
                CPlat_TUNSETOFFLOAD, CPlat_TUNSETPERSIST, CPlat_TUNSETSNDBUF, UInt(SIOCGIFINDEX),
            ].map { Checked(call: "ioctl", argument: 1, value: UInt64($0)) })
}

extension CallGroup {
    /// From now on all threads of this process can make the calls of these groups alone. Errors: an errno value.
    static func enter(_ groups: [CallGroup]) -> Int32 {
        let refusal = 0x0005_0000 | UInt32(ENOSYS)  // SCMP_ACT_ERRNO
        guard let filter = seccomp_init(refusal) else { return ENOMEM }
        defer { seccomp_release(filter) }
        var status = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, refusal)
        // Nobody's code runs here that would read memory by guessing what a store does: the kernel need not slow down
        // loads for it, which it does by default before Linux 5.16.
        if status == 0 { status = seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1) }
        if status == 0 { status = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1) }
        for group in groups where status == 0 { status = group.add(to: filter) }
        if status == 0 { status = seccomp_load(filter) }
        return -status
    }

    private func add(to filter: scmp_filter_ctx) -> Int32 {
        for name in calls.split(separator: " ") {
            guard let number = CallGroup.number(String(name)) else { continue }
            let status = seccomp_rule_add_array(filter, CallGroup.allow, number, 0, nil)
            if status != 0 { return status }
        }
        for rule in checked {
            guard let number = CallGroup.number(rule.call) else { continue }
            var argument = scmp_arg_cmp(
                arg: rule.argument, op: SCMP_CMP_MASKED_EQ, datum_a: rule.mask, datum_b: rule.value)
            let status = seccomp_rule_add_array(filter, CallGroup.allow, number, 1, &argument)
            if status != 0 { return status }
        }
        return 0
    }

    private static let allow: UInt32 = 0x7fff_0000  // SCMP_ACT_ALLOW

    /// Nil: this architecture, or libseccomp, has none of that name.
    private static func number(_ name: String) -> Int32? {
        let number = seccomp_syscall_resolve_name(name)
        return number >= 0 ? number : nil
    }
}
