import Foundation
import Memory

/// What is wrong with a capture file, in one line that says where.
package struct CaptureError: Error, Equatable, CustomStringConvertible {
    /// The file, the frame from 1 on (nil: the file's header) and its first byte in the file where that is known, and
    /// what is wrong.
    package let description: String

    init(_ path: String, frame: Int? = nil, at offset: Int? = nil, _ text: String) {
        let place = frame.map { "frame \($0)" + (offset.map { " at byte \($0)" } ?? "") + ": " } ?? ""
        description = "\(path): \(place)\(text)"
    }
}

/// A frame of a capture file.
package struct CapturedFrame: Equatable {
    /// When it was seen: nanoseconds since 1970, up to 2106.
    package var nanoseconds: UInt64
    /// What the file has of it, without CRC.
    package var bytes: [UInt8]
    /// How long it was.
    package var originalLength: UInt32

    package init(nanoseconds: UInt64, bytes: [UInt8], originalLength: UInt32? = nil) {
        self.nanoseconds = nanoseconds
        self.bytes = bytes
        self.originalLength = originalLength ?? UInt32(clamping: bytes.count)
    }
}

/// Reads a classic pcap file of Ethernet frames, one after the other, of either byte order and resolution (the format:
/// draft-ietf-opsawg-pcap). Holds one frame. The file may be anybody's. One thread.
package final class CaptureReader {
    /// Longest frame: the largest snapshot length that tcpdump takes.
    package static let longestFrame = 262_144

    private let path: String
    private let file: BufferedFile
    private let isBig: Bool
    /// Whether times are in nanoseconds; else microseconds.
    package let isNanoseconds: Bool
    private var offset = 24
    /// Frames read.
    package private(set) var count = 0

    /// Opens a file and reads its header. Throws where that is no pcap file, or its frames are not Ethernet's.
    package init(_ path: String) throws(CaptureError) {
        let file = try BufferedFile(path, "re")
        let bytes = try file.read(24)
        func refuse(_ text: String) -> CaptureError { CaptureError(path, text) }
        guard bytes.count >= 4 else { throw refuse("no pcap file: \(bytes.count) bytes") }
        let (isBig, isNanoseconds): (Bool, Bool)
        switch CaptureReader.word(bytes, 0, isBig: true) {
        case 0xa1b2_c3d4: (isBig, isNanoseconds) = (true, false)
        case 0xa1b2_3c4d: (isBig, isNanoseconds) = (true, true)
        case 0xd4c3_b2a1: (isBig, isNanoseconds) = (false, false)
        case 0x4d3c_b2a1: (isBig, isNanoseconds) = (false, true)
        case 0x0a0d_0d0a: throw refuse("a pcapng file; `tcpdump -r FILE -w NEW` or `editcap -F pcap` makes a pcap file")
        default: throw refuse("no pcap file: it begins with other bytes")
        }
        guard bytes.count == 24 else { throw refuse("no pcap file: \(bytes.count) bytes, its header has 24") }
        let version = CaptureReader.word(bytes, 4, isBig: isBig)
        let major = isBig ? version >> 16 : version & 0xffff
        guard major == 2 else { throw refuse("version \(major) of pcap; 2 is known") }
        let link = CaptureReader.word(bytes, 20, isBig: isBig)
        guard link == 1 else { throw refuse("link type \(link); 1 (Ethernet without CRC) is possible") }
        (self.path, self.file, self.isBig, self.isNanoseconds) = (path, file, isBig, isNanoseconds)
    }

    /// The next frame; nil at the end of the file. Throws where the file ends within one, or what it says of it cannot
    /// be; then there is no next one.
    package func next() throws(CaptureError) -> CapturedFrame? {
        let header = try file.read(16)
        if header.isEmpty { return nil }
        func refuse(_ text: String) -> CaptureError { CaptureError(path, frame: count + 1, at: offset, text) }
        guard header.count == 16 else { throw refuse("the file ends after \(header.count) of 16 bytes of its header") }
        let seconds = CaptureReader.word(header, 0, isBig: isBig)
        let fraction = CaptureReader.word(header, 4, isBig: isBig)
        let length = CaptureReader.word(header, 8, isBig: isBig)
        let original = CaptureReader.word(header, 12, isBig: isBig)
        guard length <= CaptureReader.longestFrame else {
            throw refuse("\(length) bytes; at most \(CaptureReader.longestFrame) are possible")
        }
        guard fraction < (isNanoseconds ? 1_000_000_000 : 1_000_000) else {
            throw refuse("\(fraction) \(isNanoseconds ? "nano" : "micro")seconds are more than a second")
        }
        let bytes = try file.read(Int(length))
        guard bytes.count == Int(length) else { throw refuse("\(length) bytes, of which the file has \(bytes.count)") }
        count += 1
        offset += 16 + bytes.count
        let nanoseconds = UInt64(seconds) * 1_000_000_000 + UInt64(fraction) * (isNanoseconds ? 1 : 1000)
        return CapturedFrame(nanoseconds: nanoseconds, bytes: bytes, originalLength: original)
    }

    private static func word(_ bytes: [UInt8], _ at: Int, isBig: Bool) -> UInt32 {
        let big = bytes[at..<at + 4].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        return isBig ? big : big.byteSwapped
    }
}

