import CPlatform
import Virtio

/// What an embedder's packet function is told, and what it tells.
extension Engine {
    /// Gives every thread's function a command and returns their answers, in the threads' order. Each obeys between two
    /// bursts, all of them side by side; this returns when all have: what a command has replaced nobody reads any more.
    /// Throws where the engine does not run, or not with this function.
    ///
    /// ```swift
    /// let answers = try engine.send(
    ///     .first(.bytesPerSecond(125_000_000)), to: Chain<Limiter, Firewall>.self)
    /// ```
    @discardableResult
    public func send<F: PacketFunction & ~Copyable>(_ command: F.Command, to function: F.Type) throws(EngineError) -> [F
        .Answer]
    {
        guard let core else { throw EngineError("the engine does not run: no function can be told anything") }
        var work = ThreadWork()
        // Each thread writes its own, and `run` waits for all.
        let answers = core.threads.map { _ in FunctionAnswer<F.Answer>() }
        for (thread, answer) in zip(core.threads, answers) {
            guard let box = thread.kept as? TypedFunctionBox<F> else {
                throw EngineError("the engine's packet function is not \(F.self)")
            }
            work.add(thread.index) { thread in
                // Brought up to date just before.
                let state = thread.state
                answer.value = box.perform(
                    command, at: BurstTime(seconds: state.pointee.seconds, ticks: state.pointee.now))
            }
        }
        core.run(work)
        return answers.map { $0.value! }
    }

    /// Returns when every poll thread has finished the burst that it had begun: what functions could see before, none
    /// of them reads any more. At once where the engine does not run.
    ///
    /// ```swift
    /// isOpen.store(false, ordering: .relaxed)
    /// engine.synchronize()
    /// // No thread is in a burst any more that has seen the old value.
    /// ```
    public func synchronize() {
        guard let core else { return }
        var work = ThreadWork()
        for thread in core.threads { work.add(thread.index) { _ in } }
        core.run(work)
    }

    /// Has all functions read another value from now on, while packets flow; the old one is freed before this returns.
    /// The value is made on the caller's thread: no packet waits for it.
    ///
    /// ```swift
    /// engine.replace(rules, with: try Classifier(new))
    /// ```
    public func replace<Value: ~Copyable & Sendable>(_ table: ReadMostly<Value>, with value: consuming Value) {
        let old = table.exchange(value)
        synchronize()
        old.release()
    }

    /// The function's own counters, summed over all threads, by their names; after `stop` those of the moment before.
    /// Of Ringway's modes `switch` has some, where its ports have options.
    public func functionCounters() -> [(name: String, count: UInt64)] {
        guard let core else { return lastFunctionCounters }
        if core.mode == .switch && core.guarded == nil { return [] }
        return functionNames.counters.enumerated().map { i, name in
            (name, core.threads.reduce(0) { $0 &+ $1.state.pointee.functionCounters[i] })
        }
    }
}

/// What the function of one thread answers: that thread writes it during `EngineCore.run`.
private final class FunctionAnswer<Answer> {
    var value: Answer?
}

/// The addresses of `ForwardingMode.switch`.
extension Engine {
    /// The addresses that the switch knows now, by port, VLAN and address; none in other modes, and where the engine
    /// does not run. Poll threads go on meanwhile.
    public func macTable() -> [TableAddress] {
        knownAddresses.sorted {
            ($0.port, $0.vlan ?? 0, $0.mac.rawValue.byteSwapped) < ($1.port, $1.vlan ?? 0, $1.mac.rawValue.byteSwapped)
        }
    }

    /// The same in no order.
    var knownAddresses: [TableAddress] {
        guard let core else { return [] }
        let seconds = TickClock.shared.seconds(CPlat_cycles())
        return core.addresses?.entries(seconds: seconds) ?? core.guarded?.addresses.entries(seconds: seconds) ?? []
    }

    /// Forgets addresses: all that were learned, or those of a port (by its place in the options), or in a VLAN; sticky
    /// ones, too, but no static ones. Returns how many they were. Poll threads go on meanwhile; they may learn an
    /// address anew at once. The plain switch knows no VLANs: there an address is in none.
    @discardableResult
    public func clearAddresses(port: Int? = nil, vlan: UInt16? = nil) -> Int {
        guard let core else { return 0 }
        if let addresses = core.addresses { return vlan == nil ? addresses.clear(port: port) : 0 }
        return core.guarded?.addresses.clear(port: port, vlan: vlan) ?? 0
    }
}
