import CPlatform
import Memory
import Virtio

/// A queue pair of which Ringway is the driver: rings and buffers in memory that the back-end maps. Belongs to
/// the poll thread that owns the pair. What the back-end writes is checked as a guest's writing is.
struct DriverEnd: ~Copyable {
    var receive: DriverQueue
    var transmit: DriverQueue
    /// Kicks of the two rings.
    let receiveKick: Calls
    let transmitKick: Calls
    private let isMergeable: Bool
    private let buffers: DriverBuffers

    /// Used receive buffers in their order: those from `first` were popped and not completed, those from `next` were
    /// not popped yet. Free-running indexes.
    private let used: OwnedMemory<DriverCompletion>
    private let usedMask: Int
    private var first = 0
    private var next = 0
    private var end = 0
    /// The packet at `next` waits for more of its buffers.
    private var isUnfinished = false
    /// Calls were asked for.
    private var isArmed = false
    private let scratch: OwnedMemory<DriverBuffer>
    private let completions: OwnedMemory<DriverCompletion>
    private let segments: OwnedMemory<Segment>

    /// Free transmit buffers, and the buffer after each in the chain that it is part of (`none`: the last).
    private let free: OwnedMemory<UInt32>
    private var freeCount: Int
    private let following: OwnedMemory<UInt32>
    private static var none: UInt32 { UInt32.max }
    /// 64 KiB in buffers of 2 KiB, with a header.
    private static var mostBuffers: Int { 64 }
    /// Buffers of one packet at most.
    private let longestChain: Int

    /// `memory` has `buffers.bytes` from `start` on, where the rings are zeroed; it outlives this.
    init(
        _ buffers: DriverBuffers, features: Features, memory: HostMemory, at start: Int, delta: UInt64,
        receiveKick: Calls, transmitKick: Calls
    ) {
        self.buffers = buffers.placed(in: memory, at: start)
        let rings = memory.base + start
        self.receiveKick = receiveKick
        self.transmitKick = transmitKick
        isMergeable = features.contains(.mrgRxbuf)
        let size = buffers.size
        receive = DriverQueue(size: size, isPacked: buffers.isPacked, memory: rings, features: features, delta: delta)
        transmit = DriverQueue(
            size: size, isPacked: buffers.isPacked, memory: rings + buffers.ringBytes, features: features, delta: delta
        )
        // The whole ring, and room for one more reclaim.
        var capacity = 128
        while capacity < Int(size) + Burst.maximum { capacity *= 2 }
        usedMask = capacity - 1
        used = OwnedMemory(count: capacity)
        scratch = OwnedMemory(count: Burst.maximum)
        completions = OwnedMemory(count: Burst.maximum)
        longestChain = min(DriverEnd.mostBuffers, Int(size))
        segments = OwnedMemory(count: longestChain)
        free = OwnedMemory(count: Int(size))
        following = OwnedMemory(count: Int(size), repeating: DriverEnd.none)
        freeCount = Int(size)
        for place in 0..<Int(size) { free[place] = UInt32(Int(size) - 1 - place) }
        for token in 0..<size { post(token) }
        receive.publish()
        receive.suppressCalls()
        transmit.suppressCalls()
    }

    @inline(__always)
    private mutating func post(_ token: UInt32) {
        scratch[0] = buffers.receive(token)
        _ = receive.addReceive(scratch.start, 1)
    }

    /// Of the ring of a direction: what can be done there now. To the back-end: descriptors that are free. From it:
    /// used buffers that were not taken, 1 if there are any more.
    func waiting(_ direction: QueueDirection) -> Int {
        direction == .receive ? Int(transmit.free) : end &- next + (receive.hasUsed ? 1 : 0)
    }

    // MARK: From the back-end

