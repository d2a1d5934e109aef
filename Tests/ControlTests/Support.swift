import Control
import Synchronization

/// Plain memory that one piece of work at a time may touch: ThreadSanitizer tells of two, and the count comes out
/// wrong.
final class Plain {
    private(set) var count = 0
    private var isBusy = false
    private(set) var overlaps = 0
    /// The last number of each poster.
    private var last: [Int: Int] = [:]
    private(set) var disorders = 0

    func touch() {
        if isBusy { overlaps += 1 }
        isBusy = true
        count += 1
        isBusy = false
    }

    func touch(poster: Int, number: Int) {
        touch()
        if number != last[poster, default: -1] + 1 { disorders += 1 }
        last[poster] = number
    }
}

/// Numbers in the order in which one thread noted them.
final class Order { var numbers: [Int] = [] }

/// More threads than any machine of ours has CPUs to spare; none is pinned. Each runs `body` with its number.
func onThreads(_ count: Int = 8, _ body: @escaping (Int) -> Void) throws -> [NamedThread] {
    try (0..<count).map { i in try NamedThread("poster-\(i)") { body(i) } }
}

/// Passed by all, or waited at: a place where threads meet.
final class Gate: Sendable {
    private let isOpen = Atomic(false)
    func open() { isOpen.store(true, ordering: .releasing) }
    func wait() { while !isOpen.load(ordering: .acquiring) { giveWay() } }
}
