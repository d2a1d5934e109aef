import CPlatform

/// A buffer as a descriptor tells of it, read once.
struct DescribedBuffer: BitwiseCopyable {
    var address: UInt64
    var length: UInt32
    var flags: UInt16
}

/// A descriptor of either format: 16 bytes, of which the first 8 are the buffer's address.
protocol RingDescriptor: BitwiseCopyable {
    var address: UInt64 { get }
    var length: UInt32 { get }
    var flags: UInt16 { get }
    init(_ first: UInt64, _ second: UInt64)
}

extension RingDescriptor {
    static var bytes: Int { 16 }
    /// Where length, flags and the rest lie in it, in bytes: one word.
    static var wordOffset: Int { 8 }
    /// Where the descriptor of a slot lies in its table or ring, in bytes.
    @inline(__always) static func offset(_ slot: Int) -> Int { bytes &* slot }
    @inline(__always) static func offset(_ slot: UInt32) -> Int { bytes &* Int(slot) }
    @inline(__always) static func offset(_ slot: UInt16) -> Int { bytes &* Int(slot) }

    /// Of a descriptor table or ring.
    @inline(__always)
    init(at p: UnsafeRawPointer) {
        let second = CPlat_load64_acquire(p + Self.wordOffset)
        self.init(CPlat_load64_relaxed(p), second)
    }

    /// Of an indirect table, for which no alignment is asked. What pointed there was read with acquire.
    @inline(__always)
    init(unaligned p: UnsafeRawPointer) {
        let second = CPlat_load64_unaligned(p + Self.wordOffset)
        self.init(CPlat_load64_unaligned(p), second)
    }

    @inline(__always) var buffer: DescribedBuffer { DescribedBuffer(address: address, length: length, flags: flags) }
}

/// `struct virtq_desc` (2.7.5), read once.
struct SplitDescriptor: RingDescriptor {
    var address: UInt64
    var length: UInt32
    var flags: UInt16
    var next: UInt16

    @inline(__always)
    init(_ first: UInt64, _ second: UInt64) {
        address = first
        length = UInt32(truncatingIfNeeded: second)
        flags = UInt16(truncatingIfNeeded: second >> 32)
        next = UInt16(truncatingIfNeeded: second >> 48)
    }

    /// Writes a descriptor that the device does not look at yet.
    @inline(__always)
    static func write(
        _ address: UInt64, _ length: UInt32, _ flags: UInt16, next: UInt16, to p: UnsafeMutableRawPointer
    ) {
        p.storeBytes(of: address, as: UInt64.self)
        let high = UInt64(flags) | UInt64(next) &<< 16
        (p + wordOffset).storeBytes(of: UInt64(length) | high &<< 32, as: UInt64.self)
    }
}

/// `struct pvirtq_desc` (2.8.13), read once.
struct PackedDescriptor: RingDescriptor {
    var address: UInt64
    var length: UInt32
    var id: UInt16
    var flags: UInt16

    /// Where `len`, `id` and `flags` lie in it, in bytes.
    static var lengthOffset: Int { wordOffset }
    static var idOffset: Int { 12 }
    static var flagsOffset: Int { 14 }

    @inline(__always)
    init(_ first: UInt64, _ second: UInt64) {
        address = first
        length = UInt32(truncatingIfNeeded: second)
        id = UInt16(truncatingIfNeeded: second >> 32)
        flags = UInt16(truncatingIfNeeded: second >> 48)
    }

    /// Length, id and flags as they lie in the descriptor's second half.
    @inline(__always)
    static func word(_ length: UInt32, _ id: UInt16, _ flags: UInt16) -> UInt64 {
        let high = UInt64(id) | UInt64(flags) &<< 16
        return UInt64(length) | high &<< 32
    }

    /// Marks a descriptor of a ring used, with nothing in it; what was written before is visible then.
    static func useEmpty(_ ring: UnsafeMutableRawPointer, _ place: PackedCursor, id: UInt16) {
        CPlat_store64_release(ring + offset(place.slot) + wordOffset, word(0, id, place.usedBits))
    }

    /// Writes a descriptor that the device does not look at yet.
    @inline(__always)
    static func write(
        _ address: UInt64, _ length: UInt32, id: UInt16, _ flags: UInt16, to p: UnsafeMutableRawPointer
    ) {
        p.storeBytes(of: address, as: UInt64.self)
        (p + wordOffset).storeBytes(of: word(length, id, flags), as: UInt64.self)
    }
}
