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

/// Does something with a packet: one of the burst's, or from `Burst.maximum` on one that was made.
@inline(__always)
private func withPacket(
    _ burst: OpaquePointer?, _ number: UInt32,
    _ body: (borrowing Packet, UnsafeMutablePointer<CContext>) -> ringway_code
) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    let parts = context.pointee.parts.unsafelyUnwrapped
    let (n, made) = (Int(number), Int(number) &- Burst.maximum)
    let packets = PacketBurst(parts)
    if n < parts.count { return body(packets[n], context).rawValue }
    if made >= 0 && made < Int(parts.burst.pointee.work.made) { return body(packets.made(made), context).rawValue }
    return RINGWAY_ERROR_RANGE.rawValue
}

private func closed(_ burst: OpaquePointer?) -> Int32 {
    (burst == nil ? RINGWAY_ERROR_ARGUMENT : RINGWAY_ERROR_CALLER).rawValue
}

@inline(__always)
private func possible(_ done: Bool) -> ringway_code { done ? RINGWAY_OK : RINGWAY_ERROR_IMPOSSIBLE }

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
    let parts = context.pointee.parts.unsafelyUnwrapped
    if parts.count == 0 { return 0 }
    guard let views else { return RINGWAY_ERROR_ARGUMENT.rawValue }
    if UInt(bitPattern: room) < UInt(parts.count) { return RINGWAY_ERROR_RANGE.rawValue }
    var i = 0
    while i < parts.count {
        views[i] = view(parts.packets + i)
        i &+= 1
    }
    return Int32(truncatingIfNeeded: parts.count)
}

@c @implementation
public func ringway_burst_decide(_ burst: OpaquePointer!, _ verdicts: UnsafePointer<UInt32>!, _ count: Int) -> Int32 {
    guard let context = context(burst) else { return closed(burst) }
    let parts = context.pointee.parts.unsafelyUnwrapped
    if UInt(bitPattern: count) > UInt(parts.count) { return RINGWAY_ERROR_RANGE.rawValue }
    if count == 0 { return RINGWAY_OK.rawValue }
    guard let verdicts else { return RINGWAY_ERROR_ARGUMENT.rawValue }
    var i = 0
    while i < count {
        if !context.pointee.isVerdict(verdicts[i], parts.burst) { return RINGWAY_ERROR_RANGE.rawValue }
        i &+= 1
    }
    i = 0
    while i < count {
        parts.packets[i].verdict = verdicts[i]
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

// MARK: Packets

@c @implementation
public func ringway_packet_look(_ burst: OpaquePointer!, _ packet: UInt32, _ to: UnsafeMutablePointer<ringway_view>!)
    -> Int32
{
    withPacket(burst, packet) { packet, _ in
        guard let to else { return RINGWAY_ERROR_ARGUMENT }
        to.pointee = view(packet.place)
        return RINGWAY_OK
    }
}

@c @implementation
public func ringway_packet_decide(_ burst: OpaquePointer!, _ packet: UInt32, _ verdict: UInt32) -> Int32 {
    withPacket(burst, packet) { packet, context in
        if !context.pointee.isVerdict(verdict, context.pointee.parts.unsafelyUnwrapped.burst) {
            return RINGWAY_ERROR_RANGE
        }
        packet.verdict = Verdict(rawValue: verdict)
        return RINGWAY_OK
    }
}

@c @implementation
public func ringway_packet_extend(_ burst: OpaquePointer!, _ packet: UInt32, _ n: UInt32) -> Int32 {
    withPacket(burst, packet) { packet, _ in possible(packet.extend(to: Int(n))) }
}

@c @implementation
public func ringway_packet_prepend(
    _ burst: OpaquePointer!, _ packet: UInt32, _ bytes: UnsafeRawPointer!, _ n: UInt32
) -> Int32 {
    withPacket(burst, packet) { packet, _ in
        guard let bytes else { return possible(packet.prepend(Int(n))) }
        if !packet.place.pointee.open(Int(n)) { return RINGWAY_ERROR_IMPOSSIBLE }
        CPlat_copy(packet.place.pointee.frontBytes, bytes, UInt64(n))
        return RINGWAY_OK
    }
}

@c @implementation
public func ringway_packet_remove_first(_ burst: OpaquePointer!, _ packet: UInt32, _ n: UInt32) -> Int32 {
    withPacket(burst, packet) { packet, _ in possible(packet.removeFirst(Int(n))) }
}

@c @implementation
public func ringway_packet_append(
    _ burst: OpaquePointer!, _ packet: UInt32, _ n: UInt32, _ tail: UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>!
) -> Int32 {
    withPacket(burst, packet) { packet, context in
        guard let tail else { return RINGWAY_ERROR_ARGUMENT }
        let parts = context.pointee.parts.unsafelyUnwrapped
        guard let at = packet.place.pointee.append(Int(n), &parts.burst.pointee) else {
            return RINGWAY_ERROR_IMPOSSIBLE
        }
        tail.pointee = at.assumingMemoryBound(to: UInt8.self)
        return RINGWAY_OK
    }
}

@c @implementation
public func ringway_packet_truncate(_ burst: OpaquePointer!, _ packet: UInt32, _ n: UInt32) -> Int32 {
    withPacket(burst, packet) { packet, _ in possible(packet.truncate(to: Int(n))) }
}

@c @implementation
public func ringway_packet_push_vlan(_ burst: OpaquePointer!, _ packet: UInt32, _ tag: UInt16, _ type: UInt16) -> Int32
{
    withPacket(burst, packet) { packet, _ in possible(packet.pushVLAN(tag, type: type)) }
}

@c @implementation
public func ringway_packet_pop_vlan(_ burst: OpaquePointer!, _ packet: UInt32, _ tag: UnsafeMutablePointer<UInt16>!)
    -> Int32
{
    withPacket(burst, packet) { packet, _ in
        guard let popped = packet.popVLAN() else { return RINGWAY_ERROR_IMPOSSIBLE }
        tag?.pointee = popped
        return RINGWAY_OK
    }
}

@c @implementation
public func ringway_packet_offload(
    _ burst: OpaquePointer!, _ packet: UInt32, _ partial_checksum: UnsafeMutablePointer<UInt32>!,
    _ segment_size: UnsafeMutablePointer<UInt32>!
) -> Int32 {
    withPacket(burst, packet) { packet, _ in
        partial_checksum?.pointee = packet.hasPartialChecksum ? 1 : 0
        segment_size?.pointee = UInt32(truncatingIfNeeded: packet.segmentSize)
        return RINGWAY_OK
    }
}

@c @implementation
public func ringway_packet_copy(_ burst: OpaquePointer!, _ packet: UInt32, _ made: UnsafeMutablePointer<UInt32>!)
    -> Int32
{
    guard let context = context(burst) else { return closed(burst) }
    guard let made else { return RINGWAY_ERROR_ARGUMENT.rawValue }
    let parts = context.pointee.parts.unsafelyUnwrapped
    if Int(packet) >= parts.count { return RINGWAY_ERROR_RANGE.rawValue }
    let number = UInt32(Burst.maximum) &+ UInt32(parts.burst.pointee.work.made)
    let packets = PacketBurst(parts)
    if packets.copy(Int(packet)) == nil { return RINGWAY_ERROR_FULL.rawValue }
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
    let number = UInt32(Burst.maximum) &+ UInt32(parts.burst.pointee.work.made)
    let packets = PacketBurst(parts)
    if packets.originate(Int(length)) == nil { return RINGWAY_ERROR_FULL.rawValue }
    made.pointee = number
    return RINGWAY_OK.rawValue
}
