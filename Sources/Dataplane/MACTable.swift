import CPlatform

/// The switch's table of MAC addresses, shared by all threads: read without locks, written only when
/// an address is new, has moved, or was last heard of in an earlier second. So in steady state
/// the threads share its cache lines for reading.
///
/// Buckets of four entries (one cache line each). An entry is two words: the address with the port in the upper
/// 16 bits (port + 1; 0: free), and the second in which the address was last heard of.
///
/// Public for packet functions of embedders that learn addresses, too. Addresses are the first six bytes of a frame's field as a
/// little-endian load gives them (`Packet.destinationMAC`). Any thread may call everything but `deallocate`.
public struct MACTable: @unchecked Sendable {
    static var buckets: Int { 4096 }
    private let words: UnsafeMutablePointer<UInt64>
    /// Entries of each port: one guest cannot fill the table with invented addresses.
    private let used: UnsafeMutablePointer<UInt32>
    private let quota: UInt32
    private let ageing: UInt32

    /// For `ports` ports, of which one can hold half of the table at most. `ageing`: seconds after which an address that was not
    /// heard of is forgotten. Freed by `deallocate`.
    public init(ports: Int, ageing: Int) {
        words = UnsafeMutableRawPointer.allocate(byteCount: MACTable.buckets * 64, alignment: 64)
            .bindMemory(to: UInt64.self, capacity: MACTable.buckets * 8)
        words.initialize(repeating: 0, count: MACTable.buckets * 8)
        used = .allocate(capacity: max(1, ports))
        used.initialize(repeating: 0, count: max(1, ports))
        quota = UInt32(max(64, MACTable.buckets * 2 / max(1, ports)))
        self.ageing = UInt32(clamping: ageing)
    }

    /// Frees the table. Nobody may use it any more.
    public func deallocate() {
        words.deallocate()
        used.deallocate()
    }

    @inline(__always)
    private func bucket(_ mac: UInt64) -> UnsafeMutablePointer<UInt64> {
        let h = (mac &* 0x9e37_79b9_7f4a_7c15) >> 52
        return words + Int(h) &* 8
    }

    /// The port of an address, -1 if it is not known (any more).
    @inline(__always)
    public func find(_ mac: UInt64, seconds: UInt32) -> Int {
        let b = bucket(mac)
        var i = 0
        while i < 8 {
            let word = CPlat_load64_relaxed(b + i)
            if word & 0xffff_ffff_ffff == mac && word >> 48 != 0 {
                let heard = UInt32(truncatingIfNeeded: CPlat_load64_relaxed(b + (i &+ 1)))
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
        while i < 8 {
            if CPlat_load64_relaxed(b + i) == wanted {
                if UInt32(truncatingIfNeeded: CPlat_load64_relaxed(b + (i &+ 1))) != seconds {
                    CPlat_store64_relaxed(b + (i &+ 1), UInt64(seconds))
                }
                return
            }
            i &+= 2
        }
        learnSlow(b, wanted, mac, port, seconds)
    }

    /// A new address, or one that has moved. The oldest entry of the same port makes room if need
    /// be, never a live one of another port.
    @inline(never)
    private func learnSlow(_ b: UnsafeMutablePointer<UInt64>, _ wanted: UInt64, _ mac: UInt64, _ port: Int, _ seconds: UInt32) {
        var choice = -1
        var oldest = UInt32.max
        for i in stride(from: 0, to: 8, by: 2) {
            let word = CPlat_load64_relaxed(b + i)
            let heard = UInt32(truncatingIfNeeded: CPlat_load64_relaxed(b + i + 1))
            let isExpired = seconds > heard && seconds - heard > ageing
            if word & 0xffff_ffff_ffff == mac && word >> 48 != 0 { choice = i; break }
            if word >> 48 == 0 || isExpired {
                if oldest > 0 { choice = i; oldest = 0 }
            } else if Int(word >> 48) - 1 == port && heard < oldest {
                choice = i
                oldest = max(1, heard)
            }
        }
        if choice < 0 { return }
        let before = CPlat_load64_relaxed(b + choice)
        let holder = Int(before >> 48) - 1
        if holder != port && CPlat_load32_relaxed(used + port) >= quota { return }
        if !CPlat_replace64(b + choice, before, wanted) { return }  // another thread was first: next packet
        CPlat_store64_relaxed(b + choice + 1, UInt64(seconds))
        if holder != port {
            _ = CPlat_add32_relaxed(used + port, 1)
            if holder >= 0 { _ = CPlat_add32_relaxed(used + holder, UInt32.max) }
        }
    }

    /// Forgets what was learned of a port.
    public func forget(port: Int) {
        for i in stride(from: 0, to: MACTable.buckets * 8, by: 2) {
            let word = CPlat_load64_relaxed(words + i)
            if Int(word >> 48) - 1 == port && CPlat_replace64(words + i, word, 0) {
                _ = CPlat_add32_relaxed(used + port, UInt32.max)
            }
        }
    }
}
