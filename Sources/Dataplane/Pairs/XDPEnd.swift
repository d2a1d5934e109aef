import CPlatform
import Glibc
import Memory
import Virtio

/// A queue of a network interface through AF_XDP. Frames are received into the UMEM and forwarded from there; frames
/// that are sent are copied into it, once. Belongs to the poll thread that owns the pair.
struct XDPEnd: ~Copyable {
    private let fd: Int32
    /// The UMEM, and how many frames each of its halves has: those received, then those sent.
    private let memory: UnsafeMutableRawPointer
    private let size: Int
    private let hasPieces: Bool
    private let fillsChecksums: Bool
    private let busyPolls: Bool
    /// Kept for what it owns.
    private let socket: XDPSocket

    private var received: XDPRing
    private var free: XDPRing
    /// Frames in the order in which they came: those from `first` were popped and not completed, those from `next` not
    /// popped. Free-running indexes.
    private let frames: OwnedMemory<XDPFrame>
    private var first = 0
    private var next = 0
    private var end = 0
    /// The frame at `next` waits for more of its pieces.
    private var isUnfinished = false

    private var sent: XDPRing
    private var done: XDPRing
    /// Addresses of frames that may be sent in.
    private let unused: OwnedMemory<UInt64>
    private var unusedCount: Int
    private let segments = OwnedMemory<Segment>(count: XDPEnd.mostPieces)
    /// The kernel has not taken all that is to be sent.
    private(set) var isSending = false
    /// Bytes of the longest frame that the interface sends.
    var longest: UInt32

    /// Pieces of a frame: what the kernel's buffers have (MAX_SKB_FRAGS).
    private static var mostPieces: Int { 17 }
    /// Attempts to have the kernel take what is to be sent, in which it takes up to 32 frames each.
    private static var attempts: Int { 4 }

    /// `longest`: as the property.
    init(_ socket: XDPSocket, longest: UInt32, busyPolls: Bool) {
        self.socket = socket
        (fd, memory, size) = (socket.descriptor.fd, socket.memory.base, socket.size)
        (hasPieces, fillsChecksums, self.busyPolls) = (socket.hasPieces, socket.fillsChecksums, busyPolls)
        (received, free, sent, done) = (socket.received, socket.free, socket.sent, socket.done)
        self.longest = longest
        frames = OwnedMemory(count: size)
        unused = OwnedMemory(count: size)
        unusedCount = size
        for place in 0..<size {
            free[address: place] = UInt64(place * XDPSocket.frameBytes)
            unused[place] = UInt64((2 * size - 1 - place) * XDPSocket.frameBytes + XDPSocket.metadataBytes)
        }
        free.put(size)
    }

    /// The node where the UMEM lies.
    var node: Int { NUMA.node(of: memory) }
    /// Readable when frames have come.
    var incoming: Int32 { fd }

    // MARK: From the interface

    /// Up to `limit` frames; they stay in place until `complete`.
    mutating func pop(_ burst: inout Burst, limit: Int) -> Int {
        if isSending { kick() }
        gather()
        burst.bytes = 0
        burst.needsScreening = false
        burst.segmentCount = 0
        isUnfinished = false
        var count = 0
        while count < limit && next != end {
            guard let pieces = take(&burst, count) else {
                isUnfinished = true
                break
            }
            next &+= pieces
            count &+= 1
        }
        burst.count = count
        return count
    }

    /// Takes over what has come, behind what waits already.
    private mutating func gather() {
        var waiting = received.waiting
        if waiting == 0 {
            // Runs the driver here; or it has run out of frames while it was given some.
            if busyPolls || free.needsWakeup { askForFrames() }
            waiting = busyPolls ? received.waiting : 0
        }
        // The kernel has no more frames than it was given.
        let count = min(waiting, size &- (end &- first))
        assert(count == waiting, "the kernel has made frames up")
        if count == 0 { return }
        var place = 0
        while place < count {
            frames[end & (size &- 1)] = received[frame: place]
            end &+= 1
            place &+= 1
        }
        received.take(count)
    }

