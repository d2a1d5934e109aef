import CPlatform
import Virtio

/// The switch's table of MAC addresses, shared by all threads: read without locks, written only when
/// an address is new, has moved, or was last heard of in an earlier second. So in steady state
/// the threads share its cache lines for reading.
///
/// Buckets of eight entries (two cache lines each). An entry is two words: the address with the port in the upper
/// 16 bits (port + 1; 0: free), and the second in which the address was last heard of.
///
/// A guest can invent addresses as fast as it sends. So the bucket of an address depends on a secret that each table
/// draws for itself, a port may hold half of a bucket and half of the table at most, and of each bucket a port has a
/// share (the eighth part for eight ports) that no other can take: what another holds beyond its own share gives way.
///
/// Public for packet functions of embedders that learn addresses, too. Addresses are the first six bytes of a frame's
/// field as a little-endian load gives them (`Packet.destinationMAC`). Any thread may call everything. The memory
/// is freed with the last reference.
///
/// Unchecked: its words are behind pointers, and each of them is read and written with atomic accesses.
public final class MACTable: @unchecked Sendable {
    static var buckets: Int { 2048 }
    /// Entries of a bucket.
    private static var places: Int { Bucket.places }
    /// Words of a bucket.
    private static var width: Int { 2 * places }
    private let words = OwnedMemory<UInt64>(count: MACTable.buckets * MACTable.width, repeating: 0)
    /// Entries of each port: one guest cannot fill the table with invented addresses.
    private let used: OwnedMemory<UInt32>
    /// How many ports divide the table between them.
    private let sharers = OwnedMemory<UInt32>(count: 1, repeating: 1)
    private let ageing: UInt32
    /// What makes the place of an address a secret.
    private let key: (UInt64, UInt64)

    /// For `ports` ports, of which one can hold half of the table at most. `ageing`: seconds after which an address
    /// that was not heard of is forgotten.
    public convenience init(ports: Int, ageing: Int) { self.init(ports: ports, places: ports, ageing: ageing) }

    /// `places`: how many ports there can be, with `divide(among:)`.
    init(ports: Int, places: Int, ageing: Int) {
        used = OwnedMemory(count: max(1, places), repeating: 0)
        key = (UInt64.random(in: 0...UInt64.max), UInt64.random(in: 0...UInt64.max) | 1)
        self.ageing = UInt32(clamping: ageing)
        divide(among: ports)
    }

    /// There are so many ports now. What one holds beyond its new share goes when others need it.
    func divide(among ports: Int) { CPlat_store32_relaxed(sharers.start, UInt32(max(1, ports))) }

    /// Eight entries; those at even numbers are an address with its port, and behind each stands when it was heard of.
    private struct Bucket: AddressBucket, BitwiseCopyable {
        let words: UnsafeMutablePointer<UInt64>

        @inline(__always) func entry(_ i: Int) -> UInt64 { CPlat_load64_relaxed(words + i) }
        @inline(__always) func heard(at i: Int) -> UInt32 {
            UInt32(truncatingIfNeeded: CPlat_load64_relaxed(words + (i &+ 1)))
        }
        @inline(__always) func hear(_ i: Int, _ seconds: UInt32) {
            CPlat_store64_relaxed(words + (i &+ 1), UInt64(seconds))
        }
        /// False: another thread was first.
        func replace(_ i: Int, _ before: UInt64, _ new: UInt64) -> Bool { CPlat_replace64(words + i, before, new) }

        func holder(_ place: Int) -> Int { Int(entry(2 * place) >> 48) - 1 }
        func heard(_ place: Int) -> UInt32 { heard(at: 2 * place) }
        func isPinned(_ place: Int) -> Bool { false }
    }

