import Foundation
import Glibc
import Testing

/// `ringway capture` beside a ringway with a driver that sends as fast as it can.
@Suite(.serialized) struct CaptureTests {
    private struct Bench {
        let folder = Folder()
        let ringway: Ringway
        let drive: Program
        var port: String { folder("p") }

        init() throws {
            let more = ["--control", folder("c"), "--control-read", folder("r")]
            ringway = try Ringway(["vhost-user:\(folder("p"))"], mode: "macswap", more)
            drive = try Program("drive", [Ringway.binary, "drive", folder("p"), "--seconds", "600"])
            _ = try drive.wait(for: "\n       1 ")
        }

        /// Its output without what it says at the end, which goes to the file `errors`.
        func capture(_ words: [String]) throws -> Program {
            try Program(
                "capture", [Ringway.binary, "capture", "--control", folder("c"), port] + words, errors: folder("errors")
            )
        }

        var errors: String { (try? String(contentsOfFile: folder("errors"), encoding: .utf8)) ?? "" }

        /// Packets that the port has received.
        func received() throws -> Int {
            let stats = try Program("stats", [Ringway.binary, "stats", "--json", "--control", folder("r")])
            guard stats.wait() == 0, let ports = objects(in: stats.output).first?["ports"] as? [[String: Any]],
                let rx = ports.first?["rx"] as? [String: Any], let packets = rx["packets"] as? Int
            else { throw Unexpected(stats.output) }
            return packets
        }

        /// Traffic goes on, and nothing has been left in the dataplane.
        func check(_ descriptors: Int) throws {
            #expect(eventually { self.descriptors == descriptors })
            let before = try received()
            #expect(eventually { ((try? received()) ?? 0) > before })
            #expect(ringway.program.isRunning && drive.isRunning)
        }

        /// The memory of a capture is there.
        var isCapturing: Bool {
            let folder = "/proc/\(ringway.program.pid)/fd/"
            return ((try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []).contains {
                (try? FileManager.default.destinationOfSymbolicLink(atPath: folder + $0))?.contains("ringway-capture")
                    == true
            }
        }

        var descriptors: Int {
            (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(ringway.program.pid)/fd").count) ?? -1
        }

        func end() {
            #expect(drive.end(SIGINT) != nil)
            #expect(ringway.program.end() == 0)
        }
    }

    @Test("a pcapng file: times in nanoseconds, direction and queue; libpcap reads it, too")
    func file() throws {
        let bench = try Bench()
        let descriptors = bench.descriptors
        let file = bench.folder("x.pcapng")
        let begin = Date().timeIntervalSince1970
        let capture = try bench.capture(["-w", file, "-c", "500", "--snap", "60", "--json", "ether", "proto", "0x0800"])
        #expect(capture.wait() == 0, "\(bench.errors)")
        try Schema.check(try JSONTests.parse(capture.output), "capture: summary")
        let pcapng = try Pcapng(try Data(contentsOf: URL(fileURLWithPath: file)))
        #expect(pcapng.name == bench.port && pcapng.resolution == 9 && pcapng.packets.count == 500)
        let good = pcapng.packets.allSatisfy { packet in
            let isIn = packet.direction == 1
            let age = Double(packet.nanoseconds) / 1e9 - begin
            return packet.queue == (isIn ? 1 : 0) && packet.length == 64 && packet.bytes.count == 60 && age > -1
                && age < 600 && (isIn || packet.direction == 2)
        }
        #expect(good)
        let directions = Set(pcapng.packets.map(\.direction))
        #expect(directions == [1, 2] && pcapng.received >= 500)
        var status = stat()
        #expect(stat(file, &status) == 0 && status.st_mode & 0o777 == 0o600)
        #expect(try packets(ofFile: file) == 500)
        try bench.check(descriptors)
        bench.end()
    }

    @Test("lines for people and as JSON; a filter, a time, a signal")
    func lines() throws {
        let bench = try Bench()
        let text = try bench.capture(["--count", "4"])
        #expect(text.wait() == 0)
        let lines = text.output.split(separator: "\n")
        let parts = ["\(bench.port)/", " 64  ", "02:00:00:00:00:02", " IPv4 "]
        #expect(
            lines.count == 4 && lines.allSatisfy { line in parts.allSatisfy { line.contains($0) } }, "\(text.output)")
        #expect(bench.errors.contains("captured 4 of "), "\(bench.errors)")
        let json = try bench.capture(["-c", "3", "--json", "ip"])
        #expect(json.wait() == 0)
        let objects = try JSONTests.parse(json.output)
        try Schema.check(objects, ["packet": "capture: packet", "summary": "capture: summary"])
        #expect(objects.count == 4)
        let none = try bench.capture(["--duration", "0.2", "--json", "arp"])
        #expect(none.wait() == 0)
        #expect(try JSONTests.parse(none.output).map { $0["captured"] } == [.integer(0)])
        // Not the memory of the one before: this one must be far enough to know what to do with a signal.
        #expect(eventually { !bench.isCapturing })
        let endless = try bench.capture(["arp"])
        #expect(eventually { bench.isCapturing })
        #expect(endless.end(SIGINT) == 0 && bench.errors.contains("ended by a signal"), "\(bench.errors)")
        let wrong = try bench.capture(["ip", "and"])
        #expect(wrong.wait() == 64 && bench.errors.contains("filter 'ip and': "), "\(bench.errors)")
        bench.end()
    }

