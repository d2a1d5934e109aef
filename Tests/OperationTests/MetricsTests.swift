import Foundation
import Operation
import Ringway
import RingwayLab
import Testing

/// Metrics, and who fetches them in whatever way.
@Suite struct MetricsTests {
    private static func lab() throws -> ControlLab {
        try ControlLab { $0.metrics = .socket(SocketPlace($1 + "/metrics")) }
    }

    @Test("docs/metrics.md has what is answered, and nothing else; promtool has nothing against it")
    func documented() throws {
        let lab = try MetricsTests.lab()
        let client = try ControlClient(lab.path)
        let name = lab.folder + "/a"
        _ = try client.call(Methods.AddPort.self, .init(port: "vhost-user:\(name),busyloop=poll"))
        _ = try client.call(Methods.AddPort.self, .init(port: "null:source,emit=60,rate_in=10kpps"))
        _ = try client.call(Methods.AddPort.self, .init(port: #"null:a"b\c"#))
        var options = DriverOptions()
        options.wantsCalls = true
        let driver = try EmbeddedDriver(path: name, options)
        // Packets both ways, drops, and times.
        try driver.send(64)
        for _ in 0..<100 { _ = try driver.receive() }
        (driver.pairs[0].transmit.driverArea + 2).storeBytes(of: 9999, as: UInt16.self)
        let documented = try MetricsTests.documented()
        var text = ""
        let end = Date(timeIntervalSinceNow: 60)
        while !text.contains("stopped_queues_total{") || !text.contains("dropped_packets_total{") {
            try #require(Date() < end, "\(text)")
            text = try HTTP(lab.folder + "/metrics").get("/metrics").body
        }
        let types = MetricsTests.types(text)
        #expect(types == documented.mapValues(\.type))
        for (family, labels) in MetricsTests.labels(text, types) {
            #expect(labels == documented[family]?.labels, "\(family)")
        }
        #expect(text.contains(#"ringway_port_up{port="null:a\"b\\c"} 1"#))
        #expect(text.contains("ringway_port_connected{port=\"\(name)\"} 1\n"))
        #expect(text.contains("ringway_queue_call_delay_seconds_bucket{port=\"\(name)\",queue=\"0\",le=\"+Inf\"}"))
        let delivered = "ringway_port_delivered_packets_total{port=\"\(name)\",queue=\"0\"} "
        let line = try #require(text.split(separator: "\n").first { $0.hasPrefix(delivered) })
        #expect(Int(line.dropFirst(delivered.count)) ?? 0 >= 100)
        try MetricsTests.promtool(text)
        withExtendedLifetime(driver) {}
    }

    @Test("OpenMetrics for who asks for it; what else can be asked for")
    func requests() throws {
        let lab = try MetricsTests.lab()
        let path = lab.folder + "/metrics"
        let open = try HTTP(path).get("/metrics?x=1", "Accept: application/openmetrics-text; version=1.0.0")
        #expect(open.head.contains("application/openmetrics-text; version=1.0.0") && open.body.hasSuffix("\n# EOF\n"))
        #expect(open.body.contains("# TYPE ringway_thread_busy_seconds counter\nringway_thread_busy_seconds_total{"))
        let plain = try HTTP(path).get("/metrics")
        #expect(plain.head.hasPrefix("HTTP/1.1 200 OK\r\n") && plain.head.contains("text/plain; version=0.0.4"))
        #expect(try HTTP(path).get("/").head.hasPrefix("HTTP/1.1 404"))
        #expect(
            try HTTP(path).ask("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").hasPrefix(
                "HTTP/1.1 405"))
        let head = try HTTP(path).ask("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        #expect(head.hasPrefix("HTTP/1.1 200") && head.hasSuffix("\r\n\r\n"))
    }

    @Test("who sends garbage, too much, half a request, or comes with a crowd: others are answered meanwhile")
    func hostile() throws {
        let lab = try MetricsTests.lab()
        let path = lab.folder + "/metrics"
        let control = try ControlClient(lab.path)
        func others() throws {
            #expect(try HTTP(path).get("/metrics").body.contains("ringway_build_info"))
            #expect(try control.call(Methods.Version.self, .init()).api == 1)
        }
        let slow = try HTTP(path)
        slow.send("GET /metrics HT")
        for text in ["hello\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\0\0\0\r\n\r\n", "GET  /\r\nx\r\n\r\n"] {
            let answer = try HTTP(path).ask(text)
            #expect(answer.isEmpty || answer.hasPrefix("HTTP/1.1 4"), "\(text): \(answer)")
            try others()
        }
        // A head without end: its connection ends long before.
        let long = try HTTP(path)
        long.send("GET /metrics HTTP/1.1\r\n")
        var sent = 0
        while sent < 1 << 24, long.send("X-A: " + String(repeating: "a", count: 1000) + "\r\n") { sent += 1007 }
        #expect(sent < 1 << 24)
        try others()
        // More than there is room for; the slow one is the oldest.
        var crowd: [HTTP] = []
        for _ in 0..<100 {
            crowd.append(try HTTP(path))
            crowd.last?.send("GET /met")
        }
        #expect(slow.receive().isEmpty, "its connection has ended")
        try others()
        // One that asks and does not read.
        for http in crowd.suffix(8) { http.send("rics HTTP/1.1\r\n\r\n") }
        try others()
    }

    @Test("one that says nothing is closed")
    func silent() throws {
        let lab = try MetricsTests.lab()
        let http = try HTTP(lab.folder + "/metrics")
        #expect(http.receive().isEmpty)
    }

    @Test("an address; a place that is taken; the socket's file has its mode, and goes")
    func places() throws {
        let port = try HTTP.freePort()
        let lab = try ControlLab { settings, _ in settings.metrics = .address("127.0.0.1", port: port) }
        #expect(try HTTP(port: port).get("/metrics").body.contains("ringway_build_info"))
        #expect(throws: (any Error).self) {
            _ = try ControlLab { settings, _ in settings.metrics = .address("127.0.0.1", port: port) }
        }
        lab.op.stop()
        #expect(throws: (any Error).self) { try HTTP(port: port) }
        let other = try ControlLab {
            $0.metrics = try? MetricsPlace($1 + "/metrics,mode=640", option: "--metrics")
        }
        var status = stat()
        #expect(stat(other.folder + "/metrics", &status) == 0 && status.st_mode & 0o777 == 0o640)
        other.op.stop()
        #expect(access(other.folder + "/metrics", F_OK) != 0)
    }

    @Test(
        "places that cannot be",
        arguments: ["", "9095", "localhost:9095", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "[::1]", "/x,mode=8"])
    func wrong(text: String) {
        #expect(throws: RPC.Failure.self) { try MetricsPlace(text, option: "--metrics") }
    }

    @Test("places, as they were written")
    func right() throws {
        for text in ["127.0.0.1:9095", "[::1]:9095", "/run/m,mode=660"] {
            #expect(try MetricsPlace(text, option: "--metrics").text == text)
        }
        #expect(try !MetricsPlace("192.0.2.1:80", option: "--metrics").isLocal)
    }

    // MARK: The text

    private static func types(_ text: String) -> [String: String] {
        text.split(separator: "\n").filter { $0.hasPrefix("# TYPE ") }.reduce(into: [:]) {
            let words = $1.split(separator: " ").map(String.init)
            $0[words[2]] = words[3]
        }
    }

    /// Names of the labels of each family that has a sample.
    private static func labels(_ text: String, _ types: [String: String]) -> [String: [String]] {
        text.split(separator: "\n").filter { !$0.hasPrefix("#") }.reduce(into: [:]) { all, line in
            var name = String(line.prefix { $0 != "{" && $0 != " " })
            for ending in ["_bucket", "_sum", "_count"] where types[name] == nil && name.hasSuffix(ending) {
                name = String(name.dropLast(ending.count))
            }
            let names = line.matches(of: /([a-z]+)="/).map { String($0.1) }
            all[name] = names.filter { $0 != "le" }
        }
    }

    private static func documented() throws -> [String: (type: String, labels: [String])] {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let text = try String(contentsOf: root.appending(path: "docs/metrics.md"), encoding: .utf8)
        return text.split(separator: "\n").filter { $0.hasPrefix("| `ringway_") }.reduce(into: [:]) { all, line in
            let cells = line.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
            let labels = cells[2].split(separator: ", ").map { String($0.replacing("`", with: "")) }
            all[cells[0].replacing("`", with: "")] = (cells[1], labels)
        }
    }

    private static func promtool(_ text: String) throws {
        let process = Process()
        let (input, output) = (Pipe(), Pipe())
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["promtool", "check", "metrics"]
        (process.standardInput, process.standardOutput, process.standardError) = (input, output, output)
        try process.run()
        try input.fileHandleForWriting.write(contentsOf: Data(text.utf8))
        try input.fileHandleForWriting.close()
        let said = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        #expect(process.terminationStatus == 0 && said.isEmpty, "tools/setup tests installs promtool: \(said)")
    }
}

/// A connection of an HTTP client that knows no HTTP.
private final class HTTP {
    private let fd: Int32

    struct Refused: Error {}

    init(_ path: String) throws {
        fd = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        try connect(&address)
    }

    init(port: Int) throws {
        fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = HTTP.loopback(port)
        try connect(&address)
    }

    deinit { close(fd) }

    private static func loopback(_ port: Int) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        (address.sin_port, address.sin_addr.s_addr) = (UInt16(port).bigEndian, UInt32(0x7f00_0001).bigEndian)
        return address
    }

    /// One that nobody has now.
    static func freePort() throws -> Int {
        let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(fd) }
        var (address, length) = (loopback(0), socklen_t(MemoryLayout<sockaddr_in>.size))
        let status = withUnsafeMutableBytes(of: &address) {
            let raw = $0.assumingMemoryBound(to: sockaddr.self).baseAddress!
            return bind(fd, raw, length) == 0 ? getsockname(fd, raw, &length) : -1
        }
        if status != 0 { throw Refused() }
        return Int(UInt16(bigEndian: address.sin_port))
    }

    private func connect<Address>(_ address: inout Address) throws {
        let size = socklen_t(MemoryLayout<Address>.size)
        let status = withUnsafeBytes(of: &address) {
            Glibc.connect(fd, $0.assumingMemoryBound(to: sockaddr.self).baseAddress!, size)
        }
        if status != 0 { throw Refused() }
    }

    @discardableResult
    func send(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        return Glibc.send(fd, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count
    }

    /// All that comes until the connection ends.
    func receive() -> String {
        var all: [UInt8] = []
        var room = [UInt8](repeating: 0, count: 65_536)
        while true {
            let n = recv(fd, &room, room.count, 0)
            if n <= 0 { return String(decoding: all, as: UTF8.self) }
            all += room[..<n]
        }
    }

    func ask(_ request: String) throws -> String {
        send(request)
        return receive()
    }

    func get(_ path: String, _ header: String = "X: y") throws -> (head: String, body: String) {
        let answer = try ask("GET \(path) HTTP/1.1\r\nHost: localhost\r\n\(header)\r\n\r\n")
        guard let end = answer.range(of: "\r\n\r\n") else { throw Refused() }
        return (String(answer[..<end.lowerBound]), String(answer[end.upperBound...]))
    }
}
