import Console
import Foundation
import Ringway
import RingwayLab

/// One thing that is compared.
struct CompareCase {
    var mode: String
    var format: String
    /// Bytes of a frame without CRC; nil: IMIX, 64, 570 and 1518 bytes as 7 : 4 : 1.
    var size: Int?
    var queues: Int
    /// Frames of the driver's burst.
    var burst: Int

    static let modes = ["drop", "generate", "macswap", "crossconnect"]
    static let formats = ["split", "split-in-order", "packed", "packed-in-order"]

    var sizeName: String { size.map { "\($0)" } ?? "imix" }
    var name: String {
        "\(mode) \(format) \(sizeName)" + (queues > 1 ? " \(queues)q" : "") + (burst != 32 ? " burst \(burst)" : "")
    }
    var isPacked: Bool { format.hasPrefix("packed") }
    var isInOrder: Bool { format.hasSuffix("in-order") }
    /// Ports of the device side.
    var ports: Int { mode == "crossconnect" ? 2 : 1 }
    /// The device side sends as many as it receives.
    var returns: Bool { mode == "macswap" || mode == "crossconnect" }

    /// Options of DPDK's virtio-user.
    var rings: String {
        "queues=\(queues),queue_size=1024,packed_vq=\(isPacked ? 1 : 0),in_order=\(isInOrder ? 1 : 0),mrg_rxbuf=1"
    }
    /// What testpmd does as the driver: IMIX comes from a file through its pcap device.
    var driver: String { size == nil ? "io" : ["drop": "txonly", "generate": "rxonly"][mode] ?? "flowgen" }
    /// What testpmd does as the device side.
    var peer: String { ["drop": "rxonly", "generate": "txonly", "crossconnect": "io"][mode] ?? mode }

    /// Every case that the lists name, without those that cannot be: `generate` has one size at a time.
    static func all(modes: String, formats: String, sizes: String, queues: String, bursts: String) throws
        -> [CompareCase]
    {
        let modes = try list(modes, "--modes", Self.modes)
        let formats = try list(formats, "--formats", Self.formats)
        let sizes = try list(sizes, "--sizes", nil).map { text -> Int? in
            if text == "imix" { return nil }
            guard let n = Int(text), (64...1518).contains(n) else {
                throw CompareError("--sizes \(text): 64 to 1518 bytes, or imix")
            }
            return n
        }
        let queues = try numbers(queues, "--queues", 1...8)
        let bursts = try numbers(bursts, "--bursts", 1...512)
        var all: [CompareCase] = []
        for m in modes {
            for q in queues {
                for b in bursts {
                    for f in formats {
                        for s in sizes where s != nil || m != "generate" {
                            all.append(CompareCase(mode: m, format: f, size: s, queues: q, burst: b))
                        }
                    }
                }
            }
        }
        return all
    }

    /// Of frame `i` of the mix.
    static func size(ofFrame i: Int) -> Int { LoadSyntax.imix[i % LoadSyntax.imix.count] }

    static func list(_ text: String, _ option: String, _ known: [String]?) throws -> [String] {
        let all = text.split(separator: ",").map(String.init)
        if all.isEmpty { throw CompareError("\(option): nothing in it") }
        if let known, let odd = all.first(where: { !known.contains($0) }) {
            throw CompareError("\(option) \(odd): write \(known.joined(separator: ", "))")
        }
        return all
    }

    private static func numbers(_ text: String, _ option: String, _ range: ClosedRange<Int>) throws -> [Int] {
        try list(text, option, nil).map {
            guard let n = Int($0), range.contains(n) else {
                throw CompareError("\(option) \($0): \(range.lowerBound) to \(range.upperBound)")
            }
            return n
        }
    }

    /// A capture file (pcap, microseconds, Ethernet) with frames of the mix: UDP between two hosts.
    static func writeIMIX(to path: String) throws {
        func words(_ v: UInt32...) -> Data {
            v.reduce(into: Data()) { d, w in withUnsafeBytes(of: w.littleEndian) { d.append(contentsOf: $0) } }
        }
        var file = words(0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 65535, 1)
        for i in 0..<(LoadSyntax.imix.count * 16) {
            let size = size(ofFrame: i)
            file +=
                words(0, 0, UInt32(size), UInt32(size))
                + Data(frame(size: size, flow: UInt8(i / LoadSyntax.imix.count)))
        }
        try file.write(to: URL(fileURLWithPath: path))
    }

    /// A UDP frame; its checksums are left zero.
    private static func frame(size: Int, flow: UInt8) -> [UInt8] {
        let ip = size - 14
        var f: [UInt8] = [
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, UInt8(ip >> 8), UInt8(ip & 255), 0, 0, 0, 0, 64, 17, 0,
            0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]
        f += [0x10, flow, 0, 9, UInt8((ip - 20) >> 8), UInt8((ip - 20) & 255), 0, 0]
        return f + (f.count..<size).map { UInt8(truncatingIfNeeded: $0) }
    }
}
