import CPlatform
import Virtio

/// What is changed of a mode while packets flow. Threads learn of it between two bursts.
extension Engine {
    /// Gives a port of `ForwardingMode.switch` other options: VLANs, limits, addresses and whatever else stands there.
    /// What other ports have learned and used up of their rates stays, and of this port what it has used up; where its
    /// VLANs are others, the addresses that were learned there are forgotten, but for sticky ones. Throws, and nothing
    /// has changed, where they cannot be, or where the mode is another one.
    public func setSwitching(_ switching: SwitchPort, port name: String) throws(EngineError) {
        let (core, port) = try find(name)
        let place = port.port.index
        if options.mode != .switch { throw EngineError("\(name): access, isolated and the like go with --mode switch") }
        let new = portOptions.map { other in
            var options = other.options
            if other.place == place { options.switching = switching }
            return options
        }
        try Engine.checkSwitch(new, options.mode)
        ports[place]?.setSwitching(switching)
        tellSwitch(core)
        if switching.vlans != port.options.switching.vlans { core.forgetAddresses(port: place) }
    }

    /// Seconds after which the switch forgets an address that was not heard of, from now on: 1 to 1,000,000. Throws in
    /// other modes.
    public func setMACAgeing(_ seconds: Int) throws(EngineError) {
        guard let core else { throw EngineError("the engine does not run; EngineOptions.macAgeing is for its start") }
        if options.mode != .switch { throw EngineError("the mode is not switch, which alone learns addresses") }
        if !Engine.ageings.contains(seconds) {
            throw EngineError("an ageing of \(seconds) seconds; 1 to \(Engine.ageings.upperBound) are possible")
        }
        if seconds == macAgeing { return }
        macAgeing = seconds
        if core.replaceAddresses(ageing: seconds, ports: portOptions.count) { return }
        tellSwitch(core)
    }

    /// Bytes of the frames that `ForwardingMode.generate` sends from now on, 14 to 9216 without CRC. Throws in other
    /// modes.
    public func setGeneratedSize(_ size: Int) throws(EngineError) {
        guard let core else { throw EngineError("the engine does not run; its mode says the size at its start") }
        if !core.generates { throw EngineError("the mode is not generate, which alone makes frames of a size") }
        try Engine.check(generated: size)
        var work = ThreadWork()
        for thread in core.threads {
            work.add(thread.index) { $0.state.pointee.template = FrameTemplate(Frames.udp(size: size)) }
        }
        core.run(work)
        generatedSize = size
    }

    /// Microseconds that the embedder's packet function may take for a burst from now on before it is counted as slow
    /// (`ThreadSnapshot.slowBursts`): 1 to 1,000,000. What was counted stays. Throws, and nothing has changed, where
    /// packets are judged by a mode of Ringway's, whose bursts are not timed.
    ///
    /// ```swift
    /// try engine.setFunctionBudget(500)
    /// ```
    public func setFunctionBudget(_ microseconds: Int) throws(EngineError) {
        guard let core else {
            throw EngineError("the engine does not run; EngineOptions.functionBudget is for its start")
        }
        // A switch's function of Ringway's has traits, too.
        guard embedded != nil, var traits = core.judging.traits else {
            throw EngineError("the engine has no packet function of its own, whose bursts alone are timed")
        }
        try Engine.check(functionBudget: microseconds)
        // For captures, too, which begin and end later.
        traits.budgetMicroseconds = microseconds
        core.setTraits(traits)
        var work = ThreadWork()
        for thread in core.threads {
            work.add(thread.index) { $0.state.pointee.setFunctionBudget(microseconds: microseconds) }
        }
        core.run(work)
        functionBudget = microseconds
    }

    static let ageings = 1...1_000_000
}

extension EngineCore {
    /// The plain switch goes on with another table, which knows what the old one knows. False: there is none.
    fileprivate func replaceAddresses(ageing: Int, ports: Int) -> Bool {
        guard let old = addresses else { return false }
        let new = MACTable(ports: ports, places: places, ageing: ageing)
        new.take(old, seconds: TickClock.shared.seconds(CPlat_cycles()))
        setAddresses(new)
        // What threads have learned meanwhile.
        new.take(old, seconds: TickClock.shared.seconds(CPlat_cycles()))
        return true
    }
}
