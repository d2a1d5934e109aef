import CPlatform
import Glibc
import Memory
import Ringway

/// systemd's journal by its own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): an entry is a datagram with fields, by
/// which it can be found. Connected once, before the sandbox; any thread may send.
package final class Journal: Sendable {
    /// Where it listens.
    package static let place = "/run/systemd/journal/socket"
    private let socket: OwnedDescriptor
    /// Of a value, in bytes: what is longer is cut. An entry has few fields, so that it fits into a datagram.
    package static let longestValue = 32_768

    /// Nil: there is none.
    package init?(_ place: String = Journal.place) {
        guard let socket = try? DatagramPlace.connect(to: place, "the journal") else { return nil }
        self.socket = socket
    }

    /// False: it did not take the entry.
    package func send(_ fields: [(name: String, value: String)]) -> Bool {
        let bytes = Journal.datagram(fields)
        return bytes.withUnsafeBytes {
            Glibc.send(socket.fd, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) == $0.count
        }
    }

    /// `NAME=value` and a newline; a value that has newlines stands behind its length (64 bits, little-endian).
    static func datagram(_ fields: [(name: String, value: String)]) -> [UInt8] {
        var bytes: [UInt8] = []
        for (name, value) in fields {
            let text = Array(cut(value).utf8)
            bytes += Array(name.utf8)
            if text.contains(10) {
                bytes.append(10)
                withUnsafeBytes(of: UInt64(text.count).littleEndian) { bytes += Array($0) }
            } else {
                bytes.append(UInt8(ascii: "="))
            }
            bytes += text + [10]
        }
        return bytes
    }

    private static func cut(_ text: String) -> String {
        if text.utf8.count <= longestValue { return text }
        return String(decoding: text.utf8.prefix(longestValue), as: UTF8.self) + " [cut]"
    }

    /// The field of something that an event is logged with. What journald does not allow in a name is an underscore.
    static func name(_ key: String) -> String {
        let letters = key.uppercased().unicodeScalars.map { scalar -> Character in
            ("A"..."Z").contains(scalar) || ("0"..."9").contains(scalar) ? Character(scalar) : "_"
        }
        return "RINGWAY_" + String(letters.prefix(48))
    }
}
