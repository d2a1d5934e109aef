/// The secret of a table: with it, keys that a sender chooses share places no more often than by chance.
///
/// Hashes of `FlowKey` and of addresses are sums of products of words of the key with words of the seed, of which the
/// upper half counts (multilinear hashing with halved multiplications: Lemire and Kaser, "Strongly universal string
/// hashing is fast", 2014). Whatever two keys somebody chooses who knows neither the seed nor hashes made with it, they
/// have the same hash for one seed in 2^32.
public struct HashSeed: Sendable, BitwiseCopyable {
    @usableFromInline let base: UInt64
    @usableFromInline let words: InlineArray<10, UInt64>

    /// A seed that nobody knows.
    public init() {
        base = UInt64.random(in: 0...UInt64.max)
        words = InlineArray { _ in UInt64.random(in: 0...UInt64.max) }
    }

    /// The seed that a number stands for: for tests, or for several tables or threads that are to agree. Whoever knows
    /// the number can choose keys that collide.
    public init(_ number: UInt64) {
        var state = number
        func next() -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var z = state
            z = (z ^ (z &>> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z &>> 27)) &* 0x94d0_49bb_1331_11eb
            return z ^ (z &>> 31)
        }
        base = next()
        words = InlineArray { _ in next() }
    }

    /// The pair of seed words number `i`, 0 to 4, on 64 bits of the key.
    @inlinable @inline(__always)
    func mix(_ i: Int, _ value: UInt64) -> UInt64 {
        (words[2 &* i] &+ (value & 0xffff_ffff)) &* (words[2 &* i &+ 1] &+ (value &>> 32))
    }

    /// The upper half of the sum, in which all bits of the key count.
    @inlinable @inline(__always)
    static func finish(_ sum: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: sum &>> 32) }
}

/// A key of tables with a secret seed: `FlowKey`, `MACAddress`, `IPv4Address`, `IPv6Address`, `UInt32`, `UInt64`.
public protocol SeededHashable: BitwiseCopyable, Equatable {
    /// 32 bits in which all of the key and all of the seed count.
    func hash(_ seed: HashSeed) -> UInt32
}

extension UInt64: SeededHashable {
    /// All bits count.
    @inlinable @inline(__always)
    public func hash(_ seed: HashSeed) -> UInt32 { HashSeed.finish(seed.base &+ seed.mix(0, self)) }
}

extension UInt32: SeededHashable {
    /// All bits count.
    @inlinable @inline(__always)
    public func hash(_ seed: HashSeed) -> UInt32 { UInt64(self).hash(seed) }
}

extension MACAddress: SeededHashable {
    /// All bits count.
    @inlinable @inline(__always)
    public func hash(_ seed: HashSeed) -> UInt32 { rawValue.hash(seed) }
}

extension IPv4Address: SeededHashable {
    /// All bits count.
    @inlinable @inline(__always)
    public func hash(_ seed: HashSeed) -> UInt32 { UInt64(rawValue).hash(seed) }
}

extension IPv6Address: SeededHashable {
    /// All bits count.
    @inlinable @inline(__always)
    public func hash(_ seed: HashSeed) -> UInt32 {
        HashSeed.finish(seed.base &+ seed.mix(0, high) &+ seed.mix(1, low))
    }
}
