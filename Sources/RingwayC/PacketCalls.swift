import CPlatform
import CRingway
import Dataplane
import Virtio

/// The context behind a burst's address; nil unless its call is under way on this thread.
@inline(__always)
private func context(_ burst: OpaquePointer?) -> UnsafeMutablePointer<CContext>? {
    let address = UnsafeMutableRawPointer(burst)
    return CRingway_is_open(address) == 0 ? nil : address?.assumingMemoryBound(to: CContext.self)
}

/// A packet by its number: one of the burst's, or from `Burst.maximum` on one that was made; nil: there is none.
@inline(__always)
private func find(_ context: UnsafeMutablePointer<CContext>, _ number: UInt32) -> UnsafeMutablePointer<PacketSlot>? {
    let (n, made) = (Int(number), Int(number) &- Burst.maximum)
    let packets = context.pointee.packets
    if n < context.pointee.count { return packets + n }
    if made >= 0 && made < Int(context.pointee.burst.pointee.work.made) { return packets + n }
    return nil
}

private func closed(_ burst: OpaquePointer?) -> Int32 {
    (burst == nil ? RINGWAY_ERROR_ARGUMENT : RINGWAY_ERROR_CALLER).rawValue
}

@inline(__always)
private func possible(_ done: Bool) -> Int32 {
    (done ? RINGWAY_OK : RINGWAY_ERROR_IMPOSSIBLE).rawValue
}

@inline(__always)
private func view(_ slot: UnsafeMutablePointer<PacketSlot>) -> ringway_view {
    ringway_view(
        front: slot.pointee.frontBytes.assumingMemoryBound(to: UInt8.self),
        front_length: UInt32(truncatingIfNeeded: slot.pointee.frontLength), frame_length: slot.pointee.length)
}

// MARK: Bursts

@c @implementation
public func ringway_burst_info_get(_ burst: OpaquePointer!, _ info: UnsafeMutablePointer<ringway_burst_info>!) -> Int32
{
    guard let context = context(burst) else { return closed(burst) }
    guard let info else { return RINGWAY_ERROR_ARGUMENT.rawValue }
    let parts = context.pointee.parts.unsafelyUnwrapped
    var i = ringway_burst_info()
    i.count = UInt32(truncatingIfNeeded: parts.count)
    i.port = context.pointee.isTick ? UInt32.max : UInt32(truncatingIfNeeded: parts.port)
    i.pair = context.pointee.isTick ? 0 : UInt32(truncatingIfNeeded: parts.pair)
    i.ports = UInt32(truncatingIfNeeded: context.pointee.ports)
    (i.seconds, i.ticks) = (parts.seconds, parts.ticks)
    i.refused = PacketBurst(parts).refused
    return write(i, to: info).rawValue
}

@c @implementation
public func ringway_burst_views(_ burst: OpaquePointer!, _ views: UnsafeMutablePointer<ringway_view>!, _ room: Int)
    -> Int32
{
    guard let context = context(burst) else { return closed(burst) }
    let (count, packets) = (context.pointee.count, context.pointee.packets)
    if count == 0 { return 0 }
    guard let views else { return RINGWAY_ERROR_ARGUMENT.rawValue }
    if UInt(bitPattern: room) < UInt(bitPattern: count) { return RINGWAY_ERROR_RANGE.rawValue }
    var i = 0
    while i < count {
        views[i] = view(packets + i)
        i &+= 1
    }
    return Int32(truncatingIfNeeded: count)
}

@c @implementation
public func ringway_burst_decide(_ burst: OpaquePointer!, _ verdicts: UnsafePointer<UInt32>!, _ count: Int) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    let packets = context.pointee.packets
    if UInt(bitPattern: count) > UInt(bitPattern: context.pointee.count) { return RINGWAY_ERROR_RANGE.rawValue }
    if count == 0 { return RINGWAY_OK.rawValue }
    guard let verdicts else { return RINGWAY_ERROR_ARGUMENT.rawValue }
    var i = 0
    while i < count {
        if !context.pointee.isVerdict(verdicts[i]) { return RINGWAY_ERROR_RANGE.rawValue }
        i &+= 1
    }
    i = 0
    while i < count {
        packets[i].verdict = verdicts[i]
        i &+= 1
    }
    return RINGWAY_OK.rawValue
}

