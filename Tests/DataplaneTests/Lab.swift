import CPlatform
import Glibc
import Logging
import Ringway
import RingwayLab
import Testing

/// An engine with vhost-user ports in a folder of its own, for embedded drivers, and after them other ones (`more`).
final class Lab {
    let engine: Engine
    private let folder: String
    let paths: [String]

    init(
        ports: Int, _ mode: ForwardingMode, pairs: [Int] = [], cpus: [Int] = [], busyloop: BusyloopBudget = .auto,
        ageing: Int = 300,
        batchesCalls: Bool = true, portBusyloop: BusyloopBudget? = nil, unpinned: Int = 1, requests: Int = 1024,
        more: [PortOptions] = [], change: (inout EngineOptions) -> Void = { _ in }
    ) throws {
        (folder, paths) = Lab.places(ports)
        var options = Lab.options(paths, mode, pairs, cpus, busyloop, ageing)
        for i in options.ports.indices { options.ports[i].busyloop = portBusyloop }
        options.ports += more
        options.batchesCalls = batchesCalls
        options.unpinnedThreads = unpinned
        options.requests = requests
        change(&options)
        engine = try Engine(options, logger: Lab.logger)
        try engine.start()
    }

    /// With an embedder's function.
    init<F: PacketFunction & ~Copyable>(
        ports: Int, pairs: [Int] = [], unpinned: Int = 1, more: [PortOptions] = [],
        change: (inout EngineOptions) -> Void = { _ in }, function: @escaping (Int) -> F
    ) throws {
        (folder, paths) = Lab.places(ports)
        var options = Lab.options(paths, .drop, pairs, [], .auto, 300)
        options.ports += more
        options.unpinnedThreads = unpinned
        change(&options)
        engine = try Engine(options, logger: Lab.logger, function: function)
        try engine.start()
    }

    deinit {
        engine.stop()
        rmdir(folder)
    }

    private static func places(_ ports: Int) -> (String, [String]) {
        var template = Array("/tmp/ringway-lab-XXXXXX".utf8CString)
        let folder = String(cString: mkdtemp(&template))
        return (folder, (0..<ports).map { "\(folder)/\($0).sock" })
    }

    static var logger: Logger {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return logger
    }

    private static func options(
        _ paths: [String], _ mode: ForwardingMode, _ pairs: [Int], _ cpus: [Int], _ busyloop: BusyloopBudget,
        _ ageing: Int
    ) -> EngineOptions {
        let ports = paths.enumerated().map { i, path in
            var port = PortOptions(.vhostUser(path: path, isClient: false))
            port.queuePairs = i < pairs.count ? pairs[i] : 1
            port.mac = [2, 0, 0, 0, 9, UInt8(i)]
            port.mtu = 9000
            return port
        }
        var options = EngineOptions(ports: ports, mode: mode, cpus: cpus, busyloop: busyloop)
        options.macAgeing = ageing
        return options
    }

    func driver(_ port: Int, _ set: (inout DriverOptions) -> Void = { _ in }) throws -> EmbeddedDriver {
        var options = DriverOptions()
        options.ringSize = 256
        set(&options)
        return try EmbeddedDriver(path: paths[port], options)
    }

    func drops(_ port: Int) -> [String: UInt64] {
        Dictionary(uniqueKeysWithValues: engine.snapshot()[port].drops.map { ($0.cause, $0.count) })
    }
}

/// How often a test goes round: `n` times, or an eighth of it where the code is not optimised (tools/test's parts
/// `checked` and `threads`), but `least` times.
func rounds(_ n: Int, least: Int = 1) -> Int {
    #if DEBUG
    max(n / 8, least)
    #else
    n
    #endif
}

/// A received frame with its net header.
struct Received: Equatable {
    var header: [UInt8]
    var frame: [UInt8]
}

