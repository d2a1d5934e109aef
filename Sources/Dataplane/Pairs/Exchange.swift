import CPlatform
import Virtio

/// Parcels on their way from one thread to another: single producer, single consumer. Holds as many
/// as a thread owns, so it never overflows. Its memory belongs to the consumer's `Exchange`.
struct ParcelRing: BitwiseCopyable {
    /// Slots, then the producer's index and the consumer's index, each on lines of its own.
    fileprivate let slots: UnsafeMutablePointer<ParcelPointer?>
    fileprivate let head: UnsafeMutablePointer<UInt32>
    fileprivate let tail: UnsafeMutablePointer<UInt32>

    @inline(__always)
    func push(_ parcel: ParcelPointer) {
        let h = CPlat_load32_relaxed(head)
        slots[Int(h) & (Exchange.parcels - 1)] = parcel
        // Release: the parcel is complete before the consumer sees it.
        CPlat_store32_release(head, h &+ 1)
    }

    var isEmpty: Bool { CPlat_load32_acquire(head) == CPlat_load32_relaxed(tail) }

    @inline(__always)
    func pop() -> ParcelPointer? {
        let t = CPlat_load32_relaxed(tail)
        if CPlat_load32_acquire(head) == t { return nil }
        let parcel = slots[Int(t) & (Exchange.parcels - 1)]
        CPlat_store32_release(tail, t &+ 1)
        return parcel
    }
}

/// A thread's means of handing bursts to other threads: its own parcels, and rings from and to them.
struct Exchange: ~Copyable {
    /// Parcels that a thread can have under way; a power of two.
    static var parcels: Int { 16 }

    let threadCount: Int
    private var parcels: OwnedValues<Parcel>
    /// This thread's parcels that are not under way.
    private let free = OwnedMemory<ParcelPointer>(count: Exchange.parcels)
    private(set) var freeCount = 0
    /// 1 when parcels have come: one look a round tells, however many threads there are.
    private let bell = OwnedMemory<UInt32>(count: 1, repeating: 0)
    /// Rings and bells by the number of the other thread.
    let incoming: OwnedMemory<ParcelRing?>
    private let outgoing: OwnedMemory<ParcelRing?>
    private let bells: OwnedMemory<UnsafeMutablePointer<UInt32>>
    /// What `incoming` rings consist of: the slots of all of them, which fill whole pairs of cache lines, and two
    /// indexes of each, a pair of lines apart.
    private let slots: OwnedMemory<ParcelPointer?>
    private let indexes: OwnedMemory<UInt32>
    private static var apart: Int { CacheLines.pair / MemoryLayout<UInt32>.stride }
    /// Mailboxes of all threads, which live as long as the engine.
    private let mailboxes: OwnedMemory<Unmanaged<Mailbox>>

    /// Of one of `boxes.count` threads, for `places` ports at most; it can send when it was tied to the others.
    init(_ boxes: [Mailbox], places: Int) {
        threadCount = boxes.count
        bells = OwnedMemory(count: threadCount, repeating: bell.start)
        incoming = OwnedMemory(count: threadCount, repeating: nil)
        outgoing = OwnedMemory(count: threadCount, repeating: nil)
        slots = OwnedMemory(count: threadCount * Exchange.parcels, repeating: nil)
        indexes = OwnedMemory(count: threadCount * 2 * Exchange.apart, repeating: 0)
        mailboxes = OwnedMemory(count: threadCount)
        for (place, box) in boxes.enumerated() { (mailboxes.start + place).initialize(to: .passUnretained(box)) }
        parcels = OwnedValues(capacity: threadCount > 1 ? Exchange.parcels : 0)
        while parcels.count < parcels.capacity {
            free[parcels.count] = parcels.start + parcels.count
            parcels.add(Parcel(places: places))
        }
        freeCount = parcels.count
    }

    /// Ties two threads: thread `me`, whose exchange this is, can send to thread `other`. Before both run.
    func connect(_ me: Int, to other: Int, _ receiver: borrowing Exchange) {
        let ring = ParcelRing(
            slots: receiver.slots.start + me * Exchange.parcels,
            head: receiver.indexes.start + 2 * me * Exchange.apart,
            tail: receiver.indexes.start + (2 * me + 1) * Exchange.apart)
        receiver.incoming[me] = ring
        outgoing[other] = ring
        bells[other] = receiver.bell.start
    }

    func forEachFree(_ body: (ParcelPointer) -> Void) {
        for i in 0..<freeCount { body(free[i]) }
    }

    var hasUnderWay: Bool { threadCount > 1 && freeCount < Exchange.parcels }

    /// Whether parcels have come since the last question; then look into every ring.
    @inline(__always)
    var rings: Bool {
        if CPlat_load32_relaxed(bell.start) == 0 { return false }
        // Taken back before the rings are looked at (a full barrier): a parcel that comes later rings again.
        return CPlat_exchange32(bell.start, 0) != 0
    }

    var hasIncoming: Bool {
        var i = 0
        while i < threadCount {
            if let ring = incoming[i], !ring.isEmpty { return true }
            i &+= 1
        }
        return false
    }

    mutating func take() -> ParcelPointer {
        assert(freeCount > 0)
        freeCount &-= 1
        return free[freeCount]
    }

    mutating func giveBack(_ parcel: ParcelPointer) {
        assert(freeCount < Exchange.parcels)
        free[freeCount] = parcel
        freeCount &+= 1
    }

    /// Sends `parcel` to each thread in `threads` (a bit each).
    func send(_ parcel: ParcelPointer, to threads: UInt64) {
        parcel.pointee.prepare(threads: threads.nonzeroBitCount)
        var left = threads
        while left != 0 {
            let thread = left.trailingZeroBitCount
            left &= left &- 1
            outgoing[thread].unsafelyUnwrapped.push(parcel)
            // Release: who hears the bell finds the parcel.
            CPlat_store32_release(bells[thread], 1)
            mailboxes[thread]._withUnsafeGuaranteedRef { $0.wake() }
        }
    }
}
