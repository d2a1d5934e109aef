import CPlatform
import Foundation
import RingwayLab
import Testing

/// What a C program has of Ringway: `tools/install-c`, the header, and the library, through plain `cc`.
@Suite(.serialized) struct CFaceTests {
    /// Installed once for all tests, below a folder of its own.
    private static let prefix: String = {
        let path = NSTemporaryDirectory() + "ringway-c-\(UUID().uuidString.prefix(8))"
        _ = try? CFaceTests.run("\(root)/tools/install-c --no-build --prefix \(path)")
        atexit { try? FileManager.default.removeItem(atPath: CFaceTests.prefix) }
        return path
    }()

    /// Runs a command and returns what it printed; throws where it fails.
    @discardableResult
    private static func run(_ command: String, seconds: Double = 60) throws -> String {
        let program = try Program("c-face", ["bash", "-c", command])
        let status = program.wait(seconds: seconds)
        guard status == 0 else {
            throw Unexpected("\(command): \(status.map(String.init) ?? "runs on")\n\(program.output.suffix(3000))")
        }
        return program.output
    }

    /// Builds a C program as a user would and returns its path.
    private static func build(_ source: String, _ f: Folder) throws -> String {
        try run(
            "PKG_CONFIG_PATH=\(prefix)/lib/pkgconfig; export PKG_CONFIG_PATH; "
                + "cc -std=gnu11 -O2 -Wall -Wextra -Werror -o \(f("program")) \(root)/\(source) "
                + "$(pkg-config --cflags --libs ringway) -Wl,-rpath,\(prefix)/lib -lpthread")
        return f("program")
    }

