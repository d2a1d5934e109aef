import CPlatform
import Foundation
import Glibc
import Memory

/// Writes captured packets as pcapng (draft-ietf-opsawg-pcapng) in this machine's byte order: one interface, times in
/// nanoseconds; direction and queue as options of each packet, and why it was dropped as a comment. One thread.
package final class PcapngWriter {
    /// Why it could not be written. One line.
    package struct Problem: Error, CustomStringConvertible {
        package let description: String
        /// Whoever read a pipe does not any more.
        package let isClosed: Bool
    }

    private let path: String
    private let output: OwnedDescriptor
    private var room: [UInt8] = []
    /// Bytes that are in the file.
    private var written = 0

    /// Makes a file that its user alone may read, or takes standard output for `-`; says what is captured.
    package init(_ path: String, program: String, interface: String, snap: Int) throws(Problem) {
        self.path = path
        let fd = path == "-" ? dup(1) : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        output = OwnedDescriptor(fd)
        if fd < 0 { throw problem(errno) }
        block(0x0a0d_0d0a) { room in
            // The length of the section is not known.
            PcapngWriter.add(&room, [0x1a2b_3c4d, 1, .max, .max])
            PcapngWriter.option(&room, 4, Array(program.utf8))
            PcapngWriter.add(&room, [0])
        }
        block(1) { room in
            // Ethernet.
            PcapngWriter.add(&room, [1, UInt32(snap)])
            PcapngWriter.option(&room, 2, Array(interface.utf8))
            PcapngWriter.option(&room, 9, [9])
            PcapngWriter.add(&room, [0])
        }
        try flush()
    }

    /// Adds a packet; it is written with the next `flush`.
    package func add(_ packet: SeenPacket) {
        block(6) { room in
            let time = packet.nanoseconds
            PcapngWriter.add(
                &room,
                [
                    0, UInt32(time >> 32), UInt32(truncatingIfNeeded: time), UInt32(packet.bytes.count),
                    UInt32(packet.length),
                ])
            room += packet.bytes
            PcapngWriter.pad(&room)
            // epb_flags, epb_queue, opt_comment
            PcapngWriter.option(&room, 2, PcapngWriter.bytes(packet.isInward ? 1 : 2))
            PcapngWriter.option(&room, 6, PcapngWriter.bytes(UInt32(packet.queue)))
            if let cause = packet.cause { PcapngWriter.option(&room, 1, Array("dropped: \(cause)".utf8)) }
            PcapngWriter.add(&room, [0])
        }
    }

    /// Writes what was added, and says how many packets there were and how many were lost.
    package func finish(received: UInt64, lost: UInt64) throws(Problem) {
        let time = CPlat_realtime_ns()
        block(5) { room in
            PcapngWriter.add(&room, [0, UInt32(time >> 32), UInt32(truncatingIfNeeded: time)])
            // isb_ifrecv, isb_ifdrop
            for (code, value) in [(UInt16(4), received), (5, lost)] {
                PcapngWriter.option(&room, code, withUnsafeBytes(of: value, Array.init))
            }
            PcapngWriter.add(&room, [0])
        }
        try flush()
    }

    /// Writes what was added. Where that cannot be, the file ends behind the last packet that is there.
    package func flush() throws(Problem) {
        var sent = 0
        while sent < room.count {
            let n = room[sent...].withUnsafeBytes { write(output.fd, $0.baseAddress, $0.count) }
            if n > 0 {
                sent += n
            } else if n == 0 || errno != EINTR {
                let code = errno
                cut(sent)
                throw problem(code)
            }
        }
        written += sent
        room.removeAll(keepingCapacity: true)
    }

    /// Of what was to be written so many bytes are there: leaves whole blocks in the file.
    private func cut(_ sent: Int) {
        var (whole, size) = (0, 0)
        repeat {
            whole += size
            guard whole + 8 <= sent else { break }
            size = Int(room[(whole + 4)..<(whole + 8)].withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) })
        } while whole + size <= sent
        // Of a pipe nothing can be taken back.
        _ = ftruncate(output.fd, written + whole)
        room = []
    }

    private func problem(_ code: Int32) -> Problem {
        let name = path == "-" ? "standard output" : path
        return Problem(description: "\(name): \(SystemError.text(code))", isClosed: code == EPIPE)
    }

    // MARK: Blocks

    private func block(_ type: UInt32, _ body: (inout [UInt8]) -> Void) {
        let start = room.count
        PcapngWriter.add(&room, [type, 0])
        body(&room)
        let length = PcapngWriter.bytes(UInt32(room.count - start + 4))
        room.replaceSubrange(start + 4..<start + 8, with: length)
        room += length
    }

    private static func bytes(_ word: UInt32) -> [UInt8] { withUnsafeBytes(of: word, Array.init) }

    private static func add(_ room: inout [UInt8], _ words: [UInt32]) {
        words.withUnsafeBytes { room.append(contentsOf: $0) }
    }

    private static func pad(_ room: inout [UInt8]) { while room.count % 4 != 0 { room.append(0) } }

    private static func option(_ room: inout [UInt8], _ code: UInt16, _ value: [UInt8]) {
        let value = value.prefix(Int(UInt16.max))
        add(&room, [UInt32(code) | UInt32(value.count) << 16])
        room += value
        pad(&room)
    }
}
