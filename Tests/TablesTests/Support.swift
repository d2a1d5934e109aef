import Headers
import Tables
@_exported import TestSupport

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
