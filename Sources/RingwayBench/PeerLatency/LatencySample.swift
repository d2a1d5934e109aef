import RingwayLab

/// What one side did with the frames of one sample. Nanoseconds.
struct LatencySample: Encodable {
    /// A sample is marked where a CPU was taken away for longer.
    static let stall: UInt64 = 200_000

    let offered: UInt64
    let lost: UInt64
    let p50: UInt64
    let p99: UInt64
    let p999: UInt64
    let max: UInt64
    /// How late the driver itself was: p99.
    let driverLate: UInt64
    /// How long the driver's thread and the device side's did not have their CPUs.
    let driverStolen: UInt64
    /// 0 where the kernel does not tell.
    let deviceStolen: UInt64

    init(_ paced: Load.Paced, driverStolen: UInt64, deviceStolen: UInt64) {
        (offered, lost, max) = (paced.offered, paced.lost, paced.roundTrip.maximum)
        (p50, p99) = (paced.roundTrip.percentile(50), paced.roundTrip.percentile(99))
        p999 = paced.roundTrip.percentile(99.9)
        driverLate = paced.lateness.percentile(99)
        (self.driverStolen, self.deviceStolen) = (driverStolen, deviceStolen)
    }

    var isMarked: Bool { Swift.max(driverStolen, deviceStolen) > LatencySample.stall }
    var loss: Double { offered == 0 ? 0 : Double(lost) / Double(offered) }
}