    /// The frame at `next` as packet `place` of the burst; how many pieces it has. Nil while some of them are missing.
    @inline(__always)
    private mutating func take(_ burst: inout Burst, _ place: Int) -> Int? {
        let frame = frames[next & (size &- 1)]
        var packet = burst.packets[place]
        packet.place(memory + offset(frame), length(frame))
        var pieces = 1
        if frame.goesOn {
            guard let count = spread(&packet, &burst) else { return nil }
            pieces = count
        }
        packet.slots = UInt16(truncatingIfNeeded: pieces)
        if packet.length &- PacketSlot.minimumLength > PacketSlot.maximumLength &- PacketSlot.minimumLength {
            burst.needsScreening = true
        }
        burst.bytes &+= UInt64(packet.length)
        burst.packets[place] = packet
        return pieces
    }

    /// Where a frame that came begins. One that lies elsewhere than among those that the kernel was given is empty:
    /// screening drops it.
    @inline(__always)
    private func offset(_ frame: XDPFrame) -> Int { isInside(frame) ? Int(truncatingIfNeeded: frame.address) : 0 }
    @inline(__always)
    private func length(_ frame: XDPFrame) -> UInt32 { isInside(frame) ? frame.length : 0 }

    @inline(__always)
    private func isInside(_ frame: XDPFrame) -> Bool {
        let (within, bytes) = (Int(truncatingIfNeeded: frame.address) & (XDPSocket.frameBytes &- 1), Int(frame.length))
        return frame.address < UInt64(size &* XDPSocket.frameBytes) && within &+ bytes <= XDPSocket.frameBytes
    }

    /// The further pieces of a frame.
    @inline(never)
    private func spread(_ packet: inout PacketSlot, _ burst: inout Burst) -> Int? {
        let more = burst.segments + burst.segmentCount
        var count = 1
        while true {
            if next &+ count == end { return nil }
            let piece = frames[(next &+ count) & (size &- 1)]
            more[count &- 1] = Segment(base: memory + offset(piece), length: length(piece))
            packet.length &+= length(piece)
            count &+= 1
            // No kernel makes so many: what follows is taken for another frame.
            if !piece.goesOn || count > XDPEnd.mostPieces { break }
        }
        burst.segmentCount &+= count &- 1
        packet.more = more
        packet.moreCount = UInt16(truncatingIfNeeded: count &- 1)
        return count
    }

    /// The last `count` popped frames will be popped again.
    mutating func unpop(_ burst: borrowing Burst, from start: Int, _ count: Int) {
        for place in start..<start &+ count { next &-= Int(burst.packets[place].slots) }
    }

    /// The oldest `count` popped frames are done with: the kernel may receive into them again.
    mutating func complete(_ burst: borrowing Burst, _ count: Int) {
        var pieces = 0
        for place in 0..<count { pieces &+= Int(burst.packets[place].slots) }
        // Each frame is in one place, so there is room for all.
        assert(pieces <= free.room)
        var place = 0
        while place < pieces {
            let frame = frames[first & (size &- 1)]
            free[address: place] = frame.address & ~UInt64(XDPSocket.frameBytes &- 1)
            first &+= 1
            place &+= 1
        }
        free.put(pieces)
        if free.needsWakeup { askForFrames() }
    }

    /// Tells the driver of free frames, or lets it run.
    @inline(never)
    private func askForFrames() { _ = recv(fd, nil, 0, Int32(MSG_DONTWAIT)) }

    /// Whether there is something to pop, or to hand to the kernel: asked before sleeping.
    func arm() -> Bool { next != end && !isUnfinished || received.waiting > 0 || isSending && sent.needsWakeup }

    // MARK: To the interface

