import Benchmark
import Ringway

/// A thousand frames (or look-ups) are one iteration: the figures are nanoseconds a frame.
let benchmarks: @Sendable () -> Void = {
    Benchmark.defaultConfiguration = .init(
        metrics: [.wallClock, .throughput], warmupIterations: 20, scalingFactor: .kilo, maxDuration: .milliseconds(300),
        maxIterations: 100_000)

    rings()
    chains()
    copies()
    translations()
    addresses()
}

let formats: [(name: String, isPacked: Bool, isInOrder: Bool)] = [
    ("split", false, false), ("split in order", false, true), ("packed", true, false), ("packed in order", true, true),
]

/// Bursts of every size through rings of every format, both sides counted.
func rings() {
    for f in formats {
        for n in [1, 4, 8, 16, 32, 64] {
            Benchmark("ring: \(f.name), bursts of \(n)") { benchmark in
                let loop = try Loop(isPacked: f.isPacked, isInOrder: f.isInOrder)
                benchmark.startMeasurement()
                for _ in 0..<benchmark.scaledIterations.count / n { loop.transmit(n, length: 64, .single) }
            }
        }
    }
}

/// Chains of other shapes than one buffer, in bursts of 32.
func chains() {
    for f in formats where !f.isInOrder {
        for chain in Loop.Chain.allCases {
            Benchmark("chain: \(f.name), \(chain.rawValue)") { benchmark in
                let loop = try Loop(isPacked: f.isPacked, isInOrder: false)
                benchmark.startMeasurement()
                for _ in 0..<benchmark.scaledIterations.count / 32 { loop.transmit(32, length: 64, chain) }
            }
        }
    }
}

/// Delivery into receive buffers: the one copy, into one buffer and over several.
func copies() {
    for f in formats where !f.isInOrder {
        for (length, room) in [(64, 2048), (256, 2048), (1518, 2048), (1518, 512), (9000, 2048)] {
            Benchmark("copy: \(f.name), \(length) bytes into buffers of \(room)") { benchmark in
                let loop = try Loop(isPacked: f.isPacked, isInOrder: false, stride: 9216)
                let source = UnsafeMutableRawPointer.allocate(byteCount: 32 * 9216, alignment: 64)
                source.initializeMemory(as: UInt8.self, repeating: 0x5a, count: 32 * 9216)
                defer { source.deallocate() }
                loop.prepareFrames(32, length: length, from: source)
                benchmark.startMeasurement()
                for _ in 0..<benchmark.scaledIterations.count / 32 { loop.receive(32, length: length, room: room) }
                benchmark.stopMeasurement()
            }
        }
    }
}

/// Address translation by the table, which rings ask when their last region is missed: one region, many, none.
func translations() {
    for (name, count, isHit) in [
        ("1 region", 1, true), ("32 regions", 32, true), ("32 regions, outside of all", 32, false),
    ] {
        Benchmark("translation: \(name)") { benchmark in
            let regions = UnsafeMutablePointer<MappedRegion>.allocate(capacity: count)
            defer { regions.deallocate() }
            let host = UnsafeMutableRawPointer(bitPattern: 0x10_0000)!
            for i in 0..<count {
                (regions + i).initialize(
                    to: MappedRegion(guestAddress: UInt64(i) << 30, size: 1 << 29, userAddress: 0, host: host))
            }
            let map = MemoryMap(regions: regions, count: count)
            benchmark.startMeasurement()
            for i in benchmark.scaledIterations {
                let address = UInt64(i % count) << 30 | (isHit ? 0 : 1 << 29)
                blackHole(map.translate(address, 2048))
            }
            benchmark.stopMeasurement()
        }
    }
}

/// The switch's table: addresses that are known, unknown, and learned anew each second.
func addresses() {
    for name in ["known", "unknown", "heard again in another second"] {
        Benchmark("switch table: \(name)") { benchmark in
            let table = MACTable(ports: 16, ageing: 300)
            for i in 0..<1024 { table.learn(UInt64(i) << 20 | 2, port: i & 15, seconds: 1) }
            let offset: UInt64 = name == "unknown" ? 1 << 44 : 0
            benchmark.startMeasurement()
            for i in benchmark.scaledIterations {
                let mac = (UInt64(i & 1023) << 20 | 2) + offset
                if name.hasPrefix("heard") {
                    table.learn(mac, port: i & 15, seconds: UInt32(2 + i >> 10))
                } else {
                    blackHole(table.find(mac, seconds: 2))
                }
            }
            benchmark.stopMeasurement()
        }
    }
}
