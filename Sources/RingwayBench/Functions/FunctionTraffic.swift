import CPlatform
import Console
import Ringway
import RingwayLab

/// Sends a case's packets from port 0 and takes them at port 1, on the calling thread.
struct FunctionTraffic: ~Copyable {
    /// What differs from packet to packet: bytes 24 to 39, from the header checksum to the UDP length.
    struct Tail: BitwiseCopyable {
        var low: UInt64
        var high: UInt64
    }

    private let work: FunctionWork
    private let size: Int
    private let tails: OwnedMemory<Tail>
    /// What all have: MAC addresses, and IPv4 up to the protocol.
    private let front: (UInt64, UInt64, UInt64)
    private let count: Int
    private var next = 0

    init(_ work: FunctionWork, size: Int) {
        (self.work, self.size) = (work, size)
        let frames = work.flows.map { FunctionTraffic.frame($0, size: size) }
        count = frames.count
        front = frames[0].withUnsafeBytes {
            (
                $0.loadUnaligned(as: UInt64.self), $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self),
                $0.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
            )
        }
        tails = OwnedMemory(
            frames.map { frame in
                frame.withUnsafeBytes {
                    Tail(
                        low: $0.loadUnaligned(fromByteOffset: 24, as: UInt64.self),
                        high: $0.loadUnaligned(fromByteOffset: 32, as: UInt64.self))
                }
            })
    }

    /// The headers of a UDP packet, 42 bytes.
    private static func frame(_ flow: FunctionWork.Flow, size: Int) -> [UInt8] {
        func two(_ v: Int) -> [UInt8] { [UInt8(v >> 8 & 255), UInt8(v & 255)] }
        func four(_ a: IPv4Address) -> [UInt8] { two(Int(a.rawValue >> 16)) + two(Int(a.rawValue & 0xffff)) }
        var ip: [UInt8] = [0x45, 0] + two(size - 14) + [0, 0, 0, 0, 64, 17, 0, 0]
        ip += four(flow.source) + four(flow.destination)
        var sum = Checksum()
        ip.withUnsafeBytes { if let start = $0.baseAddress { sum.add(start, 20) } }
        ip.replaceSubrange(10..<12, with: two(Int(sum.value)))
        return [2, 0, 0, 0, 0, 0x10, 2, 0, 0, 0, 0, 0, 8, 0] + ip + two(Int(flow.sourcePort))
            + two(Int(flow.destinationPort)) + two(size - 34) + [0, 0]
    }

    /// Up to `n` packets; returns how many found room.
    @inline(__always)
    private mutating func send(_ n: Int, by pair: inout DriverPair) -> Int {
        let n = pair.prepare(n)
        var i = 0
        while i < n {
            let tail = tails[next]
            next = next &+ 1 == count ? 0 : next &+ 1
            let base = pair.outgoing[i].base
            base.storeBytes(of: front.0, as: UInt64.self)
            base.storeBytes(of: front.1, toByteOffset: 8, as: UInt64.self)
            base.storeBytes(of: front.2, toByteOffset: 16, as: UInt64.self)
            base.storeBytes(of: tail.low, toByteOffset: 24, as: UInt64.self)
            base.storeBytes(of: tail.high, toByteOffset: 32, as: UInt64.self)
            pair.outgoing[i].length = UInt32(truncatingIfNeeded: size)
            i &+= 1
        }
        if n > 0 { pair.send(n) }
        return n
    }

    // MARK: Measuring

    struct Counted {
        var received = 0
        var seconds = 0.0
        /// Of the rounds, those that found the ring too full for a burst: who is measured could not do more.
        var fullRounds = 0
        var rounds = 0
    }

    /// As many as `side` takes for `seconds`, in bursts of 32.
    mutating func saturate(_ side: FunctionSide, seconds: Double) -> Counted {
        var count = Counted()
        let (from, to) = (side.drivers[0].pairs, side.drivers[1].pairs)
        let start = CPlatClock.seconds
        repeat {
            for _ in 0..<64 {
                count.rounds &+= 1
                if send(32, by: &from.pair) < 32 { count.fullRounds &+= 1 }
                count.received &+= to.pair.receiveBurst()
                to.pair.giveBack()
            }
            count.seconds = CPlatClock.seconds - start
        } while count.seconds < seconds && !Signals.haveCome
        return count
    }

    /// Until nothing is under way.
    func settle(_ side: FunctionSide) {
        _ = Load.settle(Load.Flow(from: side.drivers[0].pairs, to: side.drivers[1].pairs))
    }

    // MARK: Checking

    /// Sends each flow once, and checks that each packet leaves as it should, in order: with other MAC addresses, a
    /// hop less and a valid header checksum, the rest as it came.
    mutating func check(_ side: FunctionSide) throws {
        let (from, to) = (side.drivers[0].pairs, side.drivers[1].pairs)
        let frames = work.flows.map { FunctionTraffic.frame($0, size: size) }
        next = 0
        var (sent, came) = (0, 0)
        let end = CPlatClock.seconds + 10
        while came < frames.count {
            if sent == came { sent += send(min(32, frames.count - sent), by: &from.pair) }
            for k in 0..<to.pair.receiveBurst() {
                let frame = to.pair.incoming[k]
                let bytes = [UInt8](UnsafeRawBufferPointer(start: frame.base, count: Int(frame.length)))
                if bytes.count != size || !isRight(Array(bytes.prefix(42)), frames[came]) {
                    throw CompareError(
                        "\(side.name), \(work.text): packet \(came) left as \(bytes.prefix(42)), it came as "
                            + "\(frames[came])")
                }
                came += 1
            }
            to.pair.giveBack()
            if CPlatClock.seconds > end {
                throw CompareError("\(side.name), \(work.text): \(came) of \(frames.count) packets came within 10 s")
            }
            if Signals.haveCome { throw Interrupted() }
        }
    }

    private func isRight(_ left: [UInt8], _ came: [UInt8]) -> Bool {
        var sum = Checksum()
        left.withUnsafeBytes { if let start = $0.baseAddress { sum.add(start + 14, 20) } }
        let isSame = left[12..<22] == came[12..<22] && left[23] == came[23] && left[26...] == came[26...]
        return isSame && left[22] == came[22] - 1 && sum.value == 0 && left[..<12] != came[..<12]
    }
}
