import Console
import Foundation
import Glibc
import Memory
import Ringway

/// A packet that was captured. What it points at is there during the call that gets it.
package struct SeenPacket {
    /// Since 1970: when its burst was seen.
    package var nanoseconds: UInt64
    /// Bytes of the packet, of which there are `bytes`.
    package var length: Int
    package var bytes: UnsafeRawBufferPointer
    /// 2*k*: delivered into pair *k*'s receive queue; 2*k*+1: received from its transmit queue.
    package var queue: Int
    /// Why it went no further; nil: it did, or nobody knows.
    package var cause: String?

    package init(nanoseconds: UInt64, length: Int, bytes: UnsafeRawBufferPointer, queue: Int, cause: String?) {
        (self.nanoseconds, self.length, self.bytes) = (nanoseconds, length, bytes)
        (self.queue, self.cause) = (queue, cause)
    }

    /// Its port's driver has sent it.
    package var isInward: Bool { queue % 2 == 1 }
}

/// A capture of a dataplane that runs, from its control socket. It ends with this. One thread.
package final class CaptureReading {
    package let answer: Methods.Capture.Answer
    private let client: ControlClient
    private let memory: CaptureMemory
    private var seen: [SeenPacket] = []

    /// Begins. Errors: what the dataplane has against it.
    package init(_ path: String, _ params: Methods.Capture.Params) throws(RPC.Failure) {
        client = try ControlClient(path)
        answer = try client.call(Methods.Capture.self, params)
        guard answer.layout == CaptureMemory.version else {
            throw .refused(
                "\(path): it captures in way \(answer.layout), not \(CaptureMemory.version); use its program")
        }
        guard let descriptor = client.takeDescriptors().first else {
            throw .refused("\(path): no memory came with the answer; is it a ringway of this version?")
        }
        do throws(MemoryError) {
            memory = try CaptureMemory(descriptor, threads: answer.threads, ringBytes: answer.ringBytes)
        } catch {
            throw .refused("\(path): \(error)")
        }
    }

    /// Packets that found no room so far: this program did not keep up.
    package var lost: UInt64 { (0..<memory.threads).reduce(0) { $0 &+ memory.lost($1) } }

    /// Why nothing more comes; nil: it goes on. To be asked before `take`, which then has the last.
    package var end: String? {
        switch memory.end {
        case .portRemoved: return "the port was removed"
        case .stopped: return "ringway has ended it"
        case .none: return client.isOpen ? nil : "ringway is gone"
        }
    }

    /// Calls `body` with each packet that has come, by their times, until it says false. Returns how many it was called
    /// with.
    package func take(_ body: (SeenPacket) throws -> Bool) rethrows -> Int {
        seen.removeAll(keepingCapacity: true)
        var ends: [UInt64] = []
        for thread in 0..<memory.threads {
            let (from, bytes) = memory.written(thread)
            var offset = 0
            while let header = CaptureReading.header(bytes, offset) {
                seen.append(packet(header, bytes[offset...]))
                offset += Int(header.size)
            }
            ends.append(from &+ UInt64(bytes.count))
        }
        // Those of one thread stay as they are: its clock may have been set.
        if memory.threads > 1 { seen.sort { $0.nanoseconds < $1.nanoseconds } }
        var count = 0
        for packet in seen {
            count += 1
            if try !body(packet) { break }
        }
        for (thread, end) in ends.enumerated() { memory.release(thread, to: end) }
        return count
    }

    /// The header there, if what it says can be.
    private static func header(_ bytes: UnsafeRawBufferPointer, _ offset: Int) -> CapturedHeader? {
        let least = MemoryLayout<CapturedHeader>.size
        if bytes.count - offset < least { return nil }
        let header = bytes.loadUnaligned(fromByteOffset: offset, as: CapturedHeader.self)
        let size = Int(header.size)
        return size >= least && size <= bytes.count - offset && Int(header.taken) <= size - least ? header : nil
    }

    /// `place` begins with the header.
    private func packet(_ header: CapturedHeader, _ place: Slice<UnsafeRawBufferPointer>) -> SeenPacket {
        let bytes = UnsafeRawBufferPointer(
            rebasing: place.dropFirst(MemoryLayout<CapturedHeader>.size).prefix(Int(header.taken)))
        let cause = Int(header.cause) - 1
        return SeenPacket(
            nanoseconds: header.nanoseconds, length: Int(header.length), bytes: bytes, queue: Int(header.queue),
            cause: cause < 0 ? nil : cause < answer.causes.count ? answer.causes[cause] : "cause \(cause)")
    }

    /// Waits until packets may have come, or the dataplane has closed.
    package func wait(milliseconds: Int32) { client.wait(milliseconds: milliseconds) }
}