@c @implementation
public func ringway_burst_set(
    _ burst: OpaquePointer!, _ ports: UnsafePointer<UInt32>!, _ count: Int, _ verdict: UnsafeMutablePointer<UInt32>!
) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    guard let verdict else { return RINGWAY_ERROR_ARGUMENT.rawValue }
    if UInt(bitPattern: count) > UInt(PortSet.most) { return RINGWAY_ERROR_RANGE.rawValue }
    var set = PortSet()
    if count > 0 {
        guard let ports else { return RINGWAY_ERROR_ARGUMENT.rawValue }
        for i in 0..<count {
            if ports[i] >= min(context.pointee.ports, PortSet.most) { return RINGWAY_ERROR_RANGE.rawValue }
            set.insert(Int(ports[i]))
        }
    }
    let word = PacketBurst(context.pointee.parts.unsafelyUnwrapped).verdict(for: set)
    if word == .drop { return RINGWAY_ERROR_FULL.rawValue }
    verdict.pointee = word.rawValue
    return RINGWAY_OK.rawValue
}

@c @implementation
public func ringway_burst_add(_ burst: OpaquePointer!, _ counter: UInt32, _ n: UInt64) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    if Int(counter) >= context.pointee.counters { return RINGWAY_ERROR_RANGE.rawValue }
    PacketBurst(context.pointee.parts.unsafelyUnwrapped).count(Int(counter), Int(truncatingIfNeeded: n))
    return RINGWAY_OK.rawValue
}

@c @implementation
public func ringway_burst_is_up(_ burst: OpaquePointer!, _ port: UInt32) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    if Int(port) >= context.pointee.ports { return RINGWAY_ERROR_RANGE.rawValue }
    return PacketBurst(context.pointee.parts.unsafelyUnwrapped).isUp(Int(port)) ? 1 : 0
}

@c @implementation
public func ringway_burst_port_info(
    _ burst: OpaquePointer!, _ port: UInt32, _ to: UnsafeMutablePointer<ringway_port_info>!
) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    guard let to else { return RINGWAY_ERROR_ARGUMENT.rawValue }
    guard let info = PacketBurst(context.pointee.parts.unsafelyUnwrapped).info(of: Int(port)) else {
        return RINGWAY_ERROR_RANGE.rawValue
    }
    var i = ringway_port_info()
    (i.is_up, i.mtu, i.offloads) = (info.isUp ? 1 : 0, UInt32(info.mtu ?? 0), info.offloads.rawValue)
    let mac = info.mac?.rawValue ?? 0
    withUnsafeMutableBytes(of: &i.mac) { bytes in
        for k in 0..<6 { bytes[k] = UInt8(truncatingIfNeeded: mac &>> UInt64(8 &* k)) }
    }
    return write(i, to: to).rawValue
}

// MARK: Packets

@c @implementation
public func ringway_packet_look(_ burst: OpaquePointer!, _ packet: UInt32, _ to: UnsafeMutablePointer<ringway_view>!)
    -> Int32
{
    guard let context = context(burst) else { return closed(burst) }
    guard let slot = find(context, packet) else { return RINGWAY_ERROR_RANGE.rawValue }
    guard let to else { return RINGWAY_ERROR_ARGUMENT.rawValue }
    to.pointee = view(slot)
    return RINGWAY_OK.rawValue
}

@c @implementation
public func ringway_packet_decide(_ burst: OpaquePointer!, _ packet: UInt32, _ verdict: UInt32) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    guard let slot = find(context, packet) else { return RINGWAY_ERROR_RANGE.rawValue }
    if !context.pointee.isVerdict(verdict) { return RINGWAY_ERROR_RANGE.rawValue }
    slot.pointee.verdict = verdict
    return RINGWAY_OK.rawValue
}

@c @implementation
public func ringway_packet_extend(_ burst: OpaquePointer!, _ packet: UInt32, _ n: UInt32) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    guard let slot = find(context, packet) else { return RINGWAY_ERROR_RANGE.rawValue }
    return possible(slot.pointee.frontLength >= Int(n) || slot.pointee.extendFront(to: Int(n)))
}

@c @implementation
public func ringway_packet_prepend(_ burst: OpaquePointer!, _ packet: UInt32, _ bytes: UnsafeRawPointer!, _ n: UInt32)
    -> Int32
{
    guard let context = context(burst) else { return closed(burst) }
    guard let slot = find(context, packet) else { return RINGWAY_ERROR_RANGE.rawValue }
    guard let bytes else { return possible(slot.pointee.prepend(Int(n))) }
    if !slot.pointee.open(Int(n)) { return RINGWAY_ERROR_IMPOSSIBLE.rawValue }
    CPlat_copy(slot.pointee.frontBytes, bytes, UInt64(n))
    return RINGWAY_OK.rawValue
}

