import CLiburing
import CPlatform
import Glibc
import Telemetry
import Virtio

/// A poll thread's io_uring: kicks come in as multishot polls of eventfds, calls go out as messages to the call
/// eventfds' own rings (`CallRing`), submitted together by one system call. Belongs to the thread that made it.
///
/// No request is ever left out: what the kernel does not take (it lacks memory, or room for completions) stays queued
/// and is handed over again, and the thread does not sleep meanwhile.
struct Notifier: ~Copyable {
    private let ring: OwnedIOUring
    /// What is written to eventfds of our own: the 64-bit 1 of eventfd(2).
    private let one = OwnedMemory<UInt64>(count: 1, repeating: 1)
    /// Requests that the kernel has not taken yet.
    private var queued = 0
    /// System calls that submitted or waited.
    var submits: CounterRow { CounterRow(submitsWord) }
    private let submitsWord = OwnedMemory<UInt64>(count: 1, repeating: 0)

    /// Off: each call is submitted at once, by a system call of its own. For comparison.
    var batchesCalls = true
    /// Calls that are queued: when they were decided on, and where their delay is recorded.
    private let waiting: OwnedMemory<WaitingCall>
    private var waitingCount = 0
    private let entries: Int
    /// Completions that were taken to make room for others, until the thread looks at them: those from `asideFirst`.
    private var aside: OwnedMemory<Completion>
    private var (asideFirst, asideEnd, asideRoom) = (0, 0, 64)

    // Not private: without optimisation the compiler (6.3.1) names its metadata from another file, and breaks off.
    struct WaitingCall: BitwiseCopyable {
        var since: UInt64
        var delays: LiveHistogram
    }

    /// user_data of a call, with the descriptor in the lower half. Only errors complete.
    private static var callTag: UInt64 { 0xffff_ffff_0000_0000 }
    /// Of what has no completion that matters: no descriptor has this number.
    private static var cancelTag: UInt64 { UInt64.max }

    /// The descriptor that wakes the thread: watched from the start.
    private let wakeFD: Int32

    /// `requests`: how many are queued at most.
    init(wakeFD: Int32, requests: Int) throws(EngineError) {
        let made = try OwnedIOUring(entries: UInt32(requests), completions: UInt32(8 * requests))
        // Without it calls would get lost in silence.
        let probe = io_uring_get_probe_ring(made.ring)
        defer { io_uring_free_probe(probe) }
        guard let probe, io_uring_opcode_supported(probe, Int32(IORING_OP_MSG_RING.rawValue)) != 0 else {
            throw EngineError("io_uring has no MSG_RING; Ringway needs Linux 5.18 or later")
        }
        self.init(made, wakeFD, requests)
    }

    private init(_ made: consuming OwnedIOUring, _ wakeFD: Int32, _ requests: Int) {
        self.wakeFD = wakeFD
        entries = requests
        ring = made
        aside = OwnedMemory(count: asideRoom)
        waiting = OwnedMemory(count: requests)
    }

    /// Room for one more request; submits what is queued when there is none.
    private mutating func request() -> UnsafeMutablePointer<io_uring_sqe> {
        queued &+= 1
        return ring.request() ?? makeRoom()
    }

    @inline(never)
    private mutating func makeRoom() -> UnsafeMutablePointer<io_uring_sqe> {
        // The one that finds no room is not queued yet.
        queued &-= 1
        while true {
            submit()
            if let sqe = ring.request() {
                queued &+= 1
                return sqe
            }
            sched_yield()
        }
    }

    /// A completion with `tag` for every event on `fd` until `unwatch`.
    mutating func watch(_ fd: Int32, tag: UInt64) {
        let sqe = request()
        io_uring_prep_poll_multishot(sqe, fd, UInt32(POLLIN))
        sqe.pointee.user_data = tag
    }

    /// One completion with `tag` when there is an event on `fd`, or has been.
    mutating func watchOnce(_ fd: Int32, tag: UInt64) {
        let sqe = request()
        io_uring_prep_poll_add(sqe, fd, UInt32(POLLIN))
        sqe.pointee.user_data = tag
    }

    /// The thread's own wake-up descriptor again.
    mutating func watchAgain(tag: UInt64) { watch(wakeFD, tag: tag) }

    mutating func unwatch(tag: UInt64) {
        let sqe = request()
        io_uring_prep_poll_remove(sqe, tag)
        sqe.pointee.user_data = Notifier.cancelTag
    }

    /// Queues a call.
    @inline(__always)
    mutating func call(_ calls: Calls) {
        calls.drain()
        call(ring: calls.fd)
    }

