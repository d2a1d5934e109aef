import CPlatform
import Glibc
import Memory

/// A dirty log: one bit for 4 KiB of guest memory, set by the back-end for each page that it writes.
public final class DirtyLog {
    /// Bytes of guest memory behind one bit (VHOST_LOG_PAGE).
    public static let page: UInt64 = 4096
    /// The log itself, which the back-end writes; mapped as long as this lives.
    public let memory: HostMemory
    /// Bytes: covers the highest address, in steps of 8.
    public let size: Int

    /// For all of `regions`, up to 8 TiB. Errors: `.system` without memory, `.argument` for addresses beyond.
    public init(covering regions: [VhostRegion]) throws(VhostError) {
        let end = regions.map { $0.guestAddress &+ ($0.size &- 1) }.max() ?? 0
        guard end < 1 << 43 else {
            throw VhostError(
                .argument,
                """
                dirty log: memory ends at 0x\(String(end, radix: 16)); a log covers everything below: give the \
                regions low guest addresses
                """
            )
        }
        size = (Int(end / DirtyLog.page / 8) + 8) & ~7
        do { memory = try HostMemory(bytes: size, wantsHugePages: false, name: "dirty log") } catch {
            throw VhostError(.system(ENOMEM), "dirty log: \(error)")
        }
    }

    /// Marks a page as written.
    func mark(_ address: UInt64) {
        let bit = address / DirtyLog.page
        if bit / 8 < UInt64(size) { _ = CPlat_or8_relaxed(memory.base + Int(bit / 8), 1 << UInt8(bit & 7)) }
    }

    /// Guest addresses of the pages that were written since the last call; clears their bits. Any thread,
    /// one at a time.
    public func takeDirty() -> [UInt64] {
        var pages: [UInt64] = []
        for word in stride(from: 0, to: size, by: 4) {
            let p = memory.base + word
            if CPlat_load32_relaxed(p) == 0 { continue }
            let bits = CPlat_exchange32(p, 0)
            for bit in 0..<32 where bits & (1 << UInt32(bit)) != 0 {
                pages.append(UInt64(word * 8 + bit) * DirtyLog.page)
            }
        }
        return pages
    }
}
