import Ringway

/// Any changes, in any order, of a packet in any pieces, whose sender overwrites its memory between them: the frame
/// stays what an array would be that is changed alike; what was read once stays as it was read, and what was not is
/// what the sender has there at the end. Pieces lie in memory that is exactly as long (AddressSanitizer).
@Sendable func fuzzEdits(_ given: Input) -> Int32 {
    var input = given
    let bench = EditBench.shared
    bench.begin(&input)
    defer { bench.end() }
    var changes = 0
    while !input.isEmpty && changes < 64 {
        changes += 1
        bench.change(&input)
    }
    bench.check(bench.burst.packets, bench.model)
    for i in 0..<bench.copies.count { bench.check(bench.burst.packets + Burst.maximum + i, bench.copies[i]) }
    return 0
}

/// A burst of one packet, its pieces, and what they are to be.
private final class EditBench {
    nonisolated(unsafe) static let shared = EditBench()
    /// A byte of a frame: one that was read or written, or a place in the sender's memory.
    enum Byte: Equatable {
        case known(UInt8)
        case sender(UnsafeMutablePointer<UInt8>)
    }
    var burst = Burst()
    var model: [Byte] = []
    var copies: [[Byte]] = []
    private var pieces: [UnsafeMutableBufferPointer<UInt8>] = []

    private var packet: UnsafeMutablePointer<PacketSlot> { burst.packets }

    func begin(_ input: inout Input) {
        burst.segmentCount = 0
        burst.work = FunctionWork()
        let count = 1 + Int(input.byte() % 6)
        for _ in 0..<count {
            let length = input.byte() & 3 == 0 ? input.below(2000) : Int(input.byte() % 40)
            let piece = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: length)
            for i in 0..<length { piece[i] = UInt8(truncatingIfNeeded: i &* 7) }
            pieces.append(piece)
        }
        model = pieces.flatMap { piece in piece.indices.map { .sender(piece.baseAddress! + $0) } }
        let base = pieces.map { UnsafeMutableRawPointer($0.baseAddress!) }
        packet.pointee.place(base[0], UInt32(model.count))
        packet.pointee.dataLength = UInt32(pieces[0].count)
        for i in 1..<count { burst.segments[i - 1] = Segment(base: base[i], length: UInt32(pieces[i].count)) }
        (packet.pointee.more, packet.pointee.moreCount) = (burst.segments, UInt16(count - 1))
        burst.segmentCount = count - 1
        if input.byte() & 1 == 0 {
            packet.pointee.header.flags = NetHeader.needsCsum
            packet.pointee.header.csumStart = UInt16(input.byte())
            packet.pointee.header.csumOffset = UInt16(input.byte() % 32)
            if input.byte() & 3 == 0 { packet.pointee.header.gsoType = NetHeader.gsoTCPv4 }
        }
        let wanted = Int(input.byte())
        if wanted > 0 {
            packet.loadFronts(1, .wanted(wanted))
            learn(min(wanted, model.count))
        }
    }

    func end() {
        for piece in pieces { piece.deallocate() }
        pieces = []
        (model, copies) = ([], [])
    }

    /// The first `n` bytes were read.
    private func learn(_ n: Int) {
        for i in 0..<n { if case .sender(let p) = model[i] { model[i] = .known(p.pointee) } }
    }

    func change(_ input: inout Input) {
        let n = Int(input.byte()) - 8
        switch input.byte() % 9 {
        case 0: if packet.pointee.prepend(n) { model.insert(contentsOf: zeroes(n), at: 0) }
        case 1: if packet.pointee.removeFirst(n) { model.removeFirst(n) }
        case 2:
            let to = input.below(3000) - 10
            if packet.pointee.truncate(to: to) { model.removeLast(model.count - to) }
        case 3:
            if let tail = packet.pointee.append(n, &burst) {
                tail.storeBytes(of: 0x77, as: UInt8.self)
                model += [.known(0x77)] + zeroes(n - 1)
            }
        case 4:
            packet.pointee.extendFront(to: n)
            learn(packet.pointee.frontLength)
        case 5:
            if packet.pointee.pushTag(0x1234, 0x8100) {
                model.insert(contentsOf: [0x81, 0, 0x12, 0x34].map { .known($0) }, at: 12)
            }
        case 6: if packet.pointee.popTag() != nil { model.removeSubrange(12..<16) }
        case 7:
            // The sender writes where it may.
            for piece in pieces where !piece.isEmpty { piece[Int(input.byte()) % piece.count] = input.byte() }
        default:
            if copies.count < Burst.maximum,
                (packet + Burst.maximum + copies.count).pointee.take(packet.pointee, &burst)
            {
                copies.append(model)
                _ = (packet + Burst.maximum + copies.count - 1).pointee.prepend(0)
            }
        }
        precondition(Int(packet.pointee.length) == model.count, "a length that is not that of the frame")
        precondition(packet.pointee.frontLength <= model.count)
        // The front is private memory: none of it changes with the sender's.
        for i in 0..<packet.pointee.frontLength {
            guard case .known = model[i] else { fatalError("a byte of the front that was not read") }
        }
    }

    private func zeroes(_ n: Int) -> [Byte] { [Byte](repeating: .known(0), count: max(0, n)) }

    /// What a receiver gets, by the one copy and over small buffers.
    func check(_ packet: UnsafeMutablePointer<PacketSlot>, _ model: [Byte]) {
        let wanted = model.map { byte in
            switch byte {
            case .known(let value): return value
            case .sender(let p): return p.pointee
            }
        }
        precondition(packet.pointee.received >= 0)
        for room in [wanted.count + PacketSlot.headerLength, 7] {
            let total = wanted.count + PacketSlot.headerLength
            let to = UnsafeMutableRawPointer.allocate(byteCount: total, alignment: 1)
            defer { to.deallocate() }
            var segments = stride(from: 0, to: total, by: room).map {
                Segment(base: to + $0, length: UInt32(min(room, total - $0)))
            }
            packet.write(to: &segments, segments.count)
            let got = UnsafeRawBufferPointer(start: to + PacketSlot.headerLength, count: wanted.count)
            precondition(got.elementsEqual(wanted), "another frame than the changes make")
        }
    }
}