    @inline(__always)
    private mutating func call(ring fd: Int32) {
        let sqe = request()
        io_uring_prep_msg_ring(sqe, fd, 0, 0, 0)
        sqe.pointee.flags |= UInt8(1 << IOSQE_CQE_SKIP_SUCCESS_BIT)
        sqe.pointee.user_data = Notifier.callTag | UInt64(UInt32(bitPattern: fd))
    }

    /// Queues a call whose delay is recorded.
    @inline(__always)
    mutating func call(_ calls: Calls, _ delays: LiveHistogram) {
        call(calls)
        // No room: earlier ones wait for a kernel that takes nothing.
        if QueueTimes.areKept && waitingCount < entries {
            waiting[waitingCount] = WaitingCall(since: CPlat_cycles(), delays: delays)
            waitingCount &+= 1
        }
        if !batchesCalls { flush() }
    }

    /// Queues a write of an eventfd of our own.
    @inline(__always)
    mutating func call(_ fd: Int32) {
        let sqe = request()
        io_uring_prep_write(sqe, fd, one.start, 8, 0)
        sqe.pointee.rw_flags = Int32(CPlat_RWF_NOWAIT)
        sqe.pointee.flags |= UInt8(1 << IOSQE_CQE_SKIP_SUCCESS_BIT)
        // An error says that its counter is full, so that it is readable as it is.
        sqe.pointee.user_data = Notifier.cancelTag
    }

    /// Submits what is queued: one system call, none if there is nothing. What the kernel does not take now is
    /// submitted the next time.
    @inline(__always)
    mutating func flush() {
        if queued > 0 { submit() }
    }

    private mutating func submit() {
        submits.add(0, 1)
        if isTaken(io_uring_submit(ring.ring)) { return }
        // A signal, or no memory; or no room for completions, of which those that are here make some.
        setAside()
    }

    /// As `flush`, but returns when the kernel has everything.
    mutating func flushAll() {
        while queued > 0 {
            submit()
            if queued > 0 { sched_yield() }
        }
    }

    /// What a submit returned. False: something is left.
    private mutating func isTaken(_ status: Int32) -> Bool {
        if status > 0 { queued = max(0, queued &- Int(status)) }
        if queued > 0 { return false }
        if waitingCount > 0 { recordDelays() }
        return true
    }

    @inline(never)
    private mutating func setAside() {
        while let event = taken() {
            if asideEnd == asideRoom {
                let more = OwnedMemory<Completion>(count: 2 * asideRoom)
                more.start.initialize(from: aside.start, count: asideEnd)
                aside = more
                asideRoom *= 2
            }
            (aside.start + asideEnd).initialize(to: event)
            asideEnd &+= 1
        }
    }

    /// The queued calls have been made.
    private mutating func recordDelays() {
        let now = CPlat_cycles()
        var i = 0
        while i < waitingCount {
            waiting[i].delays.record(now &- waiting[i].since)
            i &+= 1
        }
        waitingCount = 0
    }

    /// Submits and sleeps until there is a completion, or `nanoseconds` have passed. Returns at once where the kernel
    /// does not take everything.
    mutating func wait(nanoseconds: UInt64?) {
        guard let nanoseconds else {
            submits.add(0, 1)
            _ = isTaken(io_uring_submit_and_wait(ring.ring, 1))
            return
        }
        submit()
        if queued > 0 { return }
        submits.add(0, 1)
        ring.wait(nanoseconds: nanoseconds)
    }

    /// Whether completions wait; reads memory only.
    @inline(__always)
    var hasCompletions: Bool { ring.hasCompletions || asideEnd > 0 }

    /// The next completion of a watch. Nil when there is none.
    mutating func next() -> Completion? {
        while let event = asideEnd > 0 ? older() : taken() {
            if event.tag < Notifier.callTag { return event }
            if event.tag != Notifier.cancelTag { callAgain(event) }
        }
        return nil
    }

    /// The first of those that were set aside.
    private mutating func older() -> Completion {
        let event = aside[asideFirst]
        asideFirst &+= 1
        if asideFirst == asideEnd { (asideFirst, asideEnd) = (0, 0) }
        return event
    }

    /// The next completion in the ring.
    private func taken() -> Completion? {
        if let completion = ring.completion() { return completion }
        if !ring.hasOverflowed { return nil }
        io_uring_get_events(ring.ring)
        return ring.completion()
    }

    /// A call that the kernel could not make for a passing reason. One whose ring is gone has nobody who waits for it;
    /// one whose ring is full of calls has been heard.
    @inline(never)
    private mutating func callAgain(_ event: Completion) {
        if ![-EAGAIN, -ENOMEM, -EINTR, -EBUSY].contains(event.result) { return }
        call(ring: Int32(bitPattern: UInt32(truncatingIfNeeded: event.tag)))
    }
}
