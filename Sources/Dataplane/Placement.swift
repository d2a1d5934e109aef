import CPlatform
import Glibc

/// Which thread serves a queue pair: pair k goes to thread k modulo their number, among the threads
/// whose CPU lies on the node of the guest's memory where there are any.
enum Placement {
    struct Choice {
        let thread: Int
        /// For the log: what was chosen and why.
        let reason: String
    }

    /// NUMA node of a CPU by /sys; -1 if the kernel tells none.
    static func node(ofCPU cpu: Int) -> Int {
        for node in 0..<64 where access("/sys/devices/system/cpu/cpu\(cpu)/node\(node)", F_OK) == 0 { return node }
        return -1
    }

    /// `cpus`: those of the threads, -1 where a thread is not pinned. `memory`: a page of the guest's memory.
    static func choose(pair: Int, cpus: [Int], memory: UnsafeMutableRawPointer) -> Choice {
        let node = Int(CPlat_node_of_page(memory))
        let near = cpus.indices.filter { cpus[$0] >= 0 && node >= 0 && Placement.node(ofCPU: cpus[$0]) == node }
        if near.isEmpty {
            let thread = pair % cpus.count
            let why = cpus[thread] < 0 ? "threads are not pinned (--cpus)" : node < 0 ? "the node of the guest's memory is not known" : "no thread runs on node \(node), where the guest's memory lies"
            return Choice(thread: thread, reason: "thread \(thread)\(place(cpus[thread])): \(why)")
        }
        let thread = near[pair % near.count]
        return Choice(thread: thread, reason: "thread \(thread)\(place(cpus[thread])): the guest's memory lies on node \(node)")
    }

    private static func place(_ cpu: Int) -> String {
        cpu < 0 ? "" : " (CPU \(cpu), node \(node(ofCPU: cpu)))"
    }
}
