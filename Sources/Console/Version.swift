import CRingway

/// What `ringway --version` tells.
package enum Version {
    /// It stands in ringway.h alone.
    package static let number = RINGWAY_VERSION

    package static var text: String { "ringway \(number) (\(commit)\(architecture), Swift \(compiler), \(build))" }

    /// Known where a package was built.
    private static var commit: String {
        let text = String(cString: CRingway_commit())
        return text.isEmpty ? "" : "commit \(text), "
    }

    private static var build: String {
        #if DEBUG
        "debug build: figures of speed mean nothing"
        #else
        "release build"
        #endif
    }

    private static var compiler: String {
        #if compiler(>=6.4)
        "6.4 or later"
        #elseif compiler(>=6.3)
        "6.3"
        #else
        "6.2"
        #endif
    }

    private static var architecture: String {
        #if arch(x86_64)
        "x86-64"
        #else
        "arm64"
        #endif
    }
}
