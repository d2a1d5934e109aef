// swift-tools-version: 6.2
import PackageDescription

/// What an embedder takes from Ringway. From elsewhere it is `.package(url: …)` in place of the path.
let ringway: Target.Dependency = .product(name: "Ringway", package: "ringway")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")

/// An example: the packet function, a program that runs it in an engine, and tests of the function without one.
/// `parts`: other examples whose functions are in it.
func example(_ name: String, _ parts: [String] = []) -> [Target] {
    let function = "\(name)Function"
    let parts = parts.map { Target.Dependency.target(name: "\($0)Function") }
    return [
        .target(name: function, dependencies: parts + [ringway], path: "\(name)/Function"),
        .executableTarget(
            name: "\(name)Program", dependencies: parts + [.target(name: function), ringway, logging],
            path: "\(name)/Program"),
        .testTarget(name: "\(name)Tests", dependencies: parts + [.target(name: function), ringway]),
    ]
}

/// With the examples that they are made of.
let examples: KeyValuePairs = [
    "Firewall": [], "Mirror": [], "NAT44": ["Router"], "RateLimiter": [], "Router": [], "VLANSwitch": [],
    "VXLANGateway": ["Router"],
]

let package = Package(
    name: "examples",
    products: examples.map { .executable(name: $0.key.lowercased(), targets: ["\($0.key)Program"]) },
    dependencies: [
        .package(name: "ringway", path: ".."),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    ],
    targets: examples.flatMap { example($0.key, $0.value) }
)
