import Foundation
import Glibc
import Ringway

/// A filter expression as tcpdump takes it (pcap-filter(7)), compiled by libpcap. The library is looked for when a
/// filter is: nothing else of Ringway needs it. One thread.
package final class PacketFilter {
    /// What is wrong with an expression, or that libpcap is not there. One line.
    package struct Problem: Error, CustomStringConvertible { package let description: String }

    /// `struct bpf_program` of <pcap/bpf.h>.
    private struct BPFProgram: BitwiseCopyable {
        var count: UInt32 = 0
        var instructions: UnsafeMutableRawPointer?
    }

    /// `struct pcap_pkthdr` of <pcap/pcap.h>.
    private struct Header {
        var time = timeval()
        var captured: UInt32
        var length: UInt32
    }

    // <pcap/pcap.h>
    private typealias OpenDead = @convention(c) (Int32, Int32) -> OpaquePointer?
    private typealias Compile =
        @convention(c) (OpaquePointer, UnsafeMutableRawPointer, UnsafePointer<CChar>, Int32, UInt32) -> Int32
    private typealias ErrorText = @convention(c) (OpaquePointer) -> UnsafePointer<CChar>?
    private typealias Match =
        @convention(c) (UnsafeRawPointer, UnsafeRawPointer, UnsafePointer<UInt8>) -> Int32
    private typealias Close = @convention(c) (OpaquePointer) -> Void
    private typealias Free = @convention(c) (UnsafeMutableRawPointer) -> Void

    private static let names = ["libpcap.so.0.8", "libpcap.so.1", "libpcap.so"]

    private let program = OwnedMemory(count: 1, repeating: BPFProgram())
    private let match: Match
    private let free: Free

    /// Compiles it for frames of Ethernet.
    package init(_ expression: String) throws(Problem) {
        guard let library = PacketFilter.names.lazy.compactMap({ dlopen($0, RTLD_NOW) }).first else {
            throw Problem(description: "a filter needs libpcap, which is not there; apt-get install libpcap0.8")
        }
        func find<Function>(_ name: String, _ type: Function.Type) throws(Problem) -> Function {
            guard let symbol = dlsym(library, name) else { throw Problem(description: "libpcap has no \(name)") }
            return unsafeBitCast(symbol, to: type)
        }
        (match, free) = (try find("pcap_offline_filter", Match.self), try find("pcap_freecode", Free.self))
        let compile = try find("pcap_compile", Compile.self)
        let (error, close) = (try find("pcap_geterr", ErrorText.self), try find("pcap_close", Close.self))
        // 1: DLT_EN10MB.
        guard let handle = try find("pcap_open_dead", OpenDead.self)(1, 262_144) else {
            throw Problem(description: "libpcap has no memory")
        }
        defer { close(handle) }
        // No netmask is known.
        if compile(handle, program.start, expression, 1, UInt32.max) != 0 {
            let text = error(handle).map { String(cString: $0) } ?? "it cannot be compiled"
            throw Problem(description: "filter '\(expression)': \(text)")
        }
    }

    deinit { free(program.start) }

    package func matches(_ packet: SeenPacket) -> Bool {
        guard let bytes = packet.bytes.baseAddress else { return false }
        let header = Header(captured: UInt32(packet.bytes.count), length: UInt32(packet.length))
        return withUnsafePointer(to: header) {
            match(program.start, $0, bytes.assumingMemoryBound(to: UInt8.self)) != 0
        }
    }
}
