import Memory

/// Which thread serves a queue pair: pair k goes to thread k modulo their number, among the threads
/// whose CPU lies on the node of the guest's memory where there are any.
enum Placement {
    struct Choice {
        let thread: Int
        /// For the log: what was chosen and why.
        let reason: String
    }

    /// `cpus`: those of the threads, -1 where a thread is not pinned. `node`: that of the guest's memory, -1 where
    /// it is not known.
    static func choose(pair: Int, cpus: [Int], node: Int) -> Choice {
        let near = cpus.indices.filter { cpus[$0] >= 0 && node >= 0 && NUMA.node(ofCPU: cpus[$0]) == node }
        if near.isEmpty {
            let thread = pair % cpus.count
            let why =
                cpus[thread] < 0
                ? "threads are not pinned (--cpus)"
                : node < 0
                    ? "the node of the guest's memory is not known"
                    : "no thread runs on node \(node), where the guest's memory lies"
            return Choice(thread: thread, reason: "thread \(thread)\(place(cpus[thread])): \(why)")
        }
        let thread = near[pair % near.count]
        return Choice(
            thread: thread, reason: "thread \(thread)\(place(cpus[thread])): the guest's memory lies on node \(node)")
    }

    private static func place(_ cpu: Int) -> String {
        cpu < 0 ? "" : " (CPU \(cpu), node \(NUMA.node(ofCPU: cpu)))"
    }
}

/// The thread that a pair goes to.
struct PairPlace {
    let pair: PairPointer
    let thread: Int
    /// `Placement.Choice.reason`.
    let reason: String
}
