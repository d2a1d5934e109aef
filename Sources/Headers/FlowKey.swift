/// What tells flows of packets from each other: addresses, ports and protocol of an IPv4 or IPv6 packet. 40 bytes.
/// Compares in a few instructions, and hashes with a secret seed (`HashSeed`).
///
/// ```swift
/// if let key = FlowKey(packet.bytes, layers) { worker = Int(key.symmetricHash(seed) & 3) }
/// ```
public struct FlowKey: SeededHashable, Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
    // IPv4: the upper words are 0, the lower ones hold the address.
    @usableFromInline package var sourceHigh: UInt64
    @usableFromInline package var sourceLow: UInt64
    @usableFromInline package var destinationHigh: UInt64
    @usableFromInline package var destinationLow: UInt64
    /// Source port in bits 48 to 63, destination port in 32 to 47, protocol in 8 to 15, IP version in 0 to 7.
    @usableFromInline package var rest: UInt64

    @inlinable @inline(__always)
    init(_ sourceHigh: UInt64, _ sourceLow: UInt64, _ destinationHigh: UInt64, _ destinationLow: UInt64, _ rest: UInt64)
    {
        self.sourceHigh = sourceHigh
        self.sourceLow = sourceLow
        self.destinationHigh = destinationHigh
        self.destinationLow = destinationLow
        self.rest = rest
    }

    /// The key of an IPv4 flow. Ports in host byte order; 0 for protocols without.
    @inlinable @inline(__always)
    public init(
        source: IPv4Address, destination: IPv4Address, protocol: IPProtocol, sourcePort: UInt16 = 0,
        destinationPort: UInt16 = 0
    ) {
        let ports = UInt64(sourcePort) &<< 48 | UInt64(destinationPort) &<< 32
        self.init(
            0, UInt64(source.rawValue), 0, UInt64(destination.rawValue),
            ports | UInt64(`protocol`.rawValue) &<< 8 | 4)
    }

    /// The key of an IPv6 flow. Ports in host byte order; 0 for protocols without.
    @inlinable @inline(__always)
    public init(
        source: IPv6Address, destination: IPv6Address, protocol: IPProtocol, sourcePort: UInt16 = 0,
        destinationPort: UInt16 = 0
    ) {
        let ports = UInt64(sourcePort) &<< 48 | UInt64(destinationPort) &<< 32
        self.init(
            source.high, source.low, destination.high, destination.low,
            ports | UInt64(`protocol`.rawValue) &<< 8 | 6)
    }

    /// The key of a packet, of which `layers` were found in the same bytes. Nil where they found no IP header, or no
    /// protocol behind it.
    ///
    /// Ports are those of TCP, UDP, UDP-Lite, SCTP and DCCP. An ICMP echo has its identifier in the place of both, so
    /// that question and answer are one flow. All else has 0 and 0, and so has a fragment but the first, which does not
    /// hold them: where fragments are to stay together, use `withoutPorts` for each `layers.isFragment`. A packet that
    /// ends before its ports, or of which the front does, has 0 and 0, too: look at `layers.defect` first.
    @inlinable @inline(__always)
    public init?(_ bytes: HeaderBytes, _ layers: Layers) {
        let network = Int(layers.network)
        guard layers.flags & Layers.Flags.hasProtocol != 0 else { return nil }
        // `layers` may be another frame's: the bytes are there, whatever it says.
        var ports: UInt64 = 0
        let transport = Int(layers.transport)
        if transport != 0, bytes.has(8, at: transport) {
            if IPProtocol(rawValue: layers.proto).hasPorts {
                ports = UInt64(bytes.load32(transport)) &<< 32
            } else {
                ports = FlowKey.echo(bytes.from(transport), layers.proto)
            }
        }
        let rest = ports | UInt64(layers.proto) &<< 8
        if layers.flags & Layers.Flags.ipv4 != 0 {
            guard bytes.has(20, at: network) else { return nil }
            self.init(0, UInt64(bytes.load32(network &+ 12)), 0, UInt64(bytes.load32(network &+ 16)), rest | 4)
        } else {
            guard bytes.has(40, at: network) else { return nil }
            self.init(
                bytes.load64(network &+ 8), bytes.load64(network &+ 16), bytes.load64(network &+ 24),
                bytes.load64(network &+ 32),
                rest | 6)
        }
    }

    /// The identifier of an echo and of its answer, twice; 0 for anything else. Eight bytes are there.
    @usableFromInline
    static func echo(_ bytes: HeaderBytes, _ proto: UInt8) -> UInt64 {
        let type = bytes.load8(0)
        let isEcho =
            switch IPProtocol(rawValue: proto) {
            case .icmp: type == ICMP.V4.echo || type == ICMP.V4.echoReply
            case .icmpV6: type == ICMP.V6.echoRequest || type == ICMP.V6.echoReply
            default: false
            }
        return isEcho ? UInt64(bytes.load16(4)) &* 0x0001_0001 &<< 32 : 0
    }

    /// Whether the addresses are IPv4's.
    @inlinable @inline(__always)
    public var isIPv4: Bool { rest & 0xff == 4 }
    /// Whether the addresses are IPv6's.
    @inlinable @inline(__always)
    public var isIPv6: Bool { rest & 0xff == 6 }
    /// Source address of IPv4; nil for IPv6.
    @inlinable @inline(__always)
    public var sourceIPv4: IPv4Address? {
        isIPv4 ? IPv4Address(rawValue: UInt32(truncatingIfNeeded: sourceLow)) : nil
    }
    /// Destination address of IPv4; nil for IPv6.
    @inlinable @inline(__always)
    public var destinationIPv4: IPv4Address? {
        isIPv4 ? IPv4Address(rawValue: UInt32(truncatingIfNeeded: destinationLow)) : nil
    }
    /// Source address of IPv6; nil for IPv4.
    @inlinable @inline(__always)
    public var sourceIPv6: IPv6Address? { isIPv6 ? IPv6Address(high: sourceHigh, low: sourceLow) : nil }
    /// Destination address of IPv6; nil for IPv4.
    @inlinable @inline(__always)
    public var destinationIPv6: IPv6Address? {
        isIPv6 ? IPv6Address(high: destinationHigh, low: destinationLow) : nil
    }
    /// Protocol behind the IP header.
    @inlinable @inline(__always)
    public var `protocol`: IPProtocol { IPProtocol(rawValue: UInt8(truncatingIfNeeded: rest &>> 8)) }
    /// Source port, host byte order.
    @inlinable @inline(__always)
    public var sourcePort: UInt16 { UInt16(truncatingIfNeeded: rest &>> 48) }
    /// Destination port, host byte order.
    @inlinable @inline(__always)
    public var destinationPort: UInt16 { UInt16(truncatingIfNeeded: rest &>> 32) }

    /// The key of the packets that go the other way.
    @inlinable @inline(__always)
    public var reversed: FlowKey {
        let ports = rest &<< 16 & 0xffff_0000_0000_0000 | rest &>> 16 & 0xffff_0000_0000
        return FlowKey(
            destinationHigh, destinationLow, sourceHigh, sourceLow, ports | rest & 0xffff_ffff)
    }

    /// The same key with ports 0: one for all fragments of a packet.
    @inlinable @inline(__always)
    public var withoutPorts: FlowKey {
        FlowKey(sourceHigh, sourceLow, destinationHigh, destinationLow, rest & 0xffff_ffff)
    }

    /// Whether this is the one of `self` and `reversed` that stands for both in `canonical`.
    @inlinable @inline(__always)
    public var isCanonical: Bool {
        if sourceHigh != destinationHigh { return sourceHigh < destinationHigh }
        if sourceLow != destinationLow { return sourceLow < destinationLow }
        return sourcePort <= destinationPort
    }

    /// One key for both directions: `self` or `reversed`. For tables of connections.
    @inlinable @inline(__always)
    public var canonical: FlowKey { isCanonical ? self : reversed }

    /// A hash in which all of the key counts. See `HashSeed` for what it withstands.
    @inlinable @inline(__always)
    public func hash(_ seed: HashSeed) -> UInt32 {
        if isIPv4 {
            // Both addresses in one word.
            let addresses = seed.mix(0, sourceLow &<< 32 | destinationLow)
            return HashSeed.finish(seed.base &+ addresses &+ seed.mix(2, rest))
        }
        let from = seed.mix(3, sourceHigh) &+ seed.mix(0, sourceLow)
        let to = seed.mix(4, destinationHigh) &+ seed.mix(1, destinationLow)
        return HashSeed.finish(seed.base &+ from &+ to &+ seed.mix(2, rest))
    }

    /// The same for both directions of a flow: to bring them to one thread.
    @inlinable @inline(__always)
    public func symmetricHash(_ seed: HashSeed) -> UInt32 { canonical.hash(seed) }

    /// Whether all of it is alike.
    @inlinable @inline(__always)
    public static func == (a: FlowKey, b: FlowKey) -> Bool {
        let source = (a.sourceHigh ^ b.sourceHigh) | (a.sourceLow ^ b.sourceLow)
        let destination = (a.destinationHigh ^ b.destinationHigh) | (a.destinationLow ^ b.destinationLow)
        return source | destination | (a.rest ^ b.rest) == 0
    }

    /// Such as `198.18.0.1:1024 > 198.18.0.2:53 protocol 17`.
    public var description: String {
        func end(_ high: UInt64, _ low: UInt64, _ port: UInt16) -> String {
            if isIPv4 { return "\(IPv4Address(rawValue: UInt32(truncatingIfNeeded: low))):\(port)" }
            return "[\(IPv6Address(high: high, low: low))]:\(port)"
        }
        let from = end(sourceHigh, sourceLow, sourcePort)
        return "\(from) > \(end(destinationHigh, destinationLow, destinationPort)) protocol \(`protocol`)"
    }
}
