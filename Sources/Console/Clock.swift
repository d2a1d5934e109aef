import CPlatform

/// The time-stamp counter and the monotonic clock.
package enum CPlatClock {
    package static var nanoseconds: UInt64 { CPlat_monotonic_ns() }
    package static var seconds: Double { Double(CPlat_monotonic_ns()) / 1e9 }
    package static var cycles: UInt64 { CPlat_cycles() }
}