@c @implementation
public func ringway_packet_remove_first(_ burst: OpaquePointer!, _ packet: UInt32, _ n: UInt32) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    guard let slot = find(context, packet) else { return RINGWAY_ERROR_RANGE.rawValue }
    context.pointee.burst.pointee.work.isReviewed = 1
    return possible(slot.pointee.removeFirst(Int(n)))
}

@c @implementation
public func ringway_packet_append(
    _ burst: OpaquePointer!, _ packet: UInt32, _ n: UInt32, _ tail: UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>!
) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    guard let slot = find(context, packet) else { return RINGWAY_ERROR_RANGE.rawValue }
    guard let tail else { return RINGWAY_ERROR_ARGUMENT.rawValue }
    guard let at = slot.pointee.append(Int(n), &context.pointee.burst.pointee) else {
        return RINGWAY_ERROR_IMPOSSIBLE.rawValue
    }
    tail.pointee = at.assumingMemoryBound(to: UInt8.self)
    return RINGWAY_OK.rawValue
}

@c @implementation
public func ringway_packet_truncate(_ burst: OpaquePointer!, _ packet: UInt32, _ n: UInt32) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    guard let slot = find(context, packet) else { return RINGWAY_ERROR_RANGE.rawValue }
    context.pointee.burst.pointee.work.isReviewed = 1
    return possible(slot.pointee.truncate(to: Int(n)))
}

@c @implementation
public func ringway_packet_push_vlan(_ burst: OpaquePointer!, _ packet: UInt32, _ tag: UInt16, _ type: UInt16) -> Int32
{
    guard let context = context(burst) else { return closed(burst) }
    guard let slot = find(context, packet) else { return RINGWAY_ERROR_RANGE.rawValue }
    return possible(slot.pointee.pushTag(tag, type))
}

@c @implementation
public func ringway_packet_pop_vlan(_ burst: OpaquePointer!, _ packet: UInt32, _ tag: UnsafeMutablePointer<UInt16>!)
    -> Int32
{
    guard let context = context(burst) else { return closed(burst) }
    guard let slot = find(context, packet) else { return RINGWAY_ERROR_RANGE.rawValue }
    guard let popped = slot.pointee.popTag() else { return RINGWAY_ERROR_IMPOSSIBLE.rawValue }
    tag?.pointee = popped
    return RINGWAY_OK.rawValue
}

@c @implementation
public func ringway_packet_offload(
    _ burst: OpaquePointer!, _ packet: UInt32, _ partial_checksum: UnsafeMutablePointer<UInt32>!,
    _ segment_size: UnsafeMutablePointer<UInt32>!
) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    guard let slot = find(context, packet) else { return RINGWAY_ERROR_RANGE.rawValue }
    let header = slot.pointee.header
    partial_checksum?.pointee = header.flags & NetHeader.needsCsum != 0 ? 1 : 0
    segment_size?.pointee = header.gsoType == NetHeader.gsoNone ? 0 : UInt32(header.gsoSize)
    return RINGWAY_OK.rawValue
}

// A burst that is passed on needs no box on the heap, which one in a variable would get here.
private func copy(_ burst: borrowing PacketBurst, _ packet: Int) { _ = burst.copy(packet) }
private func originate(_ burst: borrowing PacketBurst, _ length: Int) { _ = burst.originate(length) }

@c @implementation
public func ringway_packet_copy(_ burst: OpaquePointer!, _ packet: UInt32, _ made: UnsafeMutablePointer<UInt32>!)
    -> Int32
{
    guard let context = context(burst) else { return closed(burst) }
    guard let made else { return RINGWAY_ERROR_ARGUMENT.rawValue }
    let parts = context.pointee.parts.unsafelyUnwrapped
    if Int(packet) >= parts.count { return RINGWAY_ERROR_RANGE.rawValue }
    let number = context.pointee.made
    copy(PacketBurst(parts), Int(packet))
    if context.pointee.made == number { return RINGWAY_ERROR_FULL.rawValue }
    made.pointee = number
    return RINGWAY_OK.rawValue
}

@c @implementation
public func ringway_packet_originate(_ burst: OpaquePointer!, _ length: UInt32, _ made: UnsafeMutablePointer<UInt32>!)
    -> Int32
{
    guard let context = context(burst) else { return closed(burst) }
    guard let made else { return RINGWAY_ERROR_ARGUMENT.rawValue }
    if !PacketSlot.madeLengths.contains(Int(length)) { return RINGWAY_ERROR_RANGE.rawValue }
    let parts = context.pointee.parts.unsafelyUnwrapped
    let number = context.pointee.made
    originate(PacketBurst(parts), Int(length))
    if context.pointee.made == number { return RINGWAY_ERROR_FULL.rawValue }
    made.pointee = number
    return RINGWAY_OK.rawValue
}
