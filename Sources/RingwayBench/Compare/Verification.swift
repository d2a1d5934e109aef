import CPlatform
import Console
import Foundation
import Ringway
import RingwayLab

/// A fast wrong answer is worth nothing: before a case is measured, an embedded driver checks every byte that comes
/// back.
enum Verification {
    private static let frames = 2000

    /// Throws what was wrong.
    static func check(_ c: CompareCase, _ sockets: [String], by name: String) throws {
        var options = DriverOptions()
        options.queuePairs = c.queues
        options.isPacked = c.isPacked
        options.isInOrder = c.isInOrder
        do {
            let drivers = try sockets.map { try EmbeddedDriver(path: $0, options) }
            for pair in 0..<c.queues {
                let ends = drivers.map { $0.pairs + pair }
                switch c.mode {
                case "drop": try sink(c, ends[0])
                case "generate": try source(c, ends[0])
                default:
                    try exchange(c, from: ends[0], to: ends[ends.count - 1])
                    if ends.count > 1 { try exchange(c, from: ends[1], to: ends[0]) }
                }
            }
            for d in drivers { try d.stop() }
        } catch {
            throw CompareError("\(c.name): \(name) failed the check of payloads: \(error)")
        }
    }

    /// Bytes of frame `i`.
    private static func size(_ c: CompareCase, _ i: Int) -> Int {
        c.size ?? CompareCase.size(ofFrame: i)
    }

    /// What frame `i` holds: its MAC addresses, then bytes that follow from its number.
    private static func bytes(_ i: Int, _ size: Int) -> [UInt8] {
        let head: [UInt8] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]
        return (0..<size).map { $0 < 14 ? head[$0] : UInt8(truncatingIfNeeded: (i &* 31 &+ $0 &* 7) ^ (i >> 8)) }
    }

    private static func fill(_ frame: DriverBuffer, _ i: Int, _ size: Int) {
        CPlat_copy(frame.base, bytes(i, size), UInt64(size))
    }

    /// Sends frames that must come back whole and in order, with addresses exchanged in `macswap`.
    private static func exchange(_ c: CompareCase, from: DriverPairs, to: DriverPairs) throws {
        try warmUp(from, to)
        var (sent, received) = (0, 0)
        let deadline = CPlatClock.seconds + 10
        while received < frames {
            if CPlatClock.seconds > deadline { throw CompareError("\(received) of \(frames) frames came back") }
            let n = from.pair.prepare(min(32, frames - sent, 256 - (sent - received)))
            for k in 0..<max(0, n) {
                from.pair.outgoing[k].length = UInt32(size(c, sent))
                fill(from.pair.outgoing[k], sent, size(c, sent))
                sent += 1
            }
            if n > 0 { from.pair.send(n) }
            let got = to.pair.receiveBurst()
            for k in 0..<got {
                let frame = to.pair.incoming[k]
                var expected = bytes(received, size(c, received))
                if c.mode == "macswap" { expected[..<12] = expected[6..<12] + expected[..<6] }
                guard frame.length == size(c, received) else {
                    throw CompareError("frame \(received) has \(frame.length) bytes, not \(size(c, received))")
                }
                guard memcmp(frame.base, expected, Int(frame.length)) == 0 else {
                    throw CompareError("frame \(received) has other bytes than were sent")
                }
                received += 1
            }
            to.pair.giveBack()
        }
    }

    /// Sends a frame now and then until one arrives, and waits for the rest: a side may take a moment until its ports
    /// forward.
    private static func warmUp(_ from: DriverPairs, _ to: DriverPairs) throws {
        let deadline = CPlatClock.seconds + 10
        var quiet = 0
        var arrived = false
        while quiet < 20 {
            if CPlatClock.seconds > deadline { throw CompareError("nothing comes back") }
            if !arrived && from.pair.prepare(1) == 1 {
                from.pair.outgoing[0].length = 64
                fill(from.pair.outgoing[0], 0, 64)
                from.pair.send(1)
            }
            usleep(2_000)
            let n = to.pair.receiveBurst()
            to.pair.giveBack()
            arrived = arrived || n > 0
            quiet = arrived && n == 0 ? quiet + 1 : 0
        }
    }

    /// Sends frames of which all buffers must come back, and no frame.
    private static func sink(_ c: CompareCase, _ end: DriverPairs) throws {
        var sent = 0
        let deadline = CPlatClock.seconds + 10
        while sent < frames || end.pair.outstanding > 0 {
            if CPlatClock.seconds > deadline { throw CompareError("\(end.pair.outstanding) buffers did not come back") }
            let n = sent < frames ? end.pair.prepare(min(32, frames - sent)) : 0
            for k in 0..<n {
                end.pair.outgoing[k].length = UInt32(size(c, sent))
                fill(end.pair.outgoing[k], sent, size(c, sent))
                sent += 1
            }
            if n > 0 { end.pair.send(n) }
            end.pair.reclaim()
            if end.pair.receiveBurst() > 0 { throw CompareError("a frame came from a side that drops") }
        }
    }

    /// Receives frames, which must have the size that was asked for and be Ethernet frames of some IP.
    private static func source(_ c: CompareCase, _ end: DriverPairs) throws {
        var received = 0
        let deadline = CPlatClock.seconds + 10
        while received < frames {
            if CPlatClock.seconds > deadline { throw CompareError("\(received) of \(frames) frames came") }
            let n = end.pair.receiveBurst()
            for k in 0..<n {
                let frame = end.pair.incoming[k]
                guard frame.length == size(c, 0) else {
                    throw CompareError("a frame has \(frame.length) bytes, not \(size(c, 0))")
                }
                let type = frame.base.loadUnaligned(fromByteOffset: 12, as: UInt16.self)
                guard type == 0x0008 else {
                    throw CompareError("a frame has the type 0x\(String(type.byteSwapped, radix: 16))")
                }
            }
            received += n
            end.pair.giveBack()
        }
    }
}
