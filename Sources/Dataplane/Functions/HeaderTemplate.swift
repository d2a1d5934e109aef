import CPlatform
import Headers
import Virtio

/// Headers that a function puts before many packets: filled in once, copied before each (`Packet.prepend`), where only
/// what differs is left to be written. Up to 128 bytes; a plain value.
///
/// ```swift
/// let outer = HeaderTemplate(Ethernet.size) { bytes in
///     guard let ethernet = Ethernet(bytes) else { return }
///     (ethernet.destination, ethernet.source, ethernet.etherType) = (gateway, own, .ipv4)
/// }
/// ```
public struct HeaderTemplate: BitwiseCopyable, Sendable {
    /// Words, so that a copy is aligned.
    @usableFromInline var words: InlineArray<16, UInt64> = .init(repeating: 0)
    /// Bytes.
    public let count: Int

    /// `count` bytes (0 to 128; more are cut off) of zero, for `fill` to write into.
    public init(_ count: Int, _ fill: (HeaderBytes) -> Void) {
        self.count = min(max(0, count), PacketSlot.headroom)
        let n = self.count
        withUnsafeMutableBytes(of: &words) { fill(HeaderBytes($0.baseAddress.unsafelyUnwrapped, count: n)) }
    }

    @inlinable @inline(__always)
    func copy(to bytes: HeaderBytes) {
        assert(bytes.count >= count)
        let start = bytes.start
        withUnsafeBytes(of: words) { CPlat_copy_short(start, $0.baseAddress.unsafelyUnwrapped, UInt64(count)) }
    }
}
