import Headers
import Tables

/// A small deterministic generator (SplitMix64): a failure is repeated by its seed.
struct Random: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
    /// In 0 ..< bound.
    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }
}

/// So many repetitions; fewer where assertions are on, which is without optimisation.
func rounds(_ n: Int) -> Int {
    var isSlow = false
    assert(
        {
            isSlow = true
            return true
        }())
    return isSlow ? max(1, n / 20) : n
}

/// The flow number `n` of many.
func flow(_ n: Int) -> FlowKey {
    FlowKey(
        source: IPv4Address(rawValue: 0x0a00_0000 + UInt32(n >> 4)), destination: IPv4Address(192, 0, 2, 1),
        protocol: .udp, sourcePort: UInt16(1024 + n & 15), destinationPort: 53)
}

/// What a call answers, for `#expect`, which would keep what is called.
func isTrue(_ value: Bool) -> Bool { value }
