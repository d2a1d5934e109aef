import CPlatform

extension Packet {
    /// Reads the first `n` bytes of the frame (at most 24) into `head`, once; from then on they are
    /// what every receiver gets in that place. False when the frame is shorter, or `n` is more than 24.
    @inlinable @inline(__always)
    public mutating func loadHead(_ n: UInt16) -> Bool {
        if dataLength >= 24 && n <= 24 {
            head.0 = data.loadUnaligned(as: UInt64.self)
            head.1 = (data + 8).loadUnaligned(as: UInt64.self)
            if n > 16 { head.2 = (data + 16).loadUnaligned(as: UInt64.self) }
            headLength = n
            return true
        }
        return loadHeadSlow(n)
    }

    @inline(never)
    @usableFromInline
    mutating func loadHeadSlow(_ n: UInt16) -> Bool {
        if n > Packet.longestHead || length < UInt32(n) { return false }
        let want = Int(n)
        let (data, dataLength, more, moreCount) = (data, dataLength, more, moreCount)
        withUnsafeMutableBytes(of: &head) { to in
            let base = to.baseAddress.unsafelyUnwrapped
            var filled = 0
            var i = -1
            while filled < want && i < Int(moreCount) {
                let s = i < 0 ? Segment(base: data, length: dataLength) : more.unsafelyUnwrapped[i]
                let take = min(want &- filled, Int(s.length))
                CPlat_copy(base + filled, s.base, UInt64(take))
                filled &+= take
                i &+= 1
            }
        }
        headLength = n
        return true
    }

    /// Destination address as it stands in the frame's first six bytes (little-endian load of the
    /// bytes in their order). Needs `loadHead`.
    @inlinable @inline(__always)
    public var destinationMAC: UInt64 { head.0 & 0xffff_ffff_ffff }

    /// Source address, the same way. Needs `loadHead(12)`.
    @inlinable @inline(__always)
    public var sourceMAC: UInt64 { head.0 >> 48 | (head.1 & 0xffff_ffff) << 16 }

    /// Exchanges source and destination address. Needs `loadHead(12)`.
    @inlinable @inline(__always)
    public mutating func swapMACs() {
        let d = destinationMAC
        let s = sourceMAC
        head.0 = s | d << 48
        head.1 = head.1 & 0xffff_ffff_0000_0000 | d >> 16
    }
}
