import CRingway
import Control
import Virtio

/// Causes of drops that the program has registered by name, for all engines. Their places count from the last one down,
/// those of a function's own causes from the first one up: so a cause is the same number in each engine.
enum CCauses {
    private static let registered = Locked<[String]>([])

    /// What drops for the cause of this name, which may be a new one.
    static func register(_ name: String) throws(CFailure) -> Verdict {
        try registered.withLock { names throws(CFailure) in
            let place = names.firstIndex(of: name) ?? names.count
            if place == Verdict.mostCauses {
                throw CFailure(
                    RINGWAY_ERROR_RANGE, "\(name): \(place) causes are registered already, and no more can be")
            }
            if place == names.count { names.append(name) }
            return .dropCause(Verdict.mostCauses - 1 - place)
        }
    }

    /// The names of all causes of a function by their places, and the first place of those that were registered so far.
    static func places(after own: [String]) throws(CFailure) -> (names: [String], first: Int) {
        let names = registered.value
        if names.isEmpty { return (own, Verdict.mostCauses) }
        let first = Verdict.mostCauses - names.count
        if own.count > first {
            throw CFailure(
                RINGWAY_ERROR_RANGE,
                "drop_causes: \(own.count), and \(names.count) causes are registered; at most "
                    + "\(Verdict.mostCauses) are possible in all")
        }
        // Nothing drops for those between.
        return (own + [String](repeating: "", count: first - own.count) + names.reversed(), first)
    }
}

@c @implementation
public func ringway_cause_register(_ name: UnsafePointer<CChar>!, _ cause: UnsafeMutablePointer<ringway_cause>!)
    -> Int32
{
    cause?.pointee = ringway_cause(verdict: Verdict.drop.rawValue)
    return outsideAnswer("ringway_cause_register") {
        guard let name, let cause else { throw CFailure(RINGWAY_ERROR_ARGUMENT, "name or cause is NULL") }
        let text = String(cString: name)
        if text.isEmpty { throw CFailure(RINGWAY_ERROR_ARGUMENT, "a cause without a name") }
        cause.pointee.verdict = try CCauses.register(text).rawValue
    }
}
