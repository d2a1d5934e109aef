/// A MAC address (IEEE 802, EUI-48).
public struct MACAddress: RawRepresentable, Hashable, Sendable, BitwiseCopyable, LosslessStringConvertible {
    /// The six bytes in their order, as a little-endian load gives them: the first is in bits 0 to 7. Bits 48 to 63
    /// are 0. `Packet.destinationMAC` and `MACTable` have the same form.
    public let rawValue: UInt64

    /// Bits above 47 are dropped.
    @inlinable @inline(__always)
    public init(rawValue: UInt64) { self.rawValue = rawValue & 0xffff_ffff_ffff }

    /// From six bytes in their order on the wire.
    @inlinable
    public init(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8, _ e: UInt8, _ f: UInt8) {
        let low = UInt64(a) | UInt64(b) &<< 8 | UInt64(c) &<< 16
        rawValue = low | UInt64(d) &<< 24 | UInt64(e) &<< 32 | UInt64(f) &<< 40
    }

    /// From bytes in their order on the wire; those behind the sixth are dropped.
    package init(bytes: [UInt8]) {
        rawValue = bytes.prefix(6).enumerated().reduce(0) { $0 | UInt64($1.element) << UInt64(8 * $1.offset) }
    }

    /// From text: six pairs of hexadecimal digits with `:` or `-` between them, such as `02:00:5e:10:00:01`. Nil for
    /// anything else.
    public init?(_ description: String) {
        let text = Array(description.utf8)
        guard text.count == 17, text[2] == UInt8(ascii: ":") || text[2] == UInt8(ascii: "-") else { return nil }
        var value: UInt64 = 0
        for i in 0..<6 {
            guard i == 5 || text[3 * i + 2] == text[2], let high = hexDigit(text[3 * i]),
                let low = hexDigit(text[3 * i + 1])
            else { return nil }
            value |= UInt64(high << 4 | low) << UInt64(8 * i)
        }
        rawValue = value
    }

    /// Six pairs of lower-case hexadecimal digits with `:` between them.
    public var description: String {
        var text = ""
        for i in 0..<6 {
            let byte = UInt8(truncatingIfNeeded: rawValue >> UInt64(8 * i))
            if i > 0 { text += ":" }
            text += String(byte >> 4, radix: 16) + String(byte & 15, radix: 16)
        }
        return text
    }

    /// ff:ff:ff:ff:ff:ff.
    @inlinable @inline(__always)
    public static var broadcast: MACAddress { MACAddress(rawValue: 0xffff_ffff_ffff) }
    /// 00:00:00:00:00:00.
    @inlinable @inline(__always)
    public static var zero: MACAddress { MACAddress(rawValue: 0) }

    /// Whether it stands for a group of stations (IEEE 802-2014, 8.2.2: the I/G bit). Broadcast is one.
    @inlinable @inline(__always)
    public var isMulticast: Bool { rawValue & 1 != 0 }
    /// Whether its owner chose it, and not a vendor (the U/L bit).
    @inlinable @inline(__always)
    public var isLocal: Bool { rawValue & 2 != 0 }

    /// The address to which packets for an IPv4 group go (RFC 1112, section 6.4).
    public init(multicast group: IPv4Address) {
        let v = group.rawValue
        self.init(0x01, 0x00, 0x5e, UInt8(v >> 16 & 0x7f), UInt8(v >> 8 & 0xff), UInt8(v & 0xff))
    }
    /// The address to which packets for an IPv6 group go (RFC 2464, section 7).
    public init(multicast group: IPv6Address) {
        let v = UInt32(truncatingIfNeeded: group.low)
        self.init(0x33, 0x33, UInt8(v >> 24), UInt8(v >> 16 & 0xff), UInt8(v >> 8 & 0xff), UInt8(v & 0xff))
    }
}
