// swift-tools-version: 6.2
import PackageDescription

// Apart from the main package, so that those who embed Ringway do not build the benchmark library.
let package = Package(
    name: "benchmarks",
    dependencies: [
        .package(name: "ringway", path: ".."),
        .package(url: "https://github.com/ordo-one/benchmark", from: "1.38.1", traits: []),
    ],
    targets: [
        .executableTarget(
            name: "RingCore",
            dependencies: [
                .product(name: "Ringway", package: "ringway"), .product(name: "Benchmark", package: "benchmark"),
            ],
            path: "RingCore",
            plugins: [.plugin(name: "BenchmarkPlugin", package: "benchmark")])
    ]
)
