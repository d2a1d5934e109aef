import CPlatform

/// What became of the packets handed to `deliver`.
public struct Delivery: BitwiseCopyable {
    /// Entries of the list that were dealt with, delivered or not; the rest found no receive buffers.
    public var consumed: Int
    public var delivered: Int
    /// Bytes of the delivered frames, without net headers.
    public var bytes: UInt64

    public init(consumed: Int, delivered: Int, bytes: UInt64) {
        self.consumed = consumed
        self.delivered = delivered
        self.bytes = bytes
    }
}

/// The device side of one virtqueue, split or packed: a plain value that belongs to one thread.
///
/// Nothing here calls the system, allocates or locks. Everything read from the ring is read once
/// into a local and checked; on a defect the queue stops (`defect` says why), and every later call
/// does nothing.
public struct DeviceQueue: @unchecked Sendable {
    let descriptors: UnsafeMutableRawPointer
    let driverArea: UnsafeMutableRawPointer
    let deviceArea: UnsafeMutableRawPointer
    public let size: UInt32
    public let isPacked: Bool
    public let features: Features
    let headerLength: UInt32
    let hasEventIdx: Bool
    let hasIndirect: Bool
    let isMergeable: Bool
    let isInOrder: Bool

    public private(set) var map: MemoryMap
    var translation: Translation
    let usedLogAddress: UInt64?

    /// Next available index (split, free-running) or slot (packed).
    var available: UInt16
    var availableWrap: Bool
    var used: UInt16
    var usedWrap: Bool
    /// Split: where `used` stood when the last notification decision was made.
    var usedAtCall: UInt16
    /// Packed: slots used since then.
    var slotsSinceCall: UInt32
    /// Split: the driver's available index as it was read last: while it tells enough, the line that the driver
    /// writes for each of its bursts is left to it.
    var seen: UInt16
    /// Split: the used index that the driver was told; behind `used` while completions are held back.
    var published: UInt16
    /// Packed and in order: where the completions that are held back begin, and the id of the last.
    var heldFrom: PackedCursor?
    var heldId: UInt16
    /// The next decision is to call: the ring has only just started, and its driver may wait for what an earlier life
    /// of the ring did without telling.
    var mustCall = true
    /// Split: whether the driver was told not to kick (used.flags); packed: what the device area says.
    var kicksSuppressed: Bool

    /// Why the queue stopped; `.none` while it works.
    public internal(set) var defect: RingDefect

    public init(_ setup: RingSetup) {
        descriptors = setup.descriptors
        driverArea = setup.driverArea
        deviceArea = setup.deviceArea
        size = setup.size
        isPacked = setup.isPacked
        features = setup.features
        headerLength = UInt32(setup.features.netHeaderLength)
        hasEventIdx = setup.features.contains(.eventIdx)
        hasIndirect = setup.features.contains(.indirectDesc)
        isMergeable = setup.features.contains(.mrgRxbuf)
        isInOrder = setup.features.contains(.inOrder)
        map = setup.map
        translation = Translation(setup.map)
        usedLogAddress = setup.usedLogAddress
        available = setup.position.available
        availableWrap = setup.position.availableWrap
        used = setup.position.used
        usedWrap = setup.position.usedWrap
        usedAtCall = setup.position.used
        slotsSinceCall = 0
        seen = setup.position.available
        published = setup.position.used
        heldFrom = nil
        heldId = 0
        kicksSuppressed = false
        defect = .none
    }

    /// Where the ring stands; valid when every popped chain was completed and nothing is held back.
    public var position: RingPosition {
        RingPosition(available: available, used: used, availableWrap: availableWrap, usedWrap: usedWrap)
    }

    /// Uses another map from now on (slots were added).
    public mutating func use(_ map: MemoryMap) {
        self.map = map
        translation = Translation(map)
    }

    /// Stops the queue for a reason found outside the ring core.
    public mutating func stop(_ reason: RingDefect) {
        if defect.kind == .none { defect = reason }
    }

    @inline(never)
    mutating func fail(_ kind: RingDefect.Kind, _ index: UInt32, _ value: UInt64, _ length: UInt32 = 0) {
        if defect.kind == .none { defect = RingDefect(kind, index: index, value: value, length: length) }
    }

    // MARK: Both formats

    /// Fills `burst` with up to `limit` packets of the driver's transmit chains. With `leave` the newest chains (in
    /// packed rings: descriptors) are left for later, and nothing is taken unless `least` can be. Returns the number.
    public mutating func popTransmit(_ burst: inout Burst, limit: Int, leave: Int = 0, least: Int = 1) -> Int {
        if !isPacked { return popTransmitSplit(&burst, limit, leave, least) }
        // Looks at one line, which the driver is not about to write if the answer is yes.
        if leave > 0 && !hasAvailable(ahead: least &+ leave &- 1) { return 0 }
        return popTransmitPacked(&burst, leave > 0 ? min(limit, least) : limit)
    }

    /// Whether the driver has made something available `n` entries (split) or descriptors (packed) further on.
    public func hasAvailable(ahead n: Int) -> Bool {
        if n >= Int(size) { return hasWork }
        if !isPacked { return Int(seen &- available) > n || Int(CPlat_load16_acquire(driverArea + 2) &- available) > n }
        var cursor = availableCursor
        cursor.advance(UInt32(truncatingIfNeeded: n), size)
        return isAvailable(CPlat_load16_acquire(descriptors + 16 * Int(cursor.slot) + 14), cursor.wrap)
    }

