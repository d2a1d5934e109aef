import FirewallFunction
import Foundation
import Glibc
import Synchronization

/// SIGHUP asks for the rules to be read again.
enum ReloadSignal {
    private static let came = Atomic<Bool>(false)

    static func install() {
        // Made before the handler needs it.
        _ = take()
        signal(SIGHUP) { _ in ReloadSignal.came.store(true, ordering: .relaxed) }
    }

    /// Whether it came since the last call.
    static func take() -> Bool { came.exchange(false, ordering: .relaxed) }
}

func readRules(_ path: String) throws -> Rules { try Rules(String(contentsOfFile: path, encoding: .utf8)) }