    /// Fills `burst` with up to `limit` received packets; their bytes stay in place until `complete`.
    mutating func pop(_ burst: inout Burst, limit: Int) -> Int {
        gather(limit)
        burst.bytes = 0
        burst.needsScreening = false
        burst.segmentCount = 0
        isUnfinished = false
        var count = 0
        while count < limit && next != end {
            guard let slots = take(&burst, count) else {
                isUnfinished = true
                break
            }
            next &+= slots
            count &+= 1
        }
        burst.count = count
        if count > 0 && isArmed {
            isArmed = false
            receive.suppressCalls()
        }
        return count
    }

    /// Reclaims used buffers behind those that wait already. However few packets are wanted, the first must not lack
    /// buffers that have been used already: nobody would ask for them again.
    private mutating func gather(_ limit: Int) {
        let wanted = max(limit, longestChain)
        while end &- next < wanted && end &- first <= usedMask &+ 1 &- Burst.maximum {
            let count = receive.reclaim(into: completions.start, max: Burst.maximum)
            var place = 0
            while place < count {
                used[end & usedMask] = completions[place]
                end &+= 1
                place &+= 1
            }
            if count < Burst.maximum { return }
        }
    }

    /// The packet at `next` as packet `place` of the burst; the buffers it takes. Nil while some of them are missing.
    private func take(_ burst: inout Burst, _ place: Int) -> Int? {
        let head = used[next & usedMask]
        var packet = burst.packets[place]
        let count = packet.receive(at: buffers.receive(head.token).base, head.length)
        var slots = isMergeable ? Int(count) : 1
        // A count that cannot be: the packet is dropped with its first buffer.
        if slots == 0 || slots > longestChain { (slots, packet.length) = (1, 0) }
        if slots > end &- next { return nil }
        packet.header.flags &= NetHeader.needsCsum
        if slots > 1 { spread(&packet, &burst, slots) }
        packet.slots = UInt16(truncatingIfNeeded: slots)
        if !packet.header.isPlain
            || packet.length &- PacketSlot.minimumLength > PacketSlot.maximumLength &- PacketSlot.minimumLength
        {
            burst.needsScreening = true
        }
        burst.bytes &+= UInt64(packet.length)
        burst.packets[place] = packet
        return slots
    }

    /// A packet of several buffers: the later ones hold nothing but the frame (5.1.6.4).
    private func spread(_ packet: inout PacketSlot, _ burst: inout Burst, _ slots: Int) {
        let more = burst.segments + burst.segmentCount
        for part in 1..<slots {
            let completion = used[(next &+ part) & usedMask]
            more[part &- 1] = Segment(base: buffers.receive(completion.token).base, length: completion.length)
            packet.length &+= completion.length
        }
        burst.segmentCount &+= slots &- 1
        packet.more = more
        packet.moreCount = UInt16(truncatingIfNeeded: slots &- 1)
    }

    /// The last `count` popped packets will be popped again.
    mutating func unpop(_ burst: borrowing Burst, from start: Int, _ count: Int) {
        for place in start..<start &+ count { next &-= Int(burst.packets[place].slots) }
    }

    /// Posts the buffers of the oldest `count` popped packets again. True when the device wants a kick.
    mutating func complete(_ burst: borrowing Burst, _ count: Int) -> Bool {
        var slots = 0
        for place in 0..<count { slots &+= Int(burst.packets[place].slots) }
        var posted = 0
        while posted < slots {
            let batch = min(Burst.maximum, slots &- posted)
            for place in 0..<batch {
                scratch[place] = buffers.receive(used[(first &+ place) & usedMask].token)
            }
            _ = receive.addReceive(scratch.start, batch)
            first &+= batch
            posted &+= batch
        }
        receive.publish()
        return receive.needsKick()
    }

    /// Asks for calls; true when there is something already.
    mutating func arm() -> Bool {
        isArmed = true
        // A ring that had to stop never has anything.
        if receive.isStopped { return false }
        if next != end && !isUnfinished { return true }
        return receive.armCalls()
    }

    // MARK: To the back-end

