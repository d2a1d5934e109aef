import CPlatform
import Dataplane
import Foundation
import RingwayLab
import Synchronization
import Testing

/// Ringway killed at any moment under load, with a driver that polls in this process. (With guests: `RingwayRestarts`.)
@Suite(.serialized) struct Crashes {
    /// How often it is killed in each case; `RINGWAY_KILLS` says another number.
    private static let kills = ProcessInfo.processInfo.environment["RINGWAY_KILLS"].flatMap { Int($0) } ?? 10

    struct Case: CustomTestStringConvertible, Sendable {
        var isPacked: Bool
        var isInOrder: Bool
        var keepsInflight: Bool
        var testDescription: String {
            (isPacked ? "packed" : "split") + (isInOrder ? " in order" : "")
                + (keepsInflight ? ", with an inflight region" : "")
        }
    }
    static let cases = [true, false].flatMap { inflight in
        [(false, false), (false, true), (true, false), (true, true)].map {
            Case(isPacked: $0.0, isInOrder: $0.1, keepsInflight: inflight)
        }
    }

    @Test("no buffer is lost and none given back twice, whenever Ringway is killed", arguments: cases)
    func killed(_ c: Case) throws {
        let folder = Folder()
        let ports = ["vhost-user:\(folder("a"))"]
        var ringway = try Ringway(ports, mode: "macswap")
        var options = DriverOptions()
        options.ringSize = 256
        (options.isPacked, options.isInOrder, options.keepsInflight) = (c.isPacked, c.isInOrder, c.keepsInflight)
        let driver = try EmbeddedDriver(path: folder("a"), options)
        var next: UInt32 = 0
        for kill in 1...Crashes.kills {
            let isDead = Flag()
            let pid = ringway.program.pid
            Thread.detachNewThread {
                usleep(UInt32.random(in: 0...5000))
                Foundation.kill(pid, SIGKILL)
                isDead.value.store(true, ordering: .releasing)
            }
            while !isDead.value.load(ordering: .acquiring) {
                driver.exchange(from: &next)
            }
            ringway.program.end(SIGKILL)
            ringway = try Ringway(ports, mode: "macswap")
            try driver.reconnect()
            // All that was sent before comes back to the driver, and then what is sent now, too.
            #expect(driver.finishes(), "kill \(kill): \(driver.pairs[0].outstanding) are outstanding")
            let first = next
            var last: UInt32?
            let end = deadline(10)
            while last ?? 0 < first + 500, now < end { last = driver.exchange(from: &next) ?? last }
            #expect(last ?? 0 >= first + 500, "kill \(kill): traffic has not resumed")
            #expect(driver.pairs[0].transmit.defect.kind == .none && driver.pairs[0].receive.defect.kind == .none)
        }
        #expect(driver.finishes())
        #expect(ringway.complaints == [])
        _ = try ringway.totals()
    }
}

/// Front-ends that are killed at any moment, from their first message to full traffic, on one port of a Ringway whose
/// other port has a driver in this process that looks at what it gets.
@Suite(.serialized) struct FrontEndCrashes {
    /// How often a front-end is killed; `RINGWAY_FRONT_END_KILLS` says another number.
    private static let kills =
        ProcessInfo.processInfo.environment["RINGWAY_FRONT_END_KILLS"].flatMap { Int($0) } ?? 40

    /// What a process holds: descriptors, mappings, threads and resident KiB.
    private struct Held: CustomStringConvertible {
        let descriptors, mappings, threads, resident: Int
        init(_ pid: pid_t) {
            func entries(_ name: String) -> Int {
                (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/\(name)"))?.count ?? 0
            }
            func text(_ name: String) -> String {
                (try? String(contentsOfFile: "/proc/\(pid)/\(name)", encoding: .utf8)) ?? ""
            }
            (descriptors, threads) = (entries("fd"), entries("task"))
            mappings = text("maps").split(separator: "\n").count
            resident = Int(text("statm").split(separator: " ").dropFirst().first ?? "0").map { $0 * 4 } ?? 0
        }
        var description: String {
            "\(descriptors) descriptors, \(mappings) mappings, \(threads) threads, \(resident) KiB"
        }
    }

    @Test("a front-end killed in mid-traffic, again and again, leaves nothing behind, and another port notices nothing")
    func killed() throws {
        let folder = Folder()
        let ringway = try Ringway(["vhost-user:\(folder("a"))", "vhost-user:\(folder("b"))"], mode: "macswap")
        var options = DriverOptions()
        options.ringSize = 256
        let healthy = try EmbeddedDriver(path: folder("b"), options)
        var (next, seen) = (UInt32(0), UInt32(0))
        func goOn(for microseconds: Int) {
            let end = now + Double(microseconds) / 1e6
            repeat {
                if let last = healthy.exchange(from: &next) { seen = last }
            } while now < end
        }
        var before: Held?
        for kill in 1...Self.kills {
            let program = try Program(
                "drive",
                [Ringway.binary, "drive", folder("a"), "--seconds", "60", "--ring-size", "256"]
                    + (kill % 2 == 0 ? ["--packed"] : []))
            goOn(for: Int.random(in: 0...80_000))
            program.end(SIGKILL)
            // What the first ones leave is there once: a listener's log line, the allocator's arenas.
            if kill == 20 { before = Held(ringway.program.pid) }
        }
        let wanted = try #require(before)
        var after = Held(ringway.program.pid)
        let end = deadline(10)
        while after.descriptors > wanted.descriptors || after.mappings > wanted.mappings, now < end {
            goOn(for: 10_000)
            after = Held(ringway.program.pid)
        }
        print("\(Self.kills) front-ends killed: \(wanted), at last \(after)")
        #expect(after.descriptors <= wanted.descriptors && after.mappings <= wanted.mappings + 4, "\(after)")
        #expect(after.threads == wanted.threads && after.resident < wanted.resident + 8192, "\(wanted), then \(after)")
        #expect(healthy.finishes() && seen > 0)
        #expect(ringway.complaints == [])
        let totals = try ringway.totals()
        #expect(totals[0].rxPackets > 0 && totals[1].drops.keys.allSatisfy { $0 == "receiver full" }, "\(totals)")
    }
}

private final class Flag: Sendable {
    let value = Atomic(false)
}

extension EmbeddedDriver {
    /// Sends a burst of numbered frames as far as there is room, and takes what came back; the last number that did.
    @discardableResult
    fileprivate func exchange(from next: inout UInt32) -> UInt32? {
        let count = pairs[0].prepare(32)
        for k in 0..<count {
            let out = pairs[0].outgoing.start + k
            out.pointee.length = 60
            memset(out.pointee.base - 12, 0, 12)
            memset(out.pointee.base, 2, 60)
            out.pointee.base.storeBytes(of: next, toByteOffset: 20, as: UInt32.self)
            next &+= 1
        }
        if count > 0 { pairs[0].send(count) }
        return takeBack()
    }

    private func takeBack() -> UInt32? {
        let received = pairs[0].receiveBurst()
        let last = received > 0 ? pairs[0].incoming[received - 1].base.load(fromByteOffset: 20, as: UInt32.self) : nil
        pairs[0].giveBack()
        return last
    }

    /// Everything that was sent is given back within ten seconds.
    fileprivate func finishes() -> Bool {
        let end = deadline(10)
        while now < end {
            pairs[0].reclaim()
            _ = takeBack()
            if pairs[0].outstanding == 0 { return true }
            sched_yield()
        }
        return false
    }
}
