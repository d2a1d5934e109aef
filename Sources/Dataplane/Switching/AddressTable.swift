import CPlatform
import Synchronization
import Virtio

/// The table of a switch whose ports have options: addresses by VLAN, some of which stay. Shared by all threads: read
/// without locks, written only when an address is new, has moved, or was last heard of in an earlier second.
///
/// As in `MACTable`, the bucket of an address depends on a secret, and of each bucket a port has a share. An entry is
/// two words, which are not written at once: whoever reads looks at the address again after it has read the port. What
/// writes addresses and ports holds a lock; a poll thread that finds it taken learns nothing then.
package final class AddressTable: Sendable {
    /// What becomes of a source address.
    enum Outcome {
        /// There is a new entry.
        case learned
        /// It was another port's.
        case moved
        /// Nothing has changed, and the packet may pass.
        case passed
        /// It is another port's for good.
        case elsewhere
        /// The port has as many as it may have.
        case tooMany

        /// What came from there may pass.
        var passes: Bool { self != .elsewhere && self != .tooMany }
    }

    /// What a port may learn.
    struct Terms: BitwiseCopyable {
        /// Addresses at most; 0: as many as there is room for.
        var limit: UInt32 = 0
        /// What it learns stays.
        var isSticky = false
    }

    /// In place of a VLAN, of an address that is the port's in each of its VLANs.
    static var anyVLAN: UInt16 { 0xfff }

    private let table: OwnedTable<Entry>
    private let buckets: Int
    /// Entries of each port, without the static ones.
    private let used: OwnedTable<Atomic<UInt32>>
    /// The second in which a port's expired addresses were last looked for.
    private let swept: OwnedTable<Atomic<UInt32>>
    /// On lines of its own: who finds it taken looks again and again.
    private let lock = OwnedTable(count: 1) { _ in Atomic<UInt32>(0) }
    private let quota: UInt32
    private let ageing: UInt32
    private let share: Int
    private let key: (UInt64, UInt64)
    let hasStatic: Bool

    private static var leastBuckets: Int { 2048 }

    /// For `ports` ports with numbers below `places`. `permanent`: addresses that are their ports' for good. `sticky`:
    /// how many more may stay where they were learned.
    init(ports: Int, places: Int, ageing: Int, permanent: [(mac: UInt64, port: Int)], sticky: Int) {
        let ports = max(1, ports)
        used = OwnedTable(count: max(1, places)) { _ in Atomic(0) }
        swept = OwnedTable(count: max(1, places)) { _ in Atomic(0) }
        share = max(1, Bucket.places / ports)
        self.ageing = UInt32(clamping: ageing)
        hasStatic = !permanent.isEmpty
        // What stays takes a quarter of a bucket on average at most. Until the static ones leave half of each bucket.
        var buckets = AddressTable.leastBuckets
        while buckets < (permanent.count + sticky) / 2 { buckets *= 2 }
        var secret = AddressTable.secret()
        var draws = 0
        while !AddressTable.leaves(Bucket.places / 2, permanent, buckets, secret) {
            secret = AddressTable.secret()
            draws += 1
            if draws % 64 == 0 { buckets *= 2 }
        }
        (self.buckets, key) = (buckets, secret)
        quota = UInt32(max(64, buckets * Bucket.places / 2 / ports))
        table = OwnedTable(count: buckets * Bucket.places) { _ in Entry() }
        for (mac, port) in permanent {
            let word = AddressTable.word(mac, AddressTable.anyVLAN)
            let bucket = bucket(word)
            for place in 0..<Bucket.places where bucket.word(place) == 0 {
                bucket.put(place, word, port, Bucket.isStatic, 0)
                break
            }
        }
    }

    private static func secret() -> (UInt64, UInt64) {
        (UInt64.random(in: 0...UInt64.max), UInt64.random(in: 0...UInt64.max) | 1)
    }

    /// Whether no bucket has more than `most` of these.
    private static func leaves(
        _ most: Int, _ permanent: [(mac: UInt64, port: Int)], _ buckets: Int, _ key: (UInt64, UInt64)
    ) -> Bool {
        var counts: [Int: Int] = [:]
        for (mac, _) in permanent {
            let place = place(word(mac, anyVLAN), buckets, key)
            counts[place, default: 0] += 1
            if counts[place]! > most { return false }
        }
        return true
    }

    /// An address (bits 0 to 47) in a VLAN; never 0.
    @inline(__always)
    static func word(_ mac: UInt64, _ vlan: UInt16) -> UInt64 {
        mac | UInt64(truncatingIfNeeded: vlan) &<< 48 | 1 &<< 60
    }

    /// Not private: see `IntervalStart` in Tables.
    struct Entry: ~Copyable {
        /// The address with its VLAN; 0: the entry is free.
        let word = Atomic<UInt64>(0)
        /// When it was heard of.
        let heard = Atomic<UInt32>(0)
        /// Whose it is: the port and 1 in the lower half, what kind of entry in the upper one.
        let owner = Atomic<UInt32>(0)
    }

    private struct Bucket: AddressBucket, BitwiseCopyable {
        let entries: UnsafePointer<Entry>
        static var isSticky: UInt32 { 1 << 16 }
        static var isStatic: UInt32 { 2 << 16 }

        @inline(__always) func word(_ place: Int) -> UInt64 { entries[place].word.load(ordering: .acquiring) }
        @inline(__always) func entry(_ place: Int) -> UInt32 { entries[place].owner.load(ordering: .acquiring) }
        @inline(__always) func heard(_ place: Int) -> UInt32 { entries[place].heard.load(ordering: .relaxed) }
        @inline(__always) func hear(_ place: Int, _ seconds: UInt32) {
            entries[place].heard.store(seconds, ordering: .relaxed)
        }
        @inline(__always) static func port(_ entry: UInt32) -> Int { Int(entry & 0xffff) &- 1 }
        func holder(_ place: Int) -> Int { word(place) == 0 ? -1 : Bucket.port(entry(place)) }
        func isPinned(_ place: Int) -> Bool { word(place) != 0 && entry(place) >> 16 != 0 }

        /// Under the lock. Nobody sees the address with what belonged to another one.
        func put(_ place: Int, _ word: UInt64, _ port: Int, _ kind: UInt32, _ seconds: UInt32) {
            entries[place].word.store(0, ordering: .releasing)
            CPlat_fence_full()
            hear(place, seconds)
            entries[place].owner.store(UInt32(port + 1) | kind, ordering: .releasing)
            entries[place].word.store(word, ordering: .releasing)
        }

        /// Under the lock.
        func remove(_ place: Int) { entries[place].word.store(0, ordering: .releasing) }
    }

    @inline(__always)
    private static func place(_ word: UInt64, _ buckets: Int, _ key: (UInt64, UInt64)) -> Int {
        // As in MACTable, for the same reasons.
        var h = (word ^ key.0) &* key.1
        h = (h ^ (h &>> 32)) &* key.1
        return Int(truncatingIfNeeded: h &>> 32) & (buckets &- 1)
    }

    @inline(__always)
    private func bucket(_ word: UInt64) -> Bucket {
        bucket(at: AddressTable.place(word, buckets, key))
    }

    @inline(__always)
    private func bucket(at i: Int) -> Bucket { Bucket(entries: table.start + i &* Bucket.places) }

    /// The port of an address in a VLAN, -1 if it is not known (any more).
    @inline(__always)
    func find(_ word: UInt64, seconds: UInt32) -> Int {
        let b = bucket(word)
        var place = 0
        while place < Bucket.places {
            if b.word(place) == word {
                let (entry, heard) = (b.entry(place), b.heard(place))
                if b.word(place) != word { return -1 }
                return entry &>> 16 == 0 && seconds &- heard > ageing && seconds > heard ? -1 : Bucket.port(entry)
            }
            place &+= 1
        }
        return -1
    }

    /// Notes that an address was heard of at its port; false where it is not known there.
    @inline(__always)
    func hear(_ word: UInt64, port: Int, seconds: UInt32) -> Bool {
        let b = bucket(word)
        var place = 0
        while place < Bucket.places {
            if b.word(place) == word {
                if Bucket.port(b.entry(place)) != port { return false }
                if b.heard(place) != seconds { b.hear(place, seconds) }
                return true
            }
            place &+= 1
        }
        return false
    }

    /// A new address, or one that has moved. Where there is no room for it, a port without a limit sends on
    /// nevertheless; one with a limit does not.
    @inline(never)
    func learn(_ word: UInt64, port: Int, seconds: UInt32, _ terms: Terms) -> Outcome {
        let isStrict = terms.limit > 0
        if !take(tries: isStrict ? 1000 : 1) { return isStrict ? .tooMany : .passed }
        defer { giveBack() }
        let b = bucket(word)
        let kind = terms.isSticky ? Bucket.isSticky : 0
        for place in 0..<Bucket.places where b.word(place) == word {
            let entry = b.entry(place)
            let holder = Bucket.port(entry)
            if holder == port { return .passed }
            if entry >> 16 != 0 { return .elsewhere }
            if isStrict && isFull(port, seconds, terms.limit) { return .tooMany }
            count(holder, -1)
            count(port, 1)
            b.put(place, word, port, kind, seconds)
            return .moved
        }
        if isStrict && isFull(port, seconds, terms.limit) { return .tooMany }
        let hasRoom = used[port].load(ordering: .relaxed) < quota
        let place = b.choose(for: port, seconds: seconds, ageing: ageing, share: share, hasRoom: hasRoom)
        if place < 0 { return isStrict ? .tooMany : .passed }
        if b.word(place) != 0 { count(Bucket.port(b.entry(place)), -1) }
        count(port, 1)
        b.put(place, word, port, kind, seconds)
        return .learned
    }

    /// Under the lock. The port has as many addresses as it may have. Expired ones do not count; they are looked for
    /// once a second, as somebody who may have no more can ask as often as he sends.
    private func isFull(_ port: Int, _ seconds: UInt32, _ limit: UInt32) -> Bool {
        if used[port].load(ordering: .relaxed) < limit { return false }
        if swept[port].exchange(seconds, ordering: .relaxed) == seconds { return true }
        _ = remove { entry, _, heard in
            entry >> 16 == 0 && Bucket.port(entry) == port && seconds > heard && seconds - heard > self.ageing
        }
        return used[port].load(ordering: .relaxed) >= limit
    }

    private func count(_ port: Int, _ n: Int32) {
        used[port].wrappingAdd(UInt32(bitPattern: n), ordering: .relaxed)
    }

    /// Under the lock: removes what is `wanted` of its entry, VLAN and time; returns how many those were.
    private func remove(_ wanted: (UInt32, UInt16, UInt32) -> Bool) -> Int {
        var removed = 0
        for i in 0..<buckets {
            let b = bucket(at: i)
            for place in 0..<Bucket.places {
                let word = b.word(place)
                if word == 0 { continue }
                let entry = b.entry(place)
                if entry & Bucket.isStatic != 0 || !wanted(entry, UInt16(word >> 48 & 0xfff), b.heard(place)) {
                    continue
                }
                b.remove(place)
                count(Bucket.port(entry), -1)
                removed += 1
            }
        }
        return removed
    }

    // MARK: The lock

    private func take(tries: Int) -> Bool {
        var left = tries
        while lock[0].exchange(1, ordering: .acquiringAndReleasing) != 0 {
            left &-= 1
            if left <= 0 { return false }
            CPlat_pause()
        }
        return true
    }

    private func giveBack() { lock[0].store(0, ordering: .releasing) }

    // MARK: For control threads and embedders

    /// Forgets what was learned of a port that nobody is behind any more; what stays, stays.
    package func forget(port: Int) {
        while !take(tries: 1000) {}
        _ = remove { entry, _, _ in Bucket.port(entry) == port && entry >> 16 == 0 }
        giveBack()
    }

    /// Forgets all that was learned (of a port, in a VLAN); returns how many addresses those were.
    package func clear(port: Int?, vlan: UInt16?) -> Int {
        while !take(tries: 1000) {}
        defer { giveBack() }
        return remove { entry, itsVLAN, _ in
            (port ?? Bucket.port(entry)) == Bucket.port(entry) && (vlan ?? itsVLAN) == itsVLAN
        }
    }

    /// Learns what another table knows, this one does not, and is `wanted`. Static addresses are its own.
    func take(_ other: AddressTable, where wanted: (_ mac: UInt64, _ vlan: UInt16, _ port: Int) -> Bool) {
        while !take(tries: 1000) {}
        defer { giveBack() }
        for i in 0..<other.buckets {
            let from = other.bucket(at: i)
            for place in 0..<Bucket.places {
                let word = from.word(place)
                let (entry, heard) = (from.entry(place), from.heard(place))
                let port = Bucket.port(entry)
                if word == 0 || from.word(place) != word || entry & Bucket.isStatic != 0 { continue }
                if !wanted(word & 0xffff_ffff_ffff, UInt16(word >> 48 & 0xfff), port) { continue }
                admit(word, port: port, isSticky: entry & Bucket.isSticky != 0, heard: heard)
            }
        }
    }

    /// Learns what another process's table knew of a port. Static addresses are this one's own.
    func restore(_ mac: UInt64, _ vlan: UInt16?, port: Int, isSticky: Bool, heard: UInt32) {
        while !take(tries: 1000) {}
        defer { giveBack() }
        let word = AddressTable.word(mac, vlan ?? AddressTable.anyVLAN)
        let b = bucket(word)
        // It has moved since it was told of.
        if let place = (0..<Bucket.places).first(where: { b.word($0) == word && !b.isPinned($0) }) {
            count(Bucket.port(b.entry(place)), -1)
            b.remove(place)
        }
        admit(word, port: port, isSticky: isSticky, heard: heard)
    }

    /// Under the lock.
    private func admit(_ word: UInt64, port: Int, isSticky: Bool, heard: UInt32) {
        let to = bucket(word)
        let places = 0..<Bucket.places
        if places.contains(where: { to.word($0) == word }) { return }
        // One that stays goes before one that does not.
        guard
            let free = places.first(where: { to.word($0) == 0 })
                ?? (isSticky ? places.first { !to.isPinned($0) } : nil)
        else { return }
        if to.word(free) != 0 { count(Bucket.port(to.entry(free)), -1) }
        count(port, 1)
        to.put(free, word, port, isSticky ? Bucket.isSticky : 0, heard)
    }

    /// All addresses that are known at `seconds`, in no order.
    package func entries(seconds: UInt32) -> [TableAddress] {
        var all: [TableAddress] = []
        for i in 0..<buckets {
            let b = bucket(at: i)
            for place in 0..<Bucket.places {
                let word = b.word(place)
                let (entry, heard) = (b.entry(place), b.heard(place))
                if word == 0 || b.word(place) != word { continue }
                let age = seconds > heard ? seconds - heard : 0
                let kind: TableAddress.Kind =
                    entry & Bucket.isStatic != 0 ? .permanent : entry & Bucket.isSticky != 0 ? .sticky : .learned
                if kind == .learned && age > ageing { continue }
                let vlan = UInt16(word >> 48 & 0xfff)
                all.append(
                    TableAddress(
                        mac: word & 0xffff_ffff_ffff, vlan: vlan == AddressTable.anyVLAN ? nil : vlan,
                        port: Bucket.port(entry), kind: kind, age: kind == .permanent ? 0 : age))
            }
        }
        return all
    }
}
