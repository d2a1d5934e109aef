import ArgumentParser
import CPlatform
import Foundation
import Glibc
import Ringway

/// What a back-end offers.
struct ProbeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "probe",
        abstract: "Tell what a vhost back-end offers: features, protocol features, queues, configuration.",
        discussion: """
            PATH is /dev/vhost-net, /dev/vhost-vdpa-N or the socket of a vhost-user back-end. The back-end is \
            initialised as a driver would do it, asked, and let go of; nothing is started. A port with server=on \
            is listened on until a back-end connects, for ten seconds at most.
            """)

    @Argument(help: "The back-end's path.")
    var path: String?

    @Option(help: ArgumentHelp("A port as `forward` takes it (virtio-user:PATH or vhost-user:PATH) instead of a path.", valueName: "port"))
    var port: String?

    @Flag(help: "One JSON object.")
    var json = false

    func run() throws {
        let rows: [(name: String, values: [String])]
        let place = usage(self.place)
        do {
            rows = try Probe(try ProbeCommand.backend(place.path, isServer: place.isServer, tap: place.tap)).rows()
        } catch {
            fail("\(error)")
        }
        if json {
            let object = Dictionary(uniqueKeysWithValues: rows.map { ($0.name, $0.values.count == 1 ? $0.values[0] as Any : $0.values as Any) })
            let data = try JSONSerialization.data(withJSONObject: object, options: [.sortedKeys])
            print(String(decoding: data, as: UTF8.self))
        } else {
            for (name, values) in rows { print(Probe.lines(name, values)) }
        }
    }

    private func place() throws -> (path: String, isServer: Bool, tap: String) {
        if let path, port == nil { return (path, false, "") }
        guard let port, path == nil else { throw EngineError("give one path, as in ringway probe /run/switch.sock, or one --port") }
        switch try PortSyntax.port(port).kind {
        case .virtioUser(let path, let isServer, let tap): return (path, isServer, tap ?? "")
        case .vhostUser(let path, _): return (path, false, "")
        case .tap: throw EngineError("--port \(port): a TAP is no vhost back-end; use `ip -d link show`")
        }
    }

    /// Without a name the kernel chooses one for a TAP that goes with the probe.
    private static func backend(_ path: String, isServer: Bool, tap: String) throws -> any VhostBackend {
        switch try VhostKind.of(path: path) {
        case .kernel: return KernelBackend(path: path, tap: try Tap(name: tap))
        case .vdpa: return VDPABackend(path: path)
        case .user: return UserBackend(isServer ? try accept(path) : try MessageSocket.connect(to: path), name: path)
        }
    }

    private static func accept(_ path: String) throws -> MessageSocket {
        let listener = OwnedDescriptor(try Listener.open(path))
        defer { unlink(path) }
        var waiting = pollfd(fd: listener.fd, events: Int16(POLLIN), revents: 0)
        guard poll(&waiting, 1, 10_000) == 1 else { throw EngineError("\(path): no back-end connected within ten seconds") }
        let fd = CPlat_accept(listener.fd)
        guard fd >= 0 else { throw EngineError("\(path): accept: \(String(cString: strerror(errno)))") }
        return MessageSocket(fd)
    }
}

/// Asks a back-end.
private struct Probe {
    let vhost: VhostNet

    init(_ backend: any VhostBackend) throws { vhost = try VhostNet(backend) }

    func rows() throws -> [(name: String, values: [String])] {
        var rows: [(String, [String])] = [
            ("back-end", ["\(vhost.backend.kind)"]), ("queue pairs", ["\(vhost.maximumPairs)"]), ("features", vhost.backend.offered.bitNames),
        ]
        if let user = vhost.backend as? UserBackend {
            rows += [("protocol features", user.protocolFeatures.bitNames), ("memory slots", ["\(user.memorySlots)"])]
        }
        if let vdpa = vhost.backend as? VDPABackend {
            rows += [
                ("backend features", vdpa.backendFeatureNames), ("virtqueues", ["\(vdpa.queueCount)"]), ("ring size", ["\(try vdpa.maximumRingSize())"]),
                ("address spaces", ["\(vdpa.addressSpaces)"]),
                ("IOVA range", ["0x\(String(vdpa.iovaRange.lowerBound, radix: 16))-0x\(String(vdpa.iovaRange.upperBound, radix: 16))"]),
            ]
            if !vdpa.groups.isEmpty { rows.append(("groups", vdpa.groups.sorted { $0.key < $1.key }.map { "queue \($0.key): \($0.value)" })) }
        }
        if let kernel = vhost.backend as? KernelBackend { rows.append(("net header", ["\(kernel.tap.headerLength) bytes"])) }
        do throws(VhostError) { rows += try configuration() } catch {
            // Of the kernel and of back-ends without CONFIG.
            rows.append(("configuration", [error.kind == .unsupported ? "none" : "\(error)"]))
        }
        return rows
    }

    /// struct virtio_net_config (virtio 1.3, 5.1.4), as far as the features say that it holds something.
    private func configuration() throws(VhostError) -> [(String, [String])] {
        let bytes = try vhost.readConfiguration(offset: 0, size: 12)
        let offered = vhost.backend.offered
        func word(_ i: Int) -> Int { Int(bytes[i]) | Int(bytes[i + 1]) << 8 }
        var rows: [(String, [String])] = []
        // A back-end that lets the driver choose has zeroes there.
        if offered.contains(.mac) || offered.contains(.ctrlMACAddr) && bytes[0..<6].contains(where: { $0 != 0 }) {
            rows.append(("MAC", [bytes[0..<6].map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")]))
        }
        if offered.contains(.status) { rows.append(("link", [word(6) & 1 == 1 ? "up" : "down"])) }
        if offered.contains(.mq) { rows.append(("max_virtqueue_pairs", ["\(word(8))"])) }
        if offered.contains(.mtu) { rows.append(("MTU", ["\(word(10))"])) }
        return rows.isEmpty ? [("configuration", ["readable"])] : rows
    }

    /// A name and its values, wrapped.
    static func lines(_ name: String, _ values: [String]) -> String {
        var lines = [""]
        for value in values.isEmpty ? ["none"] : values {
            if lines[lines.count - 1].count + value.count > 88 { lines.append("") }
            lines[lines.count - 1] += (lines[lines.count - 1].isEmpty ? "" : " ") + value
        }
        let first = name + String(repeating: " ", count: max(1, 21 - name.count))
        return first + lines.joined(separator: "\n" + String(repeating: " ", count: 21))
    }
}
