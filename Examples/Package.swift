// swift-tools-version: 6.2
import PackageDescription

/// What an embedder takes from Ringway. From elsewhere it is `.package(url: …)` in place of the path.
let ringway: Target.Dependency = .product(name: "Ringway", package: "ringway")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")

/// An example: the packet function, a program that runs it in an engine, and tests of the function without one.
func example(_ name: String) -> [Target] {
    let function = "\(name)Function"
    return [
        .target(name: function, dependencies: [ringway], path: "\(name)/Function"),
        .executableTarget(
            name: "\(name)Program", dependencies: [.target(name: function), ringway, logging], path: "\(name)/Program"),
        .testTarget(name: "\(name)Tests", dependencies: [.target(name: function), ringway]),
    ]
}

let names = ["Firewall", "Mirror", "RateLimiter", "Router", "VLANSwitch"]

let package = Package(
    name: "examples",
    products: names.map { .executable(name: $0.lowercased(), targets: ["\($0)Program"]) },
    dependencies: [
        .package(name: "ringway", path: ".."),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    ],
    targets: names.flatMap(example)
)
