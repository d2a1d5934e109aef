/// What `ringway --version` tells.
package enum Version {
    package static let number = "0.1.0"

    package static var text: String { "ringway \(number) (\(architecture), Swift \(compiler), \(build))" }

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
