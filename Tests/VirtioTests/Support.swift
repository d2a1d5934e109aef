@_exported import TestSupport
import Testing
import Virtio

extension Random {
    mutating func within(_ range: ClosedRange<Int>) -> Int { range.lowerBound + below(range.count) }
    mutating func chance(_ percent: Int) -> Bool { below(100) < percent }

    /// `length` as a sum of `pieces` positive parts.
    mutating func split(_ length: Int, into pieces: Int) -> [Int] {
        precondition(pieces >= 1 && pieces <= length)
        var cuts = Set<Int>()
        while cuts.count < pieces - 1 { cuts.insert(within(1...max(1, length - 1))) }
        var parts: [Int] = []
        var last = 0
        for cut in cuts.sorted() + [length] {
            parts.append(cut - last)
            last = cut
        }
        return parts
    }
}

/// One queue's shape in a parametrised test; its description names the seed.
struct Shape: CustomTestStringConvertible, Sendable {
    var size: UInt32
    var isPacked: Bool
    var features: Features
    var seed: UInt64

    var testDescription: String {
        "\(isPacked ? "packed" : "split") \(size) \(features.bitNames.joined(separator: "+")) seed \(seed)"
    }

    /// Every combination of the optional features `of`, for sizes of both formats.
    static func all(split: [UInt32], packed: [UInt32], of optional: [Features]) -> [Shape] {
        var shapes: [Shape] = []
        for (sizes, isPacked) in [(split, false), (packed, true)] {
            for size in sizes {
                for choice in 0..<(1 << optional.count) {
                    var features: Features = isPacked ? [.version1, .ringPacked] : [.version1]
                    for (i, f) in optional.enumerated() where choice & (1 << i) != 0 { features.insert(f) }
                    shapes.append(
                        Shape(size: size, isPacked: isPacked, features: features, seed: UInt64(shapes.count + 1)))
                }
            }
        }
        return shapes
    }
}

/// How often a random test goes round: `n` times, or where the code is not optimised an eighth of it, but `least` times.
func rounds(_ n: Int, least: Int = 0) -> Int {
    #if DEBUG
    max(n / 8, least)
    #else
    n
    #endif
}

/// Zeroed memory aligned to a page; the test frees it.
func zeroed(_ bytes: Int) -> UnsafeMutableRawPointer {
    let p = UnsafeMutableRawPointer.allocate(byteCount: max(bytes, 1), alignment: 4096)
    p.initializeMemory(as: UInt8.self, repeating: 0, count: max(bytes, 1))
    return p
}