    @Test("-w -: what a pipe's reader gets is a pcapng file; it may go")
    func pipe() throws {
        let bench = try Bench()
        let descriptors = bench.descriptors
        let capture = try bench.capture(["-w", "-", "-c", "100"])
        #expect(capture.wait() == 0)
        let command = "\(Ringway.binary) capture --control \(bench.folder("c")) \(bench.port) -w -"
        let log = try Program(
            "sh",
            [
                "sh", "-c",
                "\(command) -c 100 2>/dev/null >\(bench.folder("y")); \(command) | head -c 5000 | wc -c",
            ])
        #expect(log.wait() == 0 && log.output.contains("5000\n") && log.output.contains("ended by whoever read it"))
        #expect(try Pcapng(try Data(contentsOf: URL(fileURLWithPath: bench.folder("y")))).packets.count == 100)
        try bench.check(descriptors)
        bench.end()
    }

    @Test("a disk that is full, or a file that may not grow, ends the capture; its packets stay, and traffic goes on")
    func fullDisk() throws {
        let bench = try Bench()
        let descriptors = bench.descriptors
        let full = try bench.capture(["-w", "/dev/full"])
        #expect(full.wait() == 1 && bench.errors.contains("/dev/full: No space left on device"), "\(bench.errors)")
        try bench.check(descriptors)
        let command =
            "ulimit -f 100; exec \(Ringway.binary) capture --control \(bench.folder("c")) \(bench.port) "
            + "-w \(bench.folder("x"))"
        let limited = try Program("sh", ["bash", "-c", command])
        #expect(limited.wait() == 1 && limited.output.contains("File too large; the capture has ended"))
        // Whole blocks, without the last one, which has the numbers.
        let pcapng = try Pcapng(try Data(contentsOf: URL(fileURLWithPath: bench.folder("x"))))
        #expect(pcapng.packets.count > 100)
        try bench.check(descriptors)
        bench.end()
    }

    @Test("a client that is killed, or stopped, and a port that is removed")
    func ends() throws {
        let bench = try Bench()
        let descriptors = bench.descriptors
        let killed = try bench.capture(["-w", bench.folder("x")])
        let size = { (try? FileManager.default.attributesOfItem(atPath: bench.folder("x"))[.size] as? Int) ?? 0 }
        #expect(eventually { size() > 1 << 16 })
        #expect(bench.isCapturing)
        #expect(killed.end(SIGKILL) != nil)
        try bench.check(descriptors)
        let stopped = try bench.capture(["-w", bench.folder("y")])
        #expect(eventually { bench.isCapturing })
        kill(stopped.pid, SIGSTOP)
        let before = try bench.received()
        #expect(eventually { ((try? bench.received()) ?? 0) > before + 300_000 })
        kill(stopped.pid, SIGCONT)
        #expect(stopped.end(SIGINT) == 0)
        #expect(!bench.errors.contains("lost 0;"), "\(bench.errors)")
        let pcapng = try Pcapng(try Data(contentsOf: URL(fileURLWithPath: bench.folder("y"))))
        #expect(pcapng.lost > 0)
        #expect(eventually { !bench.isCapturing })
        let last = try bench.capture(["arp"])
        #expect(eventually { bench.isCapturing })
        let remove = try Program(
            "port", [Ringway.binary, "port", "remove", bench.port, "--control", bench.folder("c")])
        #expect(remove.wait() == 0 && last.wait() == 1)
        #expect(bench.errors.contains("the port was removed"), "\(bench.errors)")
        bench.end()
    }
}

/// A pcapng file of one section and one interface in this machine's byte order, read by hand.
private struct Pcapng {
    struct Packet {
        var nanoseconds: UInt64
        var length: Int
        var bytes: [UInt8]
        var direction = 0
        var queue = -1
        var comment: String?
    }

