/// A port in its place.
struct PlacedPort {
    let port: any EnginePort
    /// Ports that the engine had before it.
    let serial: UInt64
    var isUp = true
    /// As it was added, with what was changed since.
    private(set) var options: PortOptions

    init(_ port: any EnginePort, serial: UInt64) {
        (self.port, self.serial, options) = (port, serial, port.options)
    }

    mutating func setBusyloop(_ budget: BusyloopBudget?) { options.busyloop = budget }
    mutating func setMTU(_ mtu: UInt16) { options.mtu = mtu }
    mutating func setEmit(_ size: Int?) {
        if case .null(let name, _) = options.kind { options.kind = .null(name: name, emit: size) }
    }
    mutating func setThreads(_ threads: [Int]) { options.threads = threads }
    mutating func setSwitching(_ switching: SwitchPort) { options.switching = switching }
}
