import Synchronization
import Virtio

/// The switch's table of MAC addresses, shared by all threads: read without locks, written only when
/// an address is new, has moved, or was last heard of in an earlier second. So in steady state
/// the threads share its cache lines for reading.
///
/// Buckets of eight entries (two cache lines each).
///
/// A guest can invent addresses as fast as it sends. So the bucket of an address depends on a secret that each table
/// draws for itself, a port may hold half of a bucket and half of the table at most, and of each bucket a port has a
/// share (the eighth part for eight ports) that no other can take: what another holds beyond its own share gives way.
///
/// Public for packet functions of embedders that learn addresses, too. Addresses are the first six bytes of a frame's
/// field as a little-endian load gives them (`Packet.destinationMAC`). Any thread may call everything. The memory
/// is freed with the last reference.
public final class MACTable: Sendable {
    static var buckets: Int { 2048 }
    /// Entries of a bucket.
    private static var places: Int { Bucket.places }
    private let table = OwnedTable(count: MACTable.buckets * MACTable.places) { _ in Entry() }
    /// Entries of each port: one guest cannot fill the table with invented addresses.
    private let used: OwnedTable<Atomic<UInt32>>
    /// How many ports divide the table between them.
    private let sharers = Atomic<UInt32>(1)
    private let ageing: UInt32
    /// What makes the place of an address a secret.
    private let key: (UInt64, UInt64)

    /// For `ports` ports, of which one can hold half of the table at most. `ageing`: seconds after which an address
    /// that was not heard of is forgotten.
    public convenience init(ports: Int, ageing: Int) { self.init(ports: ports, places: ports, ageing: ageing) }

    /// `places`: how many ports there can be, with `divide(among:)`.
    init(ports: Int, places: Int, ageing: Int) {
        used = OwnedTable(count: max(1, places)) { _ in Atomic(0) }
        key = (UInt64.random(in: 0...UInt64.max), UInt64.random(in: 0...UInt64.max) | 1)
        self.ageing = UInt32(clamping: ageing)
        divide(among: ports)
    }

    /// There are so many ports now. What one holds beyond its new share goes when others need it.
    func divide(among ports: Int) { sharers.store(UInt32(max(1, ports)), ordering: .relaxed) }

    /// Not private: see `IntervalStart` in Tables.
    struct Entry: ~Copyable {
        /// The address with its port in the upper 16 bits (port + 1; 0: free).
        let word = Atomic<UInt64>(0)
        /// The second in which it was last heard of.
        let heard = Atomic<UInt64>(0)
    }

    private struct Bucket: AddressBucket, BitwiseCopyable {
        let entries: UnsafePointer<Entry>

        @inline(__always) func word(_ place: Int) -> UInt64 { entries[place].word.load(ordering: .relaxed) }
        @inline(__always) func heard(_ place: Int) -> UInt32 {
            UInt32(truncatingIfNeeded: entries[place].heard.load(ordering: .relaxed))
        }
        @inline(__always) func hear(_ place: Int, _ seconds: UInt32) {
            entries[place].heard.store(UInt64(seconds), ordering: .relaxed)
        }
        /// False: another thread was first.
        func replace(_ place: Int, _ before: UInt64, _ new: UInt64) -> Bool {
            entries[place].word.compareExchange(
                expected: before, desired: new, successOrdering: .acquiringAndReleasing, failureOrdering: .relaxed
            ).exchanged
        }

        func holder(_ place: Int) -> Int { Int(word(place) >> 48) - 1 }
        func isPinned(_ place: Int) -> Bool { false }
    }

    @inline(__always)
    private func bucket(_ mac: UInt64) -> Bucket {
        // One product alone puts addresses that follow each other at one distance from each other, which for some keys
        // is nearly none: into one bucket. Its upper half depends on all of the address, and makes a second product.
        var h = (mac ^ key.0) &* key.1
        h = ((h ^ (h &>> 32)) &* key.1) &>> UInt64(64 &- MACTable.buckets.trailingZeroBitCount)
        return Bucket(entries: table.start + Int(truncatingIfNeeded: h) &* MACTable.places)
    }