    /// Copies the listed packets into frames and has the kernel send them. Fewer are consumed when all frames are under
    /// way; one that is longer than the interface takes is consumed without being delivered.
    mutating func deliver(_ burst: borrowing Burst, _ list: PacketList) -> Delivery {
        var result = Delivery(consumed: 0, delivered: 0, bytes: 0)
        if unusedCount < list.count { reclaim() }
        var (pieces, hasReclaimed) = (0, false)
        while result.consumed < list.count {
            let packet = burst.packets + list[result.consumed]
            let length = packet.pointee.length
            let count = (Int(length) &+ XDPSocket.room &- 1) / XDPSocket.room
            if length > longest || count > (hasPieces ? XDPEnd.mostPieces : 1) {
                result.consumed &+= 1
                continue
            }
            if count > unusedCount {
                if hasReclaimed { break }
                hasReclaimed = true
                reclaim()
                continue
            }
            send(packet, count, behind: pieces)
            pieces &+= count
            result.consumed &+= 1
            result.delivered &+= 1
            result.bytes &+= UInt64(length)
        }
        if pieces > 0 { sent.put(pieces) }
        if pieces > 0 || isSending { kick() }
        return result
    }

    /// One packet in `count` frames, behind those of this burst.
    @inline(__always)
    private mutating func send(_ packet: UnsafeMutablePointer<PacketSlot>, _ count: Int, behind: Int) {
        var left = packet.pointee.length
        for part in 0..<count {
            unusedCount &-= 1
            let address = unused[unusedCount]
            let length = min(left, UInt32(XDPSocket.room))
            left &-= length
            segments[part] = Segment(base: memory + Int(truncatingIfNeeded: address), length: length)
            let options = part &+ 1 < count ? UInt32(CPlat_XDP_PKT_CONTD) : 0
            sent[frame: behind &+ part] = XDPFrame(address: address, length: length, options: options)
        }
        packet.writeFrame(to: segments.start, count)
        if !packet.pointee.header.isPlain { askForChecksum(packet.pointee.header, behind) }
    }

    /// What is to be done with a frame stands before its first piece: `struct xsk_tx_metadata`.
    @inline(never)
    private func askForChecksum(_ header: NetHeader, _ place: Int) {
        assert(fillsChecksums && header.gsoType == NetHeader.gsoNone, "nobody has said that this can be sent")
        var frame = sent[frame: place]
        frame.options |= UInt32(CPlat_XDP_TX_METADATA)
        sent[frame: place] = frame
        let room = segments[0].base - XDPSocket.metadataBytes
        room.storeBytes(of: UInt64(CPlat_XDP_TXMD_FLAGS_CHECKSUM), as: UInt64.self)
        room.storeBytes(of: header.csumStart, toByteOffset: 8, as: UInt16.self)
        room.storeBytes(of: header.csumOffset, toByteOffset: 10, as: UInt16.self)
    }

    /// Has the kernel take what is to be sent. In copy mode it sends here; else the driver does, and is told where it
    /// has stopped looking.
    @inline(never)
    private mutating func kick() {
        isSending = true
        // The frames before the look at the flag: the driver sets it and then looks at the frames.
        CPlat_fence_full()
        if !sent.needsWakeup {
            isSending = sent.outstanding > 0
            return
        }
        for _ in 0..<XDPEnd.attempts {
            if Glibc.send(fd, nil, 0, Int32(MSG_DONTWAIT)) >= 0 {
                isSending = sent.outstanding > 0
                return
            }
            switch errno {
            // It has sent some; the interface has dropped one, or has no room.
            case EAGAIN, EBUSY, EINTR: continue
            case ENOBUFS, ENOMEM: return
            // The interface is down, or gone: the frames wait for it, but nobody for them.
            default: return isSending = false
            }
        }
    }

    /// Takes frames back that were sent.
    private mutating func reclaim() {
        let count = min(done.waiting, size &- unusedCount)
        var place = 0
        while place < count {
            let start = done[address: place] & ~UInt64(XDPSocket.frameBytes &- 1)
            // One of the other half cannot be.
            if start >= UInt64(size &* XDPSocket.frameBytes) && start < UInt64(2 &* size &* XDPSocket.frameBytes) {
                unused[unusedCount] = start &+ UInt64(XDPSocket.metadataBytes)
                unusedCount &+= 1
            } else {
                assertionFailure("the kernel gives a frame back that it was not given")
            }
            place &+= 1
        }
        done.take(count)
    }
}
