import Ringway

/// What an engine has counted.
package struct EngineCounts {
    package let ports: [PortSnapshot]
    package let times: [QueueTimeSnapshot]
    package let threads: [ThreadSnapshot]
    /// The packet function's, by its names.
    package let function: [(name: String, count: UInt64)]

    /// On a thread that may call it. `threads`: from before it stopped.
    package init(_ engine: Engine, threads: [ThreadSnapshot]? = nil) {
        (ports, times) = (engine.snapshot(), engine.queueTimes())
        self.threads = threads ?? engine.threadSnapshots()
        function = engine.functionCounters()
    }
}
