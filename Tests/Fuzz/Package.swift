// swift-tools-version: 6.2
import PackageDescription

// Apart from the main package: it is built with the fuzzer's instrumentation (tools/fuzz).
let package = Package(
    name: "fuzz",
    dependencies: [.package(name: "ringway", path: "../..")],
    targets: [
        .executableTarget(
            name: "Fuzz", dependencies: [.product(name: "Ringway", package: "ringway")], path: "Sources")
    ]
)
