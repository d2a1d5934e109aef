import CPlatform

/// The time-stamp counter and the monotonic clock.
enum CPlatClock {
    static var nanoseconds: UInt64 { CPlat_monotonic_ns() }
    static var seconds: Double { Double(CPlat_monotonic_ns()) / 1e9 }
    static var cycles: UInt64 { CPlat_cycles() }
}
