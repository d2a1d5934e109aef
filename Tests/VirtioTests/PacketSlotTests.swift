import CPlatform
import Testing
import Virtio

/// A frame whose bytes count up, in pieces of the given lengths; the burst that it lies in.
private final class Slotted {
    var burst = Burst()
    let frame: [UInt8]
    private let memory: UnsafeMutablePointer<UInt8>

    init(_ pieces: [Int]) {
        frame = (0..<pieces.reduce(0, +)).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ 1) }
        memory = .allocate(capacity: frame.count + 64)
        memory.update(from: frame, count: frame.count)
        let packet = burst.packets
        packet.pointee.place(UnsafeMutableRawPointer(memory), UInt32(frame.count))
        packet.pointee.dataLength = UInt32(pieces[0])
        var at = pieces[0]
        for (i, length) in pieces.dropFirst().enumerated() {
            burst.segments[i] = Segment(base: UnsafeMutableRawPointer(memory + at), length: UInt32(length))
            at += length
        }
        packet.pointee.more = burst.segments
        packet.pointee.moreCount = UInt16(pieces.count - 1)
        burst.segmentCount = pieces.count - 1
    }

    deinit { memory.deallocate() }

    var packet: UnsafeMutablePointer<PacketSlot> { burst.packets }

    /// The sender changes all of its memory.
    func overwrite() { memory.update(repeating: 0xee, count: frame.count) }

    /// What a receiver gets.
    var delivered: [UInt8] {
        var all: [UInt8] = []
        for i in 0..<packet.pointee.pieces {
            let s = packet.pointee.piece(i)!
            all += Array(UnsafeRawBufferPointer(start: s.base, count: Int(s.length)))
        }
        #expect(all.count == Int(packet.pointee.length))
        var room = [UInt8](repeating: 0, count: all.count + PacketSlot.headerLength)
        room.withUnsafeMutableBytes {
            var segment = Segment(base: $0.baseAddress!, length: UInt32($0.count))
            packet.write(to: &segment, 1)
        }
        #expect(Array(room[PacketSlot.headerLength...]) == all, "copied and walked")
        return all
    }
}

@Suite struct PacketSlotTests {
    static let shapes = [[64], [12, 52], [1, 1, 1, 61], [0, 64], [16, 0, 48], [300], [5, 295], [1514], [14]]

    @Test("a slot is a cache line")
    func size() { #expect(MemoryLayout<PacketSlot>.size == 64) }

    @Test("what was read into the front is what is delivered, whatever the sender does later", arguments: shapes)
    func singleFetch(_ pieces: [Int]) {
        for wanted in [1, 12, 14, 16, 17, 54, 64, 128, 256] {
            let s = Slotted(pieces)
            s.packet.pointee.loadFront(.wanted(wanted))
            let n = min(wanted, s.frame.count)
            #expect(s.packet.pointee.frontLength == n)
            s.overwrite()
            let rest = [UInt8](repeating: 0xee, count: s.frame.count - n)
            #expect(s.delivered == Array(s.frame[..<n]) + rest, "\(wanted) of \(pieces)")
        }
    }

    @Test("a front that is extended reads only what is new", arguments: shapes)
    func extended(_ pieces: [Int]) {
        let s = Slotted(pieces)
        s.packet.pointee.loadFront(.wanted(12))
        s.overwrite()
        let (is40, is257) = (s.packet.pointee.extendFront(to: 40), s.packet.pointee.extendFront(to: 257))
        #expect(is40 == (s.frame.count >= 40) && !is257)
        let rest = [UInt8](repeating: 0xee, count: s.frame.count - 12)
        #expect(s.delivered == Array(s.frame[..<12]) + rest)
    }

    @Test("any changes in any order leave the frame that an array would be", arguments: shapes)
    func edits(_ pieces: [Int]) {
        var random = SystemRandomNumberGenerator()
        let seed = random.next()
        var r = Random(seed: seed)
        for _ in 0..<200 {
            let s = Slotted(pieces)
            var model = s.frame
            s.packet.pointee.loadFront(.wanted(64))
            for _ in 0..<8 {
                let n = Int(r.next() % 70)
                switch r.next() % 5 {
                case 0:
                    if s.packet.pointee.prepend(n) { model = [UInt8](repeating: 0, count: n) + model }
                case 1:
                    if s.packet.pointee.removeFirst(n) { model.removeFirst(n) }
                case 2:
                    let to = Int(r.next() % 1600)
                    if s.packet.pointee.truncate(to: to) { model = Array(model[..<to]) }
                case 3:
                    if let tail = s.packet.pointee.append(n, &s.burst) {
                        memset(tail, 0x77, n)
                        model += [UInt8](repeating: 0x77, count: n)
                    }
                default: s.packet.pointee.extendFront(to: n)
                }
                #expect(Int(s.packet.pointee.length) == model.count)
                #expect(s.packet.pointee.received == s.frame.count, "bytes as it came, seed \(seed)")
            }
            #expect(s.delivered == model, "\(pieces), seed \(seed)")
        }
    }

    @Test("offsets of a partial checksum follow a header that goes on or comes off")
    func offload() {
        let s = Slotted([100])
        s.packet.pointee.header.flags = NetHeader.needsCsum
        s.packet.pointee.header.csumStart = 34
        s.packet.pointee.header.csumOffset = 16
        s.packet.pointee.header.hdrLen = 54
        s.packet.pointee.loadFront(.wanted(64))
        let p = s.packet
        let isLonger = p.pointee.prepend(4)
        #expect(isLonger)
        #expect(s.packet.pointee.header.csumStart == 38 && s.packet.pointee.header.hdrLen == 58)
        let isShorter = p.pointee.removeFirst(18)
        #expect(isShorter)
        #expect(s.packet.pointee.header.csumStart == 20 && s.packet.pointee.header.hdrLen == 40)
        let refused = (p.pointee.removeFirst(21), p.pointee.truncate(to: 37))
        #expect(!refused.0, "into the header that the checksum is of")
        #expect(!refused.1, "the checksum itself would go")
        let isCut = p.pointee.truncate(to: 38)
        #expect(isCut)
    }
}
