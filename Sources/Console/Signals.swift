import Foundation
import Glibc
import Ringway
import Synchronization

/// What asks this program to end. A command that has something to show ends by itself when it sees that; else, or when
/// it does not within ten seconds, or at another signal a second later, the program ends here. (Who runs a command in a
/// terminal may pass on what the terminal sends, too: two at once are one.)
package enum Signals {
    private static let signals = EndSignals()
    private static let isHandedOver = Atomic(false)
    private static let patience = 10.0

    /// Once, before other threads are made.
    package static func watch() {
        let signals = self.signals
        Thread.detachNewThread {
            guard let number = signals.wait() else { return }
            let start = CPlatClock.seconds
            var age: Double { CPlatClock.seconds - start }
            func wait(_ condition: () -> Bool) {
                while isHandedOver.load(ordering: .relaxed) && condition() { usleep(20_000) }
            }
            wait { age < 1 }
            let early = signals.count
            wait { age < patience && signals.count == early }
            Leftovers.clear()
            signal(number, SIG_DFL)
            raise(number)
        }
    }

    /// From now on the command ends by itself.
    package static func handOver() { isHandedOver.store(true, ordering: .relaxed) }

    package static var haveCome: Bool { signals.first != nil }

    /// Sleeps until one has come (true) or `end` (false), a time of `CPlatClock.seconds`; for ever without an end.
    package static func wait(until end: Double?) -> Bool {
        signals.wait(seconds: end.map { $0 - CPlatClock.seconds } ?? .infinity) != nil
    }

    /// Ends the program where one came, after what there was has been printed: says so, on standard output where that
    /// is for people.
    package static func endIfCome() {
        guard let number = signals.first else { return }
        let line = "interrupted by \(name(number)): what was not measured by then is missing"
        if isGiven("--json") { note(line) } else { print(line) }
        flush()
        exit(128 + number)
    }
}

extension Signals {
    private static func name(_ number: Int32) -> String {
        let names = [SIGINT: "SIGINT", SIGTERM: "SIGTERM", SIGHUP: "SIGHUP", SIGQUIT: "SIGQUIT"]
        return names[number] ?? "signal \(number)"
    }

    private struct Mark: Encodable {
        var type = "interrupted"
        var signal: Int32
    }

    /// The last line of a command that prints a JSON object for each step.
    package static func printMark() {
        if let number = signals.first { printJSON(Mark(signal: number)) }
    }
}

/// Thrown where waiting for another program was given up because of a signal.
package struct Interrupted: Error {
    package init() {}
}
