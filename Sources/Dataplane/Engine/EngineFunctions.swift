import CPlatform
import Virtio

/// What an embedder's packet function is told, and what it tells.
extension Engine {
    /// Gives every thread's function a command and returns their answers, in the threads' order. Each obeys between two
    /// bursts, all of them side by side; this returns when all have: what a command has replaced nobody reads any more.
    /// Throws where the engine does not run, or not with this function.
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
            work.add(thread.index) { _ in answer.value = box.perform(command) }
        }
        core.run(work)
        return answers.map { $0.value! }
    }

    /// Returns when every poll thread has finished the burst that it had begun: what functions could see before, none
    /// of them reads any more. At once where the engine does not run.
    public func synchronize() {
        guard let core else { return }
        var work = ThreadWork()
        for thread in core.threads { work.add(thread.index) { _ in } }
        core.run(work)
    }

    /// Has all functions read another value from now on, while packets flow; the old one is freed before this returns.
    /// The value is made on the caller's thread: no packet waits for it.
    public func replace<Value: ~Copyable>(_ table: ReadMostly<Value>, with value: consuming Value) {
        let old = table.exchange(value)
        synchronize()
        old.release()
    }

    /// The function's own counters, summed over all threads, by their names; after `stop` those of the moment before.
    public func functionCounters() -> [(name: String, count: UInt64)] {
        guard let core else { return lastFunctionCounters }
        return functionNames.counters.enumerated().map { i, name in
            (name, core.threads.reduce(0) { $0 &+ Counter($1.state.pointee.functionCounters.start + i).value })
        }
    }
}

/// What the function of one thread answers: that thread writes it during `EngineCore.run`.
private final class FunctionAnswer<Answer> {
    var value: Answer?
}
