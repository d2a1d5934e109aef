import CPlatform
import Console
import Foundation
import Logging
import Glibc
import Memory
import Ringway

extension UpgradeChannel {
    /// Of the documents in a pause one of each kind.
    static func rehearse() {
        rehearse(EnginePlaces.example)
        rehearse(Upgrade.Step(kind: .running, problem: nil, since: 0))
    }

    func say(_ kind: Upgrade.Step.Kind, _ problem: String? = nil, since: UInt64? = nil) throws(UpgradeError) {
        try send(Upgrade.Step(kind: kind, problem: problem, since: since))
    }

    @discardableResult
    func expect(_ kind: Upgrade.Step.Kind, within seconds: Double) throws(UpgradeError) -> Upgrade.Step {
        let step = try receive(Upgrade.Step.self, within: seconds)
        if step.kind == kind { return step }
        throw UpgradeError(step.problem ?? "the other ringway says \(step.kind), not \(kind)")
    }
}

/// The old end: hands its engine to the process at a channel's other end. On the thread that calls the engine.
struct Predecessor {
    let engine: Engine
    let channel: UpgradeChannel
    let manager: ServiceManager?
    /// Before the other process may go on, and after it has failed to: whether sockets' files go with this one.
    let keepsFiles: (Bool) -> Void

    /// Returns when the other process goes on in this one's place; `Engine.stop` is what is left. Throws when it does
    /// not go on: all is as it was.
    func handOver(_ handed: (EngineState) throws -> Upgrade.Handed) throws -> Upgrade.Pause {
        do { return try lead(handed) } catch {
            try? channel.say(.problem, "\(error)")
            throw error
        }
    }

    private func lead(_ handed: (EngineState) throws -> Upgrade.Handed) throws -> Upgrade.Pause {
        try channel.expect(.begin, within: 10)
        let handover = try EngineHandover(engine)
        var pause = Upgrade.Pause(begin: 0, stopped: 0, ready: 0, end: 0)
        do {
            try channel.send(try handed(handover.state))
            UpgradeChannel.rehearse()
            try channel.expect(.prepared, within: 30)
            keepsFiles(false)
            pause.begin = CPlat_monotonic_ns()
            let places = handover.stop()
            pause.stopped = CPlat_monotonic_ns()
            try channel.send(places)
            try channel.expect(.ready, within: 5)
            pause.ready = CPlat_monotonic_ns()
        } catch {
            handover.resume()
            keepsFiles(true)
            throw error
        }
        do {
            try channel.say(.go)
            pause.end = try channel.expect(.running, within: .infinity).since ?? CPlat_monotonic_ns()
        } catch {
            // It may have started rings: this one must not go on beside it. It has a deadline.
            channel.waitForEnd()
            handover.resumeAfterCrash()
            keepsFiles(true)
            throw error
        }
        // Whatever becomes of the other one from here on, it has the rings.
        if let process = channel.peer?.process { manager?.successor(process) }
        handover.closeOthers()
        try? channel.send(handover.counters)
        handover.leave()
        return pause
    }
}

/// The new end: goes on in the place of a ringway that runs.
package final class Successor {
    private let channel: UpgradeChannel
    /// As the other one runs now.
    package let settings: Settings
    /// The variables by which the other one found its service manager.
    package let manager: [String: String]
    /// Set while the other one waits for as long as this process lives.
    private let deadline: Deadline
    private var handed: Upgrade.Handed?

    /// Asks the ringway that listens at this control socket. Nothing has changed there yet. Throws what it says, or
    /// what it is.
    package init(_ path: String) throws {
        let client = try ControlClient(path)
        let answer = try client.call(Methods.Upgrade.self, .init())
        guard answer.upgrade == Upgrade.version else {
            throw UpgradeError(
                "\(path): version \(answer.version) hands over in way \(answer.upgrade), not \(Upgrade.version); "
                    + "restart instead")
        }
        settings = try SettingsFile(answer.config, file: path).settings
        // It is this one that is watched.
        let isWatched = answer.manager["WATCHDOG_USEC"] != nil
        manager = answer.manager.merging(isWatched ? ["WATCHDOG_PID": "\(getpid())"] : [:]) { $1 }
        deadline = try Deadline()
        channel = UpgradeChannel(client.give())
    }

    /// Goes on with `engine`, which was made of `settings` and not started. Throws where that fails: the other one goes
    /// on then, and `engine` is as if it had been stopped.
    package func takeOver(_ engine: Engine) throws {
        do { try prepare(engine) } catch {
            try? channel.say(.problem, "\(error)")
            throw error
        }
    }

    private func prepare(_ engine: Engine) throws {
        try channel.say(.begin)
        let handed = try channel.receive(Upgrade.Handed.self, within: 30)
        let takeover = try EngineTakeover(engine, handed.engine)
        UpgradeChannel.rehearse()
        do {
            try channel.say(.prepared)
            try takeover.check(try channel.receive(EnginePlaces.self, within: 10))
            // From `go` on the other one waits for this one's word or end, and packets with it.
            try deadline.set(seconds: Upgrade.limit)
            try channel.say(.ready)
            try channel.expect(.go, within: Upgrade.goLimit)
        } catch {
            // The deadline stays: the other one may have said `go`, and waits until the connection ends, as it does
            // with this process or this object.
            takeover.leave()
            throw error
        }
        takeover.go { since in
            // The other one may be gone: then there is nobody to tell, and nothing more to count.
            try? channel.say(.running, since: since)
            deadline.clear()
        }
        self.handed = handed
        if let counters = try? channel.receive(EngineCounters.self, within: 10) { takeover.count(counters) }
        takeover.openOthers()
    }

    /// What the other one's control sockets were, and since when it counted.
    func inherit() -> Upgrade.Handed? { handed }
}