    @inline(__always)
    private func bucket(_ mac: UInt64) -> Bucket {
        // One product alone puts addresses that follow each other at one distance from each other, which for some keys
        // is nearly none: into one bucket. Its upper half depends on all of the address, and makes a second product.
        var h = (mac ^ key.0) &* key.1
        h = ((h ^ (h &>> 32)) &* key.1) &>> UInt64(64 &- MACTable.buckets.trailingZeroBitCount)
        return Bucket(words: words.start + Int(truncatingIfNeeded: h) &* MACTable.width)
    }

    /// The port of an address, -1 if it is not known (any more).
    @inline(__always)
    public func find(_ mac: UInt64, seconds: UInt32) -> Int {
        let b = bucket(mac)
        var i = 0
        while i < MACTable.width {
            let word = b.entry(i)
            if word & 0xffff_ffff_ffff == mac && word >> 48 != 0 {
                let heard = b.heard(at: i)
                return seconds &- heard > ageing && seconds > heard ? -1 : Int(word >> 48) &- 1
            }
            i &+= 2
        }
        return -1
    }

    /// `mac` was heard of on `port` at `seconds` of a clock that goes forward (`Ingress.seconds`).
    @inline(__always)
    public func learn(_ mac: UInt64, port: Int, seconds: UInt32) {
        let b = bucket(mac)
        let wanted = mac | UInt64(port &+ 1) << 48
        var i = 0
        while i < MACTable.width {
            if b.entry(i) == wanted {
                if b.heard(at: i) != seconds {
                    b.hear(i, seconds)
                }
                return
            }
            i &+= 2
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
        let before = b.entry(choice)
        let holder = Int(before >> 48) - 1
        if !b.replace(choice, before, wanted) { return }  // another thread was first: next packet
        b.hear(choice, seconds)
        if holder != port {
            _ = CPlat_add32_relaxed(used.start + port, 1)
            if holder >= 0 { _ = CPlat_add32_relaxed(used.start + holder, UInt32.max) }
        }
    }

    /// Where in the bucket an address of `port` goes, -1: nowhere. Where it stands already, else where a new one does.
    private func place(_ b: Bucket, _ mac: UInt64, _ port: Int, _ seconds: UInt32) -> Int {
        for i in stride(from: 0, to: MACTable.width, by: 2)
        where b.entry(i) >> 48 != 0 && b.entry(i) & 0xffff_ffff_ffff == mac { return i }
        let ports = Int(CPlat_load32_relaxed(sharers.start))
        let quota = UInt32(max(64, MACTable.buckets * MACTable.places / 2 / ports))
        // Entries of a bucket that no other port can take from a port that holds no more.
        let share = max(1, MACTable.places / ports)
        let hasRoom = CPlat_load32_relaxed(used.start + port) < quota
        let choice = b.choose(for: port, seconds: seconds, ageing: ageing, share: share, hasRoom: hasRoom)
        return choice < 0 ? choice : 2 * choice
    }

    /// Forgets what was learned of a port.
    public func forget(port: Int) { _ = clear(port: port) }

    /// Forgets all addresses, or those of a port; returns how many they were.
    func clear(port: Int?) -> Int {
        var removed = 0
        for i in stride(from: 0, to: MACTable.buckets * MACTable.width, by: 2) {
            let word = CPlat_load64_relaxed(words.start + i)
            let holder = Int(word >> 48) - 1
            if holder < 0 || holder != port ?? holder || !CPlat_replace64(words.start + i, word, 0) { continue }
            _ = CPlat_add32_relaxed(used.start + holder, UInt32.max)
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
        for i in 0..<MACTable.buckets {
            let b = Bucket(words: words.start + i * MACTable.width)
            for place in 0..<MACTable.places where b.holder(place) >= 0 {
                let (word, heard) = (b.entry(2 * place), b.heard(place))
                let age = seconds > heard ? seconds - heard : 0
                if word >> 48 == 0 || age > ageing { continue }
                all.append(
                    TableAddress(
                        mac: word & 0xffff_ffff_ffff, vlan: nil, port: Int(word >> 48) - 1, kind: .learned, age: age))
            }
        }
        return all
    }
}