    @Test("the library needs no Swift of the machine's, and shows nothing but the header's functions")
    func library() throws {
        let library = CFaceTests.prefix + "/lib/libringway.so"
        let needed = try CFaceTests.run("ldd \(library)")
        #expect(!needed.contains("libswift") && !needed.contains("libFoundation") && !needed.contains("not found"))
        let symbols = Set(
            try CFaceTests.run("nm -D --defined-only \(library)").split(separator: "\n").compactMap {
                $0.split(separator: " ").last.map(String.init)
            })
        let header = try String(contentsOfFile: CFaceTests.prefix + "/include/ringway.h", encoding: .utf8)
        let declared = Set(
            header.split(separator: "\n").compactMap { line -> String? in
                guard !line.hasPrefix("static"), let found = line.firstMatch(of: /^[a-z].*?\b(ringway_\w+)\(/) else {
                    return nil
                }
                return String(found.1)
            })
        #expect(symbols == declared && declared.count > 30)
        let version = try CFaceTests.run("\(Ringway.binary) --version")
        let number = try #require(header.firstMatch(of: /#define RINGWAY_VERSION "(.*)"/)).1
        #expect(version.hasPrefix("ringway \(number) "))
    }

    @Test("calls for packets allocate nothing, count no references and take no lock")
    func hotPath() throws {
        let calls = try HotPathTests.calls(CFaceTests.prefix + "/lib/libringway.so")
        let hot = calls.filter { name, _ in
            name.hasPrefix("ringway_burst_") || name.hasPrefix("ringway_packet_")
                || name.contains("8RingwayC9CFunctionV") && name.contains("7process")
        }
        #expect(hot.count >= 18)
        for (function, targets) in hot where !Set(targets).isDisjoint(with: HotPathTests.forbidden) {
            Issue.record("\(function) calls \(targets)")
        }
        #expect(calls.values.contains { $0.contains("swift_allocObject") })
    }

    @Test("the header is C99 and C++20", arguments: ["cc -x c -std=c99", "c++ -x c++ -std=c++20"])
    func header(_ compiler: String) throws {
        try CFaceTests.run(
            "echo '#include <ringway.h>\nringway_options o = RINGWAY_OPTIONS_INIT; "
                + "ringway_function f = RINGWAY_FUNCTION_INIT;' | "
                + "\(compiler) -Wall -Wextra -Wno-missing-field-initializers -Werror -pedantic -fsyntax-only "
                + "-I \(CFaceTests.prefix)/include -")
    }

    @Test("each function with arguments that cannot be, and each change of a packet as a receiver sees it")
    func face() throws {
        let f = Folder()
        let program = try CFaceTests.build("Tests/CFace/face.c", f)
        let output = try CFaceTests.run("\(program) \(f("."))")
        #expect(output.contains("0 checks failed"), "\(output)")
    }

    @Test("the example in C: what null ports emit is dropped by its port, or passed")
    func emitted() throws {
        let f = Folder()
        let program = try CFaceTests.build("Examples/C/firewall.c", f)
        for (port, isDropped) in [(1025, true), (53, false)] {
            let output = try CFaceTests.run("\(program) -s 0.2 null:a,emit=64 null:b \(port)")
            let received = try number(after: "null:a: received ", output)
            #expect(received > 0)
            #expect(try number(after: "UDP: ", output) == received && number(after: "other: ", output) == 0)
            let denied = (try? number(after: "denied port: ", output)) ?? 0
            #expect(denied == (isDropped ? received : 0))
            #expect(output.contains("null:b: received 0 packets, 0 bytes; delivered 0 packets") == isDropped)
        }
        let wrong = try Program("firewall", [program, "null:a", "nil:b"])
        #expect(wrong.wait() == 1 && wrong.output.contains("'nil' is no kind of port"))
    }

    @Test("the example in C: datagrams of drivers behind vhost-user", arguments: ["C", "Rust"])
    func drivers(_ language: String) throws {
        let f = Folder()
        let program: String
        if language == "C" {
            program = try CFaceTests.build("Examples/C/firewall.c", f)
        } else {
            // Not each machine has it.
            if (try? CFaceTests.run("rustc --version")) == nil { return }
            program = f("firewall")
            try CFaceTests.run(
                "rustc -D warnings -O -L \(CFaceTests.prefix)/lib -l ringway "
                    + "-C link-arg=-Wl,-rpath,\(CFaceTests.prefix)/lib -o \(program) \(root)/Examples/Rust/firewall.rs")
        }
        let firewall = try Program("firewall", [program, "vhost-user:\(f("a"))", "vhost-user:\(f("b"))", "53", "123"])
        _ = try firewall.wait(for: "running")
        let (a, b) = (try EmbeddedDriver(path: f("a")), try EmbeddedDriver(path: f("b")))
        let ports: [UInt16] = [52, 53, 54, 123, 1234]
        // Until the other side is there, frames are dropped for want of a receiver.
        let end = deadline(10)
        var first: [UInt16] = []
        while first.isEmpty && now < end {
            send(a, [9])
            first = received(b, 1, within: 0.05)
        }
        #expect(!first.isEmpty)
        var arrived: [UInt16] = []
        for _ in 0..<20 {
            send(a, ports)
            arrived += received(b, 3)
        }
        // What was not to come would be among these.
        send(a, [9999])
        arrived += received(b, 1)
        #expect(arrived == (0..<20).flatMap { _ in [52, 54, 1234] } + [9999])
        if language == "C" {
            #expect(firewall.end() == 0)
            #expect(try number(after: "dropped, denied port: ", firewall.output) == 40)
        } else {
            firewall.send("")
            #expect(firewall.wait() == 0)
        }
    }

    @Test("the listings of docs/c-api.md are the examples")
    func docs() throws {
        let text = try String(contentsOfFile: root + "/docs/c-api.md", encoding: .utf8)
        for (file, first, last) in [
            ("Examples/C/firewall.c", "/* On a poll thread, once", "    return RINGWAY_EACH;\n}\n"),
            ("Examples/Rust/firewall.rs", "// Must not unwind", "// RINGWAY_EACH\n}\n"),
        ] {
            let code = try String(contentsOfFile: root + "/" + file, encoding: .utf8)
            let start = try #require(code.range(of: first)).lowerBound
            let end = try #require(code.range(of: last)).upperBound
            #expect(text.contains(code[start..<end]), "\(file)")
        }
    }

    private func number(after text: String, _ output: String) throws -> Int {
        guard let found = output.range(of: text) else { throw Unexpected("no '\(text)' in \(output)") }
        return Int(output[found.upperBound...].prefix { $0.isNumber }) ?? -1
    }

    /// Sends a datagram to each port, of a burst at most.
    private func send(_ d: EmbeddedDriver, _ ports: [UInt16]) {
        let n = d.pairs[0].prepare(ports.count)
        for k in 0..<n {
            let ip: [UInt8] = [0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
            let udp: [UInt8] = [4, 0, UInt8(ports[k] >> 8), UInt8(ports[k] & 255), 0, 26, 0, 0]
            let frame = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0] + ip + udp + [UInt8](repeating: 7, count: 18)
            let out = d.pairs[0].outgoing.start + k
            out.pointee.length = UInt32(frame.count)
            CPlat_zero(out.pointee.base - 12, 12)
            frame.withUnsafeBytes { out.pointee.base.copyMemory(from: $0.baseAddress!, byteCount: frame.count) }
        }
        if n > 0 { d.pairs[0].send(n) }
        d.pairs[0].reclaim()
    }

    /// UDP ports of the next `count` datagrams, or of fewer that came in time; those to port 9 count with a short one
    /// alone.
    private func received(_ d: EmbeddedDriver, _ count: Int, within seconds: Double = 10) -> [UInt16] {
        var all: [UInt16] = []
        let end = deadline(seconds)
        while all.count < count && now < end {
            let n = d.pairs[0].receiveBurst()
            for k in 0..<n {
                let port = (d.pairs[0].incoming[k].base + 36).loadUnaligned(as: UInt16.self).bigEndian
                if port != 9 || seconds < 1 { all.append(port) }
            }
            if n > 0 { d.pairs[0].giveBack() } else { usleep(100) }
        }
        return all
    }
}