/// Writes a classic pcap file of Ethernet frames, in this machine's byte order. What was there before is gone. One
/// thread.
package final class CaptureWriter {
    private let path: String
    private var file: BufferedFile?
    private let isNanoseconds: Bool
    /// Frames written.
    package private(set) var count = 0

    /// Makes the file, with times in nanoseconds or microseconds.
    package init(_ path: String, isNanoseconds: Bool) throws(CaptureError) {
        (self.path, self.file, self.isNanoseconds) = (path, try BufferedFile(path, "we"), isNanoseconds)
        let magic: UInt32 = isNanoseconds ? 0xa1b2_3c4d : 0xa1b2_c3d4
        try write([magic, 4 << 16 | 2, 0, 0, UInt32(CaptureReader.longestFrame), 1])
    }

    /// Adds a frame.
    package func add(_ frame: CapturedFrame) throws(CaptureError) {
        let (seconds, rest) = frame.nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
        let fraction = UInt32(isNanoseconds ? rest : rest / 1000)
        let length = UInt32(clamping: frame.bytes.count)
        try write([UInt32(truncatingIfNeeded: seconds), fraction, length, frame.originalLength])
        try write(frame.bytes)
        count += 1
    }

    /// Ends the file. Throws where not all of it could be written. Nothing can be added afterwards.
    package func close() throws(CaptureError) {
        defer { file = nil }
        try file?.close()
    }

    private func write<T: BitwiseCopyable>(_ values: [T]) throws(CaptureError) {
        guard let file else { throw CaptureError(path, "written to after its end") }
        try file.write(values)
    }
}

/// A file of the C library, closed with this. Its errors name it. One thread.
private final class BufferedFile {
    private let path: String
    private let file: UnsafeMutablePointer<FILE>
    private var isOpen = true

    /// `mode` as fopen(3) takes it.
    init(_ path: String, _ mode: String) throws(CaptureError) {
        guard let file = fopen(path, mode) else { throw CaptureError(path, SystemError.text(errno)) }
        (self.path, self.file) = (path, file)
    }

    deinit { if isOpen { fclose(file) } }

    /// The next bytes; fewer where the file ends.
    func read(_ count: Int) throws(CaptureError) -> [UInt8] {
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { $1 = fread($0.baseAddress, 1, count, file) }
        if bytes.count < count && ferror(file) != 0 { throw CaptureError(path, SystemError.text(errno)) }
        return bytes
    }

    func write<T: BitwiseCopyable>(_ values: [T]) throws(CaptureError) {
        let isWhole = values.withUnsafeBytes { $0.count == 0 || fwrite($0.baseAddress, $0.count, 1, file) == 1 }
        if !isWhole { throw CaptureError(path, SystemError.text(errno)) }
    }

    /// Throws where not all could be written. It is used no more.
    func close() throws(CaptureError) {
        isOpen = false
        if fclose(file) != 0 { throw CaptureError(path, SystemError.text(errno)) }
    }
}
