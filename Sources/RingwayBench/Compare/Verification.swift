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

    private typealias Pair = UnsafeMutablePointer<DriverPair>

    /// Bytes of frame `i`.
    private static func size(_ c: CompareCase, _ i: Int) -> Int {
        c.size ?? CompareCase.size(ofFrame: i)
    }

    /// What frame `i` holds: its MAC addresses, then bytes that follow from its number.
    private static func fill(_ p: UnsafeMutableRawPointer, _ i: Int, _ size: Int) {
        let head: [UInt8] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]
        for k in 0..<size {
            p.storeBytes(
                of: k < 14 ? head[k] : UInt8(truncatingIfNeeded: (i &* 31 &+ k &* 7) ^ (i >> 8)), toByteOffset: k,
                as: UInt8.self)
        }
    }

    /// Sends frames that must come back whole and in order, with addresses exchanged in `macswap`.
    private static func exchange(_ c: CompareCase, from: Pair, to: Pair) throws {
        let room = OwnedMemory<UInt8>(count: 2048)
        let expected = UnsafeMutableRawPointer(room.start)
        try warmUp(from, to)
        var (sent, received) = (0, 0)
        let end = CPlatClock.seconds + 10
        while received < frames {
            if CPlatClock.seconds > end { throw CompareError("\(received) of \(frames) frames came back") }
            let n = from.pointee.prepare(min(32, frames - sent, 256 - (sent - received)))
            for k in 0..<max(0, n) {
                from.pointee.outgoing[k].length = UInt32(size(c, sent))
                fill(from.pointee.outgoing[k].base, sent, size(c, sent))
                sent += 1
            }
            if n > 0 { from.pointee.send(n) }
            let got = to.pointee.receiveBurst()
            for k in 0..<got {
                let frame = to.pointee.incoming[k]
                fill(expected, received, size(c, received))
                if c.mode == "macswap" { swapMACs(expected) }
                guard frame.length == size(c, received) else {
                    throw CompareError("frame \(received) has \(frame.length) bytes, not \(size(c, received))")
                }
                guard memcmp(frame.base, expected, Int(frame.length)) == 0 else {
                    throw CompareError("frame \(received) has other bytes than were sent")
                }
                received += 1
            }
            to.pointee.giveBack()
        }
    }

    /// Sends a frame now and then until one arrives, and waits for the rest: a side may take a moment until its ports
    /// forward.
    private static func warmUp(_ from: Pair, _ to: Pair) throws {
        let end = CPlatClock.seconds + 10
        var quiet = 0
        var arrived = false
        while quiet < 20 {
            if CPlatClock.seconds > end { throw CompareError("nothing comes back") }
            if !arrived && from.pointee.prepare(1) == 1 {
                from.pointee.outgoing[0].length = 64
                fill(from.pointee.outgoing[0].base, 0, 64)
                from.pointee.send(1)
            }
            usleep(2_000)
            let n = to.pointee.receiveBurst()
            to.pointee.giveBack()
            arrived = arrived || n > 0
            quiet = arrived && n == 0 ? quiet + 1 : 0
        }
    }

    private static func swapMACs(_ p: UnsafeMutableRawPointer) {
        for k in 0..<6 {
            let b = p.load(fromByteOffset: k, as: UInt8.self)
            p.storeBytes(of: p.load(fromByteOffset: 6 + k, as: UInt8.self), toByteOffset: k, as: UInt8.self)
            p.storeBytes(of: b, toByteOffset: 6 + k, as: UInt8.self)
        }
    }

    /// Sends frames of which all buffers must come back, and no frame.
    private static func sink(_ c: CompareCase, _ pair: Pair) throws {
        var sent = 0
        let end = CPlatClock.seconds + 10
        while sent < frames || pair.pointee.outstanding > 0 {
            if CPlatClock.seconds > end { throw CompareError("\(pair.pointee.outstanding) buffers did not come back") }
            let n = sent < frames ? pair.pointee.prepare(min(32, frames - sent)) : 0
            for k in 0..<n {
                pair.pointee.outgoing[k].length = UInt32(size(c, sent))
                fill(pair.pointee.outgoing[k].base, sent, size(c, sent))
                sent += 1
            }
            if n > 0 { pair.pointee.send(n) }
            pair.pointee.reclaim()
            if pair.pointee.receiveBurst() > 0 { throw CompareError("a frame came from a side that drops") }
        }
    }

    /// Receives frames, which must have the size that was asked for and be Ethernet frames of some IP.
    private static func source(_ c: CompareCase, _ pair: Pair) throws {
        var received = 0
        let end = CPlatClock.seconds + 10
        while received < frames {
            if CPlatClock.seconds > end { throw CompareError("\(received) of \(frames) frames came") }
            let n = pair.pointee.receiveBurst()
            for k in 0..<n {
                let frame = pair.pointee.incoming[k]
                guard frame.length == size(c, 0) else {
                    throw CompareError("a frame has \(frame.length) bytes, not \(size(c, 0))")
                }
                let type = frame.base.loadUnaligned(fromByteOffset: 12, as: UInt16.self)
                guard type == 0x0008 else {
                    throw CompareError("a frame has the type 0x\(String(type.byteSwapped, radix: 16))")
                }
            }
            received += n
            pair.pointee.giveBack()
        }
    }
}