    /// Copies the listed packets into transmit buffers and shows them. Fewer are consumed when the ring is full.
    mutating func deliver(_ burst: borrowing Burst, _ list: PacketList) -> Delivery {
        var result = Delivery(consumed: 0, delivered: 0, bytes: 0)
        if freeCount < list.count &* 2 { reclaim() }
        if transmit.isStopped { return result }
        // Large packets take many buffers each.
        var hasReclaimed = false
        while result.consumed < list.count {
            let place = list[result.consumed]
            let length = burst.packets[place].length
            let needed = (Int(length) &+ PacketSlot.headerLength &+ Int(buffers.room) &- 1) / Int(buffers.room)
            if needed > longestChain {
                result.consumed &+= 1
                continue
            }
            if needed > freeCount || needed > Int(transmit.free) {
                if hasReclaimed { break }
                hasReclaimed = true
                reclaim()
                if transmit.isStopped { break }
                continue
            }
            send(burst, place, needed)
            result.consumed &+= 1
            result.delivered &+= 1
            result.bytes &+= UInt64(length)
        }
        transmit.publish()
        return result
    }

    /// One packet in `count` buffers.
    @inline(__always)
    private mutating func send(_ burst: borrowing Burst, _ place: Int, _ count: Int) {
        var left = burst.packets[place].length &+ UInt32(PacketSlot.headerLength)
        let head = free[freeCount &- 1]
        for part in 0..<count {
            let token = free[freeCount &- 1 &- part]
            segments[part] = buffers.transmit(token, min(left, buffers.room))
            left &-= segments[part].length
            following[Int(token)] = part &+ 1 < count ? free[freeCount &- 2 &- part] : DriverEnd.none
        }
        freeCount &-= count
        (burst.packets + place).write(to: segments.start, count)
        if count == 1 {
            scratch[0] = DriverBuffer(base: segments[0].base, length: segments[0].length, token: head)
            _ = transmit.addTransmit(scratch.start, 1)
        } else {
            _ = transmit.add(readable: segments.start, count, writable: nil, 0, token: head)
        }
    }

    /// Takes sent buffers back.
    private mutating func reclaim() {
        while true {
            let count = transmit.reclaim(into: completions.start, max: Burst.maximum)
            for place in 0..<count {
                var token = completions[place].token
                while token != DriverEnd.none {
                    free[freeCount] = token
                    freeCount &+= 1
                    token = following[Int(token)]
                }
            }
            if count < Burst.maximum { return }
        }
    }
}

/// Where the rings and buffers of a pair lie in its memory.
struct DriverBuffers {
    let size: UInt32
    let isPacked: Bool
    /// Bytes of a buffer, its net header included.
    let room: UInt32
    /// The first receive buffer; nil until it has a place.
    private var first: UnsafeMutableRawPointer?

    /// `longest`: the longest frame that must fit into one buffer.
    init(size: UInt32, isPacked: Bool, longest: Int) {
        self.size = size
        self.isPacked = isPacked
        room = UInt32(max(2048, (longest + PacketSlot.headerLength + 63) & ~63))
    }

    /// Bytes of one ring.
    var ringBytes: Int { (DriverQueue.bytes(size: size, isPacked: isPacked) + 4095) & ~4095 }
    /// A line more than the room: buffers at powers of two would share cache sets.
    private var stride: Int { Int(room) + 64 }
    var bytes: Int { (2 * ringBytes + 2 * Int(size) * stride + 4095) & ~4095 }

    func placed(in memory: HostMemory, at start: Int) -> DriverBuffers {
        precondition(start >= 0 && start + bytes <= memory.size)
        var b = self
        b.first = memory.base + (start + 2 * ringBytes)
        return b
    }

    @inline(__always) func receive(_ token: UInt32) -> DriverBuffer {
        DriverBuffer(base: first.unsafelyUnwrapped + Int(token) &* stride, length: room, token: token)
    }
    /// `length` bytes of a transmit buffer.
    @inline(__always) func transmit(_ token: UInt32, _ length: UInt32) -> Segment {
        Segment(base: first.unsafelyUnwrapped + Int(token &+ size) &* stride, length: length)
    }
}
