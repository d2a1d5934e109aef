// swift-tools-version: 6.2
import PackageDescription

/// The rooms that `Ringway` exports. Who uses them through it names them, too: else the package manager does not
/// compile it again when one of them has changed.
let exported: [Target.Dependency] = [
    "Ringway", "Dataplane", "Vhost", "VhostUser", "Virtio", "Memory", "Telemetry", "Headers",
]

let package = Package(
    name: "ringway",
    products: [
        .library(name: "Ringway", targets: ["Ringway"]),
        // What libringway.so is linked from: see tools/install-c.
        .library(name: "RingwayC", type: .static, targets: ["RingwayC"]),
        .executable(name: "ringway", targets: ["RingwayCLI"]),
        .executable(name: "ringway-bench", targets: ["RingwayBench"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
    ],
    targets: [
        // The C of the Swift rooms: prefixed shims for what Swift cannot import.
        .target(name: "CPlatform"),
        .systemLibrary(name: "CLiburing", pkgConfig: "liburing", providers: [.apt(["liburing-dev"])]),
        .systemLibrary(name: "CNuma", pkgConfig: "numa", providers: [.apt(["libnuma-dev"])]),
        .systemLibrary(name: "CSeccomp", pkgConfig: "libseccomp", providers: [.apt(["libseccomp-dev"])]),

        // Headers' views of packets cannot outlive them: such types are made with this feature, and used without it.
        .target(name: "Headers", swiftSettings: [.enableExperimentalFeature("Lifetimes")]),
        .target(
            name: "Virtio", dependencies: ["CPlatform"],
            swiftSettings: [.enableExperimentalFeature("Lifetimes")]),
        .target(name: "Tables", dependencies: ["Virtio", "Headers", "CPlatform"]),
        .target(name: "Memory", dependencies: ["Virtio", "CPlatform", "CNuma"]),
        .target(name: "Control", dependencies: ["Memory", "Virtio", "CPlatform"]),
        .target(name: "VhostUser", dependencies: ["Control", "Virtio", "Memory", "CPlatform"]),
        .target(
            name: "Vhost",
            dependencies: [
                "VhostUser", "Virtio", "Memory", "CPlatform", .product(name: "Logging", package: "swift-log"),
            ]),
        .target(name: "Telemetry", dependencies: ["CPlatform"]),
        .target(
            name: "Dataplane",
            dependencies: [
                "Vhost", "VhostUser", "Control", "Virtio", "Memory", "Telemetry", "Headers", "CPlatform",
                "CLiburing",
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: [.enableExperimentalFeature("Lifetimes")]),
        .target(
            name: "Ringway",
            dependencies: [
                "Dataplane", "Vhost", "VhostUser", "Virtio", "Memory", "Telemetry", "Tables", "Headers", "CPlatform",
            ]),

        // For embedders that write C. CRingway: the header that is installed, and what each thread has of its own.
        .target(name: "CRingway"),
        .target(
            name: "RingwayC",
            dependencies: exported + [
                "CRingway", "Control", "CPlatform", .product(name: "Logging", package: "swift-log"),
            ]),

        // What follows is not for embedders. Console: what the two programs share. RingwayLab: drivers in this process,
        // and what is measured with them.
        .target(
            name: "Console",
            dependencies: exported + [
                "CPlatform", "CRingway", .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]),
        .target(
            name: "RingwayLab",
            dependencies: exported + [
                "Console", "CPlatform", .product(name: "Histogram", package: "hdrhistogram-swift"),
                .product(name: "Logging", package: "swift-log"),
            ]),
        // What runs a dataplane for years: control sockets and who uses them.
        .target(
            name: "Operation",
            dependencies: exported + [
                "RingwayLab", "Console", "Control", "CPlatform", "CSeccomp",
                .product(name: "Logging", package: "swift-log"), .product(name: "Yams", package: "Yams"),
                .product(name: "NIOCore", package: "swift-nio"), .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
            ]),
        .executableTarget(
            name: "RingwayCLI",
            dependencies: exported + [
                "Operation", "RingwayLab", "Console", "CPlatform",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ]),
        .executableTarget(
            name: "RingwayBench",
            dependencies: exported + [
                "RingwayLab", "Console", "CPlatform",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]),

        .testTarget(name: "HeadersTests", dependencies: ["TestSupport", "Headers"]),
        .testTarget(name: "TablesTests", dependencies: ["TestSupport", "Tables", "Virtio", "Headers"]),
        .target(name: "TestSupport", dependencies: ["CPlatform"], path: "Tests/TestSupport"),
        .testTarget(name: "VirtioTests", dependencies: ["TestSupport", "Virtio", "CPlatform"]),
        .testTarget(name: "MemoryTests", dependencies: ["Memory", "Virtio", "CPlatform"]),
        .testTarget(name: "ControlTests", dependencies: ["Control", "Memory", "CPlatform"]),
        .testTarget(name: "TelemetryTests", dependencies: ["Telemetry", "RingwayLab"]),
        .testTarget(name: "VhostUserTests", dependencies: ["VhostUser", "Control", "Memory", "Virtio", "CPlatform"]),
        .testTarget(
            name: "VhostTests",
            dependencies: exported + ["RingwayLab", "CPlatform", .product(name: "Logging", package: "swift-log")]),
        // Lets the kernel refuse io_uring requests of the code under test.
        .target(name: "CRefusal", path: "Tests/CRefusal"),
        .testTarget(
            name: "DataplaneTests",
            dependencies: exported + [
                "RingwayLab", "Control", "CPlatform", "CRefusal",
                .product(name: "Logging", package: "swift-log"),
            ]),
        // The README's embedder: what it links is looked at by a test.
        .executableTarget(
            name: "Embedder", dependencies: exported + [.product(name: "Logging", package: "swift-log")],
            path: "Tests/Embedder"),
        .testTarget(
            name: "OperationTests",
            dependencies: exported + ["TestSupport", "Operation", "RingwayLab", "Console", "CPlatform"]),
        .testTarget(
            name: "IntegrationTests", dependencies: ["TestSupport", "Control", "CPlatform", "Dataplane", "RingwayLab"]),
    ]
)

// What tools/fuzz builds: everything else with the fuzzer's instrumentation, and so in a folder of its own.
if Context.environment["RINGWAY_FUZZING"] != nil {
    package.targets.append(
        .executableTarget(
            name: "Fuzz", dependencies: exported + ["Operation", .product(name: "Logging", package: "swift-log")],
            path: "Tests/Fuzz/Sources"))
}
