/// Descriptor flags (2.7.5, 2.8.1): VIRTQ_DESC_F_NEXT, _WRITE, _INDIRECT and, in packed rings, _AVAIL and _USED.
enum DescriptorFlag {
    static var next: UInt16 { 1 }
    static var write: UInt16 { 2 }
    static var indirect: UInt16 { 4 }
    static var available: UInt16 { 1 << 7 }
    static var used: UInt16 { 1 << 15 }
    /// AVAIL and USED: together with a wrap counter they say whose a packed ring's descriptor is.
    static var owner: UInt16 { available | used }
}

/// `flags` of a split ring's available and used ring (2.7.6, 2.7.8).
enum SplitRingFlag {
    /// VIRTQ_AVAIL_F_NO_INTERRUPT: the driver wants no calls.
    static var noInterrupt: UInt16 { 1 }
    /// VIRTQ_USED_F_NO_NOTIFY: the device wants no kicks.
    static var noNotify: UInt16 { 1 }
}

/// Where the fields of a split ring's available and used ring lie, in bytes (2.7.6, 2.7.8).
enum SplitRing {
    static var flags: Int { 0 }
    /// `idx`
    static var index: Int { 2 }
    /// `ring`
    static var entries: Int { 4 }
    /// Bytes of an available ring's entry, which is the head of a chain.
    static var availBytes: Int { 2 }
    /// Bytes of `used_event` and `avail_event`.
    static var eventBytes: Int { 2 }
    /// `ring[slot]` of the available ring.
    @inline(__always) static func avail(_ slot: UInt16) -> Int { entries &+ availBytes &* Int(slot) }
    /// `ring[slot]` of the used ring.
    @inline(__always) static func used(_ slot: UInt16) -> Int { entries &+ UsedElement.bytes &* Int(slot) }
    /// `used_event`, behind the available ring.
    @inline(__always) static func usedEvent(_ size: UInt32) -> Int { entries + availBytes * Int(size) }
    /// `avail_event`, behind the used ring.
    @inline(__always) static func availEvent(_ size: UInt32) -> Int { entries + UsedElement.bytes * Int(size) }
}

/// `struct virtq_used_elem` (2.7.8): a chain of a split ring that the device has used.
enum UsedElement {
    static var bytes: Int { 8 }
    /// Where `id` and `len` lie in it, in bytes.
    static var idOffset: Int { 0 }
    static var lengthOffset: Int { 4 }

    /// Both as one word.
    @inline(__always)
    static func word(_ id: UInt16, _ length: UInt32) -> UInt64 { UInt64(id) | UInt64(length) << 32 }
}

/// A slot of a packed ring with its wrap counter in bit 15, as it stands in event suppression structures, in
/// notification data and in vhost's ring bases.
enum PackedOffset {
    static var wrapBit: UInt16 { 1 << 15 }
    static var slotMask: UInt16 { wrapBit - 1 }

    @inline(__always)
    static func word(_ slot: UInt16, _ wrap: Bool) -> UInt16 { slot | (wrap ? wrapBit : 0) }
}

/// The event suppression structure of a packed ring (2.8.10), in one word: it is read and written whole, as offset,
/// wrap counter and flags belong together.
struct EventSuppression: BitwiseCopyable {
    var rawValue: UInt32
    static var bytes: Int { 4 }

    @inline(__always)
    init(rawValue: UInt32) { self.rawValue = rawValue }

    // Values of `flags`
    /// RING_EVENT_FLAGS_ENABLE
    static var flagsEnable: UInt32 { 0 }
    /// RING_EVENT_FLAGS_DISABLE
    static var flagsDisable: UInt32 { 1 }
    /// RING_EVENT_FLAGS_DESC: a notification at one descriptor only (with EVENT_IDX).
    static var flagsDesc: UInt32 { 2 }

    /// Every notification is wanted.
    @inline(__always) static var enable: EventSuppression { EventSuppression(rawValue: flagsEnable << 16) }
    /// None is wanted.
    @inline(__always) static var disable: EventSuppression { EventSuppression(rawValue: flagsDisable << 16) }
    /// One is wanted when the descriptor at `slot` of the lap `wrap` is written.
    @inline(__always)
    static func desc(_ slot: UInt16, _ wrap: Bool) -> EventSuppression {
        EventSuppression(rawValue: flagsDesc << 16 | UInt32(PackedOffset.word(slot, wrap)))
    }

    /// `flags`: bits 16 and 17; the others are reserved.
    @inline(__always) var flags: UInt32 { rawValue >> 16 & 3 }
    /// `desc_event_off`
    @inline(__always) var slot: UInt16 { UInt16(truncatingIfNeeded: rawValue) & PackedOffset.slotMask }
    /// `desc_event_wrap`
    @inline(__always) var wrap: Bool { rawValue & UInt32(PackedOffset.wrapBit) != 0 }
}

/// What a kick carries with NOTIFICATION_DATA (2.9): `vqn` in bits 0–15, `next_off` and `next_wrap` in bits 16–31.
enum NotificationData {
    static func word(_ queueIndex: UInt16, _ next: UInt16) -> UInt32 { UInt32(queueIndex) | UInt32(next) << 16 }
}
