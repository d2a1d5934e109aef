import CPlatform
import CRefusal
import Control
import Glibc
import Ringway
import Testing

/// The kernel does not take io_uring's requests when it is asked: no memory, no room for completions, a signal. The
/// test decides about each io_uring_enter(2) of the engine's threads; nothing is built into the product for it.
@Suite(.serialized, .enabled(if: CRefusal_isThere(), "needs seccomp's user notifications"))
struct RefusedRequestsTests {
    struct Case: CustomTestStringConvertible, Sendable {
        let name: String
        let errors: [Int32]
        /// Room for so many requests, and eight times as many completions.
        var requests = 1024
        var testDescription: String { "\(name), \(requests) requests" }
    }

    private static let kinds = [
        Case(name: "EINTR", errors: [EINTR]), Case(name: "EAGAIN", errors: [EAGAIN]),
        Case(name: "EBUSY", errors: [EBUSY]), Case(name: "ENOMEM", errors: [ENOMEM]),
        Case(name: "all", errors: [EINTR, EAGAIN, EBUSY, ENOMEM]),
    ]
    static let cases = kinds.flatMap { c in
        [2, 1024].map { Case(name: c.name, errors: c.errors, requests: $0) }
    }

    @Test("no kick and no call is lost, of a sleeping thread's ring", arguments: cases, [false, true])
    func kicksAndCalls(_ c: Case, isPacked: Bool) throws {
        try Refusals(c.errors).during {
            let lab = try Lab(ports: 1, .drop, busyloop: .sleep, requests: c.requests)
            let d = try WaitingDriver(
                lab.paths[0], .init(isPacked: isPacked, hasEventIdx: false, isReceive: false, busyloop: .sleep))
            try d.start(withCall: true)
            #expect(d.isCalled, "at the start")
            for n in 0..<100 {
                d.offer(1 + n % 3)
                try #require(eventually { d.queue.hasUsed }, "kick \(n) was lost")
                try #require(d.isCalled, "call \(n) was lost")
                d.reclaimAll()
            }
            // Over a restart, too.
            try d.stop()
            try d.start(withCall: true)
            #expect(d.isCalled, "at the restart")
        }
    }

    @Test(
        "kicks of 40 rings at once, more than there is room for, are all taken, and all are called",
        arguments: [Case(name: "all", errors: [EINTR, EAGAIN, EBUSY, ENOMEM], requests: 2)])
    func overflow(_ c: Case) throws {
        try Refusals(c.errors).during {
            let lab = try Lab(ports: 40, .drop, busyloop: .sleep, requests: c.requests)
            let drivers = try lab.paths.map {
                try WaitingDriver($0, .init(isPacked: false, hasEventIdx: false, isReceive: false, busyloop: .sleep))
            }
            for d in drivers { try d.start(withCall: true) }
            for (i, d) in drivers.enumerated() { #expect(d.isCalled, "ring \(i) at its start") }
            for n in 0..<10 {
                for d in drivers { d.offer(1) }
                for (i, d) in drivers.enumerated() {
                    try #require(eventually { d.queue.hasUsed }, "kick \(n) of ring \(i) was lost")
                    try #require(d.isCalled, "call \(n) of ring \(i) was lost")
                    d.reclaimAll()
                }
            }
        }
    }

    @Test("parcels between threads that sleep come through, in order", arguments: cases)
    func parcels(_ c: Case) throws {
        try Refusals(c.errors).during {
            let lab = try Lab(
                ports: 2, .crossconnect, pairs: [2, 1], busyloop: .sleep, unpinned: 2, requests: c.requests)
            let a = try lab.driver(0) { $0.queuePairs = 2 }
            let b = try lab.driver(1)
            for n in 0..<20 {
                let frames = Frame.numbered(30, first: 100 * n)
                #expect(a.send(frames, pair: n % 2))
                let got = b.receive(30).map(\.frame)
                try #require(got == frames, "round \(n): \(got.count) frames")
            }
        }
    }

    @Test("commands of a control queue, its call, and the err descriptor of a ring that stops", arguments: cases)
    func control(_ c: Case) throws {
        try Refusals(c.errors).during {
            let lab = try Lab(ports: 1, .drop, pairs: [2], busyloop: .sleep, requests: c.requests)
            let a = try lab.driver(0) {
                $0.queuePairs = 2
                $0.hasControl = true
            }
            for n in 0..<20 { #expect(a.command(4, 0, [UInt8(1 + n % 2), 0]) == 0, "command \(n)") }
            // Another call descriptor is written at once.
            let call = OwnedDescriptor(CPlat_eventfd(0))
            try a.frontEnd.tell(.setVringCall, Payload(4), [call])
            #expect(readable(call.fd), "the control queue's call was lost")
            let err = OwnedDescriptor(CPlat_eventfd(0))
            try a.frontEnd.tell(.setVringErr, Payload(1), [err])
            // The available index is further ahead than the ring is long.
            a.pairs[0].transmit.deviceSetup().driverArea.storeBytes(of: 1000, toByteOffset: 2, as: UInt16.self)
            let kick = OwnedDescriptor(CPlat_eventfd(1))
            try a.frontEnd.tell(.setVringKick, Payload(1), [kick])
            #expect(readable(err.fd), "the err descriptor was not written")
        }
    }

    private func readable(_ fd: Int32) -> Bool {
        var p = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
        return poll(&p, 1, 5000) == 1
    }
}

/// Runs a body on a thread whose io_uring_enter(2) fails three times of four, as do those of the threads that the body
/// makes.
private final class Refusals: Sendable {
    private let errors: [Int32]
    private struct State {
        var supervisor: Int32?
        var failure: (any Error)?
        var isOver = false
    }
    private let state = Locked(State())

    init(_ errors: [Int32]) { self.errors = errors }

    func during(_ body: @escaping () throws -> Void) throws {
        nonisolated(unsafe) let body = body
        let thread = try NamedThread("refused") {
            let fd = CRefusal_begin()
            self.state.withLock { $0.supervisor = fd }
            if fd >= 0 {
                do { try body() } catch { self.state.withLock { $0.failure = error } }
            }
            self.state.withLock { $0.isOver = true }
        }
        let refused = serve()
        thread.join()
        if let failure = state.withLock({ $0.failure }) { throw failure }
        #expect(refused > 20, "hardly any request was refused")
    }

    /// Decides until the body is over; returns how many were refused.
    private func serve() -> Int {
        while state.withLock({ $0.supervisor == nil }) { usleep(100) }
        let fd = state.withLock { $0.supervisor! }
        guard fd >= 0 else {
            Issue.record("seccomp: \(String(cString: strerror(errno)))")
            return 0
        }
        // Threads that still wait when it is closed get ENOSYS: after a minute the body hangs.
        defer { close(fd) }
        let end = CPlat_monotonic_ns() + 60_000_000_000
        var (id, submitted): (UInt64, UInt32) = (0, 0)
        var (n, refused) = (0, 0)
        while !state.withLock({ $0.isOver }) && CPlat_monotonic_ns() < end {
            guard CRefusal_next(fd, 10, &id, &submitted) else { continue }
            // One that only waits is left alone, or a thread that has nothing to do would go round and round.
            let isRefused = n % 4 != 3 && (submitted > 0 || n % 64 < 8)
            CRefusal_answer(fd, id, isRefused ? errors[refused % errors.count] : 0)
            n += 1
            if isRefused { refused += 1 }
        }
        return refused
    }
}