    /// The port of an address, -1 if it is not known (any more).
    @inline(__always)
    public func find(_ mac: UInt64, seconds: UInt32) -> Int {
        let b = bucket(mac)
        var place = 0
        while place < MACTable.places {
            let word = b.word(place)
            if word & 0xffff_ffff_ffff == mac && word >> 48 != 0 {
                let heard = b.heard(place)
                return seconds &- heard > ageing && seconds > heard ? -1 : Int(word >> 48) &- 1
            }
            place &+= 1
        }
        return -1
    }

    /// `mac` was heard of on `port` at `seconds` of a clock that goes forward (`Ingress.seconds`).
    @inline(__always)
    public func learn(_ mac: UInt64, port: Int, seconds: UInt32) {
        let b = bucket(mac)
        let wanted = mac | UInt64(port &+ 1) << 48
        var place = 0
        while place < MACTable.places {
            if b.word(place) == wanted {
                if b.heard(place) != seconds { b.hear(place, seconds) }
                return
            }
            place &+= 1
        }
        learnSlow(b, wanted, mac, port, seconds)
    }

    /// A new address, or one that has moved.
    @inline(never)
    private func learnSlow(
        _ b: Bucket, _ wanted: UInt64, _ mac: UInt64, _ port: Int, _ seconds: UInt32
    ) {
        let choice = place(b, mac, port, seconds)
        if choice < 0 { return }
        let before = b.word(choice)
        let holder = Int(before >> 48) - 1
        if !b.replace(choice, before, wanted) { return }  // another thread was first: next packet
        b.hear(choice, seconds)
        if holder != port {
            count(port, 1)
            if holder >= 0 { count(holder, -1) }
        }
    }

    /// Where in the bucket an address of `port` goes, -1: nowhere. Where it stands already, else where a new one does.
    private func place(_ b: Bucket, _ mac: UInt64, _ port: Int, _ seconds: UInt32) -> Int {
        for place in 0..<MACTable.places
        where b.word(place) >> 48 != 0 && b.word(place) & 0xffff_ffff_ffff == mac { return place }
        let ports = Int(sharers.load(ordering: .relaxed))
        let quota = UInt32(max(64, MACTable.buckets * MACTable.places / 2 / ports))
        // Entries of a bucket that no other port can take from a port that holds no more.
        let share = max(1, MACTable.places / ports)
        let hasRoom = used[port].load(ordering: .relaxed) < quota
        return b.choose(for: port, seconds: seconds, ageing: ageing, share: share, hasRoom: hasRoom)
    }

    private func count(_ port: Int, _ n: Int32) {
        used[port].wrappingAdd(UInt32(bitPattern: n), ordering: .relaxed)
    }

    /// Forgets what was learned of a port.
    public func forget(port: Int) { _ = clear(port: port) }

    /// Forgets all addresses, or those of a port; returns how many they were.
    func clear(port: Int?) -> Int {
        var removed = 0
        let all = Bucket(entries: table.start)
        for place in 0..<table.count {
            let word = all.word(place)
            let holder = Int(word >> 48) - 1
            if holder < 0 || holder != port ?? holder || !all.replace(place, word, 0) { continue }
            count(holder, -1)
            removed += 1
        }
        return removed
    }

    /// Learns what another table knows, and this one does not.
    func take(_ other: MACTable, seconds: UInt32) {
        // Those that were heard of last come first: there may be no room for all.
        for known in other.entries(seconds: seconds).sorted(by: { $0.age < $1.age }) {
            let heard = seconds - min(seconds, UInt32(clamping: known.age))
            if find(known.mac.rawValue, seconds: heard) < 0 {
                learn(known.mac.rawValue, port: known.port, seconds: heard)
            }
        }
    }

    /// All addresses that are known at `seconds`, in no order.
    func entries(seconds: UInt32) -> [TableAddress] {
        var all: [TableAddress] = []
        let bucket = Bucket(entries: table.start)
        for place in 0..<table.count {
            let (word, heard) = (bucket.word(place), bucket.heard(place))
            let age = seconds > heard ? seconds - heard : 0
            if word >> 48 == 0 || age > ageing { continue }
            all.append(
                TableAddress(
                    mac: word & 0xffff_ffff_ffff, vlan: nil, port: Int(word >> 48) - 1, kind: .learned, age: age))
        }
        return all
    }
}
