import Ringway

/// MAC addresses of the hosts around, and whom the router has asked for one. Belongs to one poll thread.
struct Neighbors: ~Copyable {
    /// Seconds for which an address counts after it was told.
    static let lifetime: UInt32 = 300
    /// Requests for an address, one a second, before its host counts as unreachable; and the seconds until all of this
    /// starts anew.
    static let (mostRequests, pause): (UInt32, UInt32) = (3, 20)

    // Not private: Swift 6.3 cannot compile a table of a private type without optimisation.
    struct Search: BitwiseCopyable {
        var start: UInt32
        var requests: UInt32
    }

    private var known = ExactTable<IPv4Address, MACAddress>(capacity: 4096, timeout: Neighbors.lifetime)
    private var searches = ExactTable<IPv4Address, Search>(capacity: 1024, timeout: Neighbors.pause)

    /// The address does not grow younger by being used, or a host that has changed would never be asked again.
    func find(_ address: IPv4Address) -> MACAddress? { known.find(address) }

    mutating func learn(_ address: IPv4Address, _ mac: MACAddress, now: UInt32) {
        _ = known.insert(address, mac, now: now) { _, _ in }
        searches.remove(address)
    }

    enum Step { case ask, wait, unreachable }

    /// What to do for a packet whose next hop is not known.
    mutating func step(for address: IPv4Address, now: UInt32) -> Step {
        guard var search = searches.find(address), now &- search.start < Neighbors.pause else {
            _ = searches.insert(address, Search(start: now, requests: 1), now: now) { _, _ in }
            return .ask
        }
        let elapsed = now &- search.start
        if search.requests < Neighbors.mostRequests {
            if elapsed < search.requests { return .wait }
            search.requests += 1
            _ = searches.insert(address, search, now: now) { _, _ in }
            return .ask
        }
        return elapsed < Neighbors.mostRequests ? .wait : .unreachable
    }

    /// Forgets what is too old, looking at some of the tables' places.
    mutating func expire(now: UInt32) {
        known.expire(now: now, limit: 256) { _, _ in }
        searches.expire(now: now, limit: 256) { _, _ in }
    }
}
