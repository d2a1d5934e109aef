import CPlatform
import Virtio

/// A device side that is as plain as the specification's text: slow, trusting, for tests of the
/// driver side. Positions are absolute (never wrapping) and reduced where memory is touched.
struct ReferenceDevice {
    struct Piece {
        var base: UnsafeMutableRawPointer
        var length: Int
        var isWritable: Bool
    }
    struct Chain {
        var id: UInt16
        /// Ring descriptors that it takes.
        var slots: Int
        var pieces: [Piece]
        var isIndirect: Bool
    }

    let ring: RingSetup
    /// What the driver adds to its addresses.
    let delta: UInt64
    /// Split: chains. Packed: descriptors.
    var available = 0
    var used = 0
    /// `used` at the last decision to call.
    var called = 0

    init(_ ring: RingSetup, delta: UInt64) {
        self.ring = ring
        self.delta = delta
    }

    var size: Int { Int(ring.size) }

    private func descriptor(_ table: UnsafeMutableRawPointer, _ i: Int) -> (UInt64, UInt32, UInt16, UInt16) {
        let at = table + 16 * i
        return (
            at.load(as: UInt64.self), (at + 8).load(as: UInt32.self), (at + 12).load(as: UInt16.self),
            (at + 14).load(as: UInt16.self)
        )
    }
    private func host(_ address: UInt64) -> UnsafeMutableRawPointer {
        UnsafeMutableRawPointer(bitPattern: UInt(address &- delta))!
    }
    /// Wrap counter of an absolute packed position.
    private func wrap(_ position: Int) -> Bool { (position / size) % 2 == 0 }

    mutating func pop() -> Chain? { ring.isPacked ? popPacked() : popSplit() }

    private mutating func popSplit() -> Chain? {
        let index = CPlat_load16_acquire(ring.driverArea + 2)
        if index == UInt16(truncatingIfNeeded: available) { return nil }
        let head = (ring.driverArea + 4 + 2 * (available % size)).load(as: UInt16.self)
        available += 1
        var chain = Chain(id: head, slots: 0, pieces: [], isIndirect: false)
        var table = ring.descriptors
        var i = Int(head)
        while true {
            let (address, length, flags, next) = descriptor(table, i)
            if table == ring.descriptors { chain.slots += 1 }
            if flags & 4 != 0 {
                chain.isIndirect = true
                table = host(address)
                i = 0
                continue
            }
            chain.pieces.append(Piece(base: host(address), length: Int(length), isWritable: flags & 2 != 0))
            if flags & 1 == 0 { return chain }
            i = Int(next)
        }
    }

    private mutating func popPacked() -> Chain? {
        func isAvailable(_ position: Int) -> Bool {
            let flags = CPlat_load16_acquire(ring.descriptors + 16 * (position % size) + 14)
            return (flags & 0x80 != 0) == wrap(position) && (flags & 0x8000 != 0) != wrap(position)
        }
        guard isAvailable(available) else { return nil }
        var chain = Chain(id: 0, slots: 0, pieces: [], isIndirect: false)
        while true {
            precondition(isAvailable(available), "a chain was shown before it was complete")
            let (address, length, id, flags) = descriptor(ring.descriptors, available % size)
            available += 1
            chain.slots += 1
            chain.id = id
            if flags & 4 != 0 {
                chain.isIndirect = true
                for i in 0..<Int(length) / 16 {
                    let (a, l, _, f) = descriptor(host(address), i)
                    chain.pieces.append(Piece(base: host(a), length: Int(l), isWritable: f & 2 != 0))
                }
            } else {
                chain.pieces.append(Piece(base: host(address), length: Int(length), isWritable: flags & 2 != 0))
            }
            if flags & 1 == 0 { return chain }
        }
    }

    /// Returns chains with one used entry: a batch when there are several (IN_ORDER, 2.7.9 and 2.8.7).
    mutating func use(_ chains: [Chain], length: UInt32) {
        let last = chains.last!
        if ring.isPacked {
            let at = ring.descriptors + 16 * (used % size)
            (at + 8).storeBytes(of: length, as: UInt32.self)
            (at + 12).storeBytes(of: last.id, as: UInt16.self)
            let flags: UInt16 = (wrap(used) ? 0x8080 : 0) | (length > 0 ? 2 : 0)
            CPlat_store16_release(at + 14, flags)
            used += chains.reduce(0) { $0 + $1.slots }
        } else {
            let at = ring.deviceArea + 4 + 8 * (used % size)
            at.storeBytes(of: UInt32(last.id), as: UInt32.self)
            (at + 4).storeBytes(of: length, as: UInt32.self)
            used += chains.count
            CPlat_store16_release(ring.deviceArea + 2, UInt16(truncatingIfNeeded: used))
        }
    }

    /// Asks for a kick at the next available chain, or for none.
    func arm(_ wanted: Bool) {
        let hasEvent = ring.features.contains(.eventIdx)
        if ring.isPacked {
            let position = UInt32(available % size) | (wrap(available) ? 0x8000 : 0)
            CPlat_store32_release(ring.deviceArea, !wanted ? 1 << 16 : hasEvent ? position | 2 << 16 : 0)
        } else if hasEvent {
            let event = wanted ? available : available + 0x8000
            CPlat_store16_release(ring.deviceArea + 4 + 8 * size, UInt16(truncatingIfNeeded: event))
        } else {
            CPlat_store16_release(ring.deviceArea, wanted ? 0 : 1)
        }
    }

    /// Whether the driver wants a call for what was used since the last decision.
    mutating func shouldCall() -> Bool {
        let old = called
        called = used
        if old == used { return false }
        if ring.isPacked {
            let wish = CPlat_load32_acquire(ring.driverArea)
            switch wish >> 16 & 3 {
            case 0: return true
            case 2: break
            default: return false
            }
            let offset = Int(wish & 0x7fff)
            // The absolute position that the driver means: the one of this lap or the last, by wrap.
            var event = used / size * size + offset
            if wrap(event) != (wish & 0x8000 != 0) { event -= size }
            return old <= event && event < used
        }
        if ring.features.contains(.eventIdx) {
            let event = CPlat_load16_acquire(ring.driverArea + 4 + 2 * size)
            return (old..<used).contains { UInt16(truncatingIfNeeded: $0) == event }
        }
        return CPlat_load16_acquire(ring.driverArea) & 1 == 0
    }
}