    private(set) var name = ""
    private(set) var resolution = 6
    private(set) var packets: [Packet] = []
    private(set) var received: UInt64 = 0
    private(set) var lost: UInt64 = 0

    init(_ data: Data) throws {
        let bytes = [UInt8](data)
        func word(_ at: Int) -> UInt32 { bytes[at..<at + 4].withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) } }
        var at = 0
        while at < bytes.count {
            guard at + 12 <= bytes.count else { throw Unexpected("half a block at \(at)") }
            let (type, size) = (word(at), Int(word(at + 4)))
            guard size >= 12, size % 4 == 0, at + size <= bytes.count, word(at + size - 4) == size else {
                throw Unexpected("block at \(at): \(size) bytes of \(bytes.count - at)")
            }
            let end = at + size - 4
            func options(_ from: Int) -> [(Int, [UInt8])] {
                var (place, all) = (from, [(Int, [UInt8])]())
                while place + 4 <= end {
                    let (code, length) = (Int(word(place) & 0xffff), Int(word(place) >> 16))
                    if code == 0 { break }
                    all.append((code, Array(bytes[(place + 4)..<(place + 4 + length)])))
                    place += 4 + (length + 3) / 4 * 4
                }
                return all
            }
            func number(_ bytes: [UInt8]) -> UInt64 { bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) } }
            switch type {
            case 0x0a0d_0d0a:
                guard at == 0, word(8) == 0x1a2b_3c4d, word(12) == 1 else { throw Unexpected("section header") }
            case 1:
                guard word(at + 8) == 1 else { throw Unexpected("link type \(word(at + 8))") }
                for (code, value) in options(at + 16) {
                    if code == 2 { name = String(decoding: value, as: UTF8.self) }
                    if code == 9 { resolution = Int(value[0]) }
                }
            case 6:
                let taken = Int(word(at + 20))
                var packet = Packet(
                    nanoseconds: UInt64(word(at + 12)) << 32 | UInt64(word(at + 16)), length: Int(word(at + 24)),
                    bytes: Array(bytes[(at + 28)..<(at + 28 + taken)]))
                for (code, value) in options(at + 28 + (taken + 3) / 4 * 4) {
                    if code == 2 { packet.direction = Int(number(value) & 3) }
                    if code == 6 { packet.queue = Int(number(value)) }
                    if code == 1 { packet.comment = String(decoding: value, as: UTF8.self) }
                }
                packets.append(packet)
            case 5:
                for (code, value) in options(at + 20) {
                    if code == 4 { received = number(value) }
                    if code == 5 { lost = number(value) }
                }
            default: throw Unexpected("block of type \(type)")
            }
            at += size
        }
    }
}

/// How many packets libpcap finds in a file.
private func packets(ofFile path: String) throws -> Int {
    typealias Open = @convention(c) (UnsafePointer<CChar>, UnsafeMutablePointer<CChar>) -> OpaquePointer?
    typealias Next = @convention(c) (OpaquePointer, UnsafeMutableRawPointer) -> UnsafeRawPointer?
    typealias Close = @convention(c) (OpaquePointer) -> Void
    guard let library = dlopen("libpcap.so.0.8", RTLD_NOW), let open = dlsym(library, "pcap_open_offline"),
        let next = dlsym(library, "pcap_next"), let close = dlsym(library, "pcap_close")
    else { throw Unexpected("no libpcap: tools/setup tests") }
    var error = [CChar](repeating: 0, count: 256)
    guard let file = unsafeBitCast(open, to: Open.self)(path, &error) else {
        throw Unexpected("libpcap: \(String(decoding: error.prefix { $0 != 0 }.map(UInt8.init), as: UTF8.self))")
    }
    defer { unsafeBitCast(close, to: Close.self)(file) }
    var (count, header) = (0, [UInt64](repeating: 0, count: 8))
    while unsafeBitCast(next, to: Next.self)(file, &header) != nil { count += 1 }
    return count
}