extension EmbeddedDriver {
    /// Sends frames in order, each with a net header (12 zeroes if none). False when the device takes nothing for two
    /// seconds.
    @discardableResult
    func send(_ frames: [[UInt8]], headers: [[UInt8]] = [], pair: Int = 0) -> Bool {
        var next = 0
        var end = CPlat_monotonic_ns() + 2_000_000_000
        while next < frames.count {
            let n = pairs[pair].prepare(min(DriverPair.burst, frames.count - next))
            for k in 0..<n {
                let out = pairs[pair].outgoing.start + k
                let header = next + k < headers.count ? headers[next + k] : [UInt8](repeating: 0, count: 12)
                out.pointee.length = UInt32(frames[next + k].count)
                header.withUnsafeBytes { (out.pointee.base - 12).copyMemory(from: $0.baseAddress!, byteCount: 12) }
                frames[next + k].withUnsafeBytes {
                    out.pointee.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count)
                }
            }
            if n > 0 {
                pairs[pair].send(n)
                next += n
                end = CPlat_monotonic_ns() + 2_000_000_000
            } else if CPlat_monotonic_ns() > end {
                return false
            }
        }
        return true
    }

    /// The next `count` frames, fewer if they do not come for `milliseconds`.
    func receive(_ count: Int, pair: Int = 0, within milliseconds: UInt64 = 2000) -> [Received] {
        var all: [Received] = []
        var missing = 0
        var end = CPlat_monotonic_ns() + milliseconds * 1_000_000
        while (all.count < count || missing > 0) && CPlat_monotonic_ns() < end {
            let n = pairs[pair].receiveBurst()
            for k in 0..<n {
                let buffer = pairs[pair].incoming[k]
                // Later buffers of a frame begin where a header would be.
                let head = missing > 0 ? buffer.base - 12 : buffer.base
                let bytes = Array(
                    UnsafeRawBufferPointer(start: head, count: Int(buffer.length) + (missing > 0 ? 12 : 0)))
                if missing > 0 {
                    all[all.count - 1].frame += bytes
                    missing -= 1
                } else {
                    let header = Array(UnsafeRawBufferPointer(start: buffer.base - 12, count: 12))
                    all.append(Received(header: header, frame: bytes))
                    missing = Int(header[10]) + Int(header[11]) << 8 - 1
                }
            }
            pairs[pair].giveBack()
            if n > 0 { end = CPlat_monotonic_ns() + milliseconds * 1_000_000 } else { sched_yield() }
        }
        return all
    }

    /// Takes what has come, whatever it is.
    func drain(pair: Int = 0) {
        while pairs[pair].receiveBurst() > 0 { pairs[pair].giveBack() }
        pairs[pair].giveBack()
    }

    /// Waits until the device has dealt with everything that was sent.
    func settle(pair: Int = 0) -> Bool {
        let end = CPlat_monotonic_ns() + 3_000_000_000
        while CPlat_monotonic_ns() < end {
            pairs[pair].reclaim()
            if pairs[pair].outstanding == 0 { return true }
            sched_yield()
        }
        return false
    }
}

/// Frames as tests write them.
enum Frame {
    static func mac(_ n: UInt8) -> [UInt8] { [2, 0, 0, 0, 0, n] }
    static let broadcast = [UInt8](repeating: 0xff, count: 6)

    static func ethernet(to: [UInt8], from: [UInt8], type: [UInt8] = [0x88, 0xb5], _ payload: [UInt8]) -> [UInt8] {
        to + from + type + payload
    }

    /// Multiples of 31, as a frame's bytes are; long enough for one that begins anywhere in a period of 256.
    private static let pattern = (0..<2048).map { UInt8(truncatingIfNeeded: $0 &* 31) }

    /// `count` frames of varied length whose contents tell their number: byte i of frame n is 31 i + n. They are
    /// copied, not calculated, which takes a hundred times as long where nothing is optimised.
    static func numbered(_ count: Int, first: Int = 0, to: [UInt8] = mac(2), from source: [UInt8] = mac(1)) -> [[UInt8]]
    {
        (first..<first + count).map { n in
            let length = 46 + (n * 37) % 1400
            let head = withUnsafeBytes(of: UInt32(n)) { Array($0) }
            // 31 * 223 is 1 modulo 256.
            let start = n * 223 & 255
            return ethernet(to: to, from: source, head + pattern[start + 4..<start + length])
        }
    }

    static func big(_ v: Int) -> [UInt8] { [UInt8(v >> 8 & 255), UInt8(v & 255)] }

    /// One's complement sum of RFC 1071, as plainly as can be.
    static func sum(_ bytes: [UInt8], _ start: Int = 0) -> Int {
        var s = start
        for i in stride(from: 0, to: bytes.count, by: 2) {
            s += Int(bytes[i]) << 8 + (i + 1 < bytes.count ? Int(bytes[i + 1]) : 0)
        }
        while s > 0xffff { s = s & 0xffff + s >> 16 }
        return s
    }

    /// Net header of 5.1.6, little-endian.
    static func header(
        flags: UInt8 = 0, gso: UInt8 = 0, hdrLen: Int = 0, size: Int = 0, start: Int = 0, offset: Int = 0
    ) -> [UInt8] {
        func little(_ v: Int) -> [UInt8] { [UInt8(v & 255), UInt8(v >> 8)] }
        return [flags, gso] + little(hdrLen) + little(size) + little(start) + little(offset) + [0, 0]
    }
}

func eventually(_ condition: () -> Bool) -> Bool {
    for _ in 0..<10_000 {
        if condition() { return true }
        usleep(1000)
    }
    return false
}