    /// Takes the last `count` popped chains back into the ring, as if they had not been popped: the
    /// next pop reads and checks them anew. Nothing after them may have been completed.
    public mutating func unpop(_ packets: UnsafePointer<Packet>, _ count: Int) {
        if !isPacked {
            available = available &- UInt16(truncatingIfNeeded: count)
            return
        }
        var slots: UInt32 = 0
        var i = 0
        while i < count {
            slots &+= UInt32(packets[i].slots)
            i &+= 1
        }
        var cursor = availableCursor
        slots = cursor.goRound(slots, size)
        if slots > cursor.slot {
            cursor = PackedCursor(slot: cursor.slot &+ size &- slots, wrap: !cursor.wrap)
        } else {
            cursor.slot &-= slots
        }
        availableCursor = cursor
    }

    /// Hands `count` popped chains back to the driver, in the order they were popped. It is told at once, unless they
    /// are held back (`bestHold`) until `publishHeld`.
    public mutating func complete(_ packets: UnsafePointer<Packet>, _ count: Int, hold: Bool = false) {
        if isPacked { completePacked(packets, count, hold) } else { completeSplit(packets, count, hold) }
    }

    /// How many completions it pays to hold back under load: telling the driver of many at a time takes fewer writes to
    /// lines that it reads. 0: none can be, as each has a line of its own. Found with `tools/compare`; with more than
    /// 128 DPDK's in-order driver becomes slower.
    public var bestHold: Int { isPacked ? (isInOrder ? 128 : 0) : 256 }

    /// Chains (split) or descriptors (packed) that were completed and that the driver was not told.
    @inline(__always)
    public var held: Int {
        if !isPacked { return Int(used &- published) }
        guard let from = heldFrom else { return 0 }
        let n = Int(used) &- Int(from.slot)
        return from.wrap == usedWrap ? n : n &+ Int(size)
    }

    /// Tells the driver of what is held back.
    public mutating func publishHeld() {
        if isPacked { publishHeldPacked() } else if used != published { publishUsedSplit(used) }
    }

    /// Copies the listed packets of `burst` into the driver's receive buffers and publishes them once.
    /// A packet that does not fit the buffers (without MRG_RXBUF) is consumed, but not delivered.
    /// `burst` is only read, so several threads may deliver it at once, each with a scratch and queues of its own.
    public mutating func deliver(
        _ burst: Burst, _ list: UnsafePointer<UInt16>, _ count: Int, with scratch: DeliveryScratch
    ) -> Delivery {
        isPacked ? deliverPacked(burst, list, count, scratch) : deliverSplit(burst, list, count, scratch)
    }

    /// The next decision calls. For a new call descriptor: whatever was decided before, nobody may have heard of it.
    public mutating func forgetCalls() { mustCall = true }

    /// Whether the driver wants a call for what was published since the last question. Ask once a burst. The first
    /// answer after the ring's start is yes.
    public mutating func needsCall() -> Bool {
        // The used entries must be visible before the driver's wish is read: store-load order (2.7.10, 2.8.10).
        CPlat_fence_full()
        let isWanted = isPacked ? needsCallPacked() : needsCallSplit()
        if mustCall {
            mustCall = false
            return true
        }
        return isWanted
    }

    /// Asks the driver to kick, then looks again: true if there is work already, so that no kick is lost.
    public mutating func armKicks() -> Bool {
        kicksSuppressed = false
        if isPacked {
            let wish: EventSuppression = hasEventIdx ? .desc(available, availableWrap) : .enable
            CPlat_store32_relaxed(deviceArea, wish.rawValue)
        } else if hasEventIdx {
            CPlat_store16_relaxed(deviceArea + 4 + 8 * Int(size), available)
        } else {
            CPlat_store16_relaxed(deviceArea, 0)
        }
        // The wish must be visible before the ring is read again: store-load order (2.7.7.2, 2.8.10).
        CPlat_fence_full()
        return hasWork
    }

    /// Asks the driver not to kick; a hint (2.7.7, 2.8.10).
    public mutating func suppressKicks() {
        if kicksSuppressed { return }
        kicksSuppressed = true
        if isPacked {
            CPlat_store32_relaxed(deviceArea, EventSuppression.disable.rawValue)
        } else if !hasEventIdx {
            CPlat_store16_relaxed(deviceArea, SplitRingFlag.noNotify)
        }
        // Split with EVENT_IDX: an avail_event that stays behind is enough.
    }

    /// Whether the driver has made something available that was not popped yet.
    public var hasWork: Bool {
        if defect.kind != .none { return false }
        if isPacked { return isAvailable(CPlat_load16_acquire(descriptors + 16 * Int(available) + 14), availableWrap) }
        return CPlat_load16_acquire(driverArea + 2) != available
    }

    @inline(__always)
    func isAvailable(_ flags: UInt16, _ wrap: Bool) -> Bool {
        let bits = flags & DescriptorFlag.owner
        return bits == (wrap ? DescriptorFlag.available : DescriptorFlag.used)
    }
}
