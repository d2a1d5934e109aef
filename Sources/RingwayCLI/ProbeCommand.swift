import ArgumentParser
import Console
import CPlatform
import Foundation
import Glibc
import Memory
import Ringway

/// What a back-end offers.
struct ProbeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "probe",
        abstract: "Tell what a vhost back-end offers: features, protocol features, queues, configuration.",
        discussion: """
            PATH is /dev/vhost-net, /dev/vhost-vdpa-N or the socket of a vhost-user back-end. The back-end is \
            initialised as a driver would do it, asked, and let go of; nothing is started. A port with server=on is \
            listened on until a back-end connects, for ten seconds at most. Of a port's options server= and tap= are \
            used; the others are for a driver that goes on.
            """)

    @Argument(help: "The back-end's path.")
    var path: String?

    @Option(
        help: ArgumentHelp(
            "A port as `forward` takes it (virtio-user:PATH or vhost-user:PATH) instead of a path.", valueName: "port"))
    var port: String?

    @Flag(help: "One JSON object.")
    var json = false

    func run() throws {
        let place = usage(self.place)
        let offer: Offer
        do {
            offer = try Probe(try ProbeCommand.backend(place.path, isServer: place.isServer, tap: place.tap)).offer()
        } catch {
            fail("\(error)")
        }
        if json { printJSON(offer) } else { offer.show() }
    }

    private func place() throws -> (path: String, isServer: Bool, tap: String) {
        if let path, port == nil { return (path, false, "") }
        guard let port, path == nil else {
            throw EngineError("give one path, as in ringway probe /run/switch.sock, or one --port")
        }
        switch try PortSyntax.port(port).kind {
        case .virtioUser(let path, let isServer, let tap): return (path, isServer, tap ?? "")
        case .vhostUser(let path, _): return (path, false, "")
        case .tap: throw EngineError("--port \(port): a TAP is no vhost back-end; use `ip -d link show`")
        case .xdp: throw EngineError("--port \(port): an interface is no vhost back-end; use `ip -d link show`")
        case .null: throw EngineError("--port \(port): nothing is behind it that could be asked")
        }
    }

    /// Without a name the kernel chooses one for a TAP that goes with the probe.
    private static func backend(_ path: String, isServer: Bool, tap: String) throws -> any VhostBackend {
        switch try VhostKind.of(path: path) {
        case .kernel: return KernelBackend(path: path, tap: try Tap(name: tap))
        case .vdpa: return VDPABackend(path: path)
        case .user: return UserBackend(isServer ? try accept(path) : try connect(path), name: path)
        }
    }

    private static func connect(_ path: String) throws -> MessageSocket {
        guard let number = HandedDescriptors.number(path) else { return try MessageSocket.connect(to: path) }
        let (fd, listens) = try HandedDescriptors.socket(number)
        let socket = MessageSocket(fd)
        if listens { throw EngineError("\(path): the socket listens; give a path, or one that is connected") }
        return socket
    }

    private static func accept(_ path: String) throws -> MessageSocket {
        let listener = OwnedDescriptor(try Listener.open(path))
        Leftovers.add(socket: path)
        defer {
            unlink(path)
            Leftovers.forget(socket: path)
        }
        var waiting = pollfd(fd: listener.fd, events: Int16(POLLIN), revents: 0)
        var count: Int32
        repeat { count = poll(&waiting, 1, 10_000) } while count < 0 && errno == EINTR
        guard count == 1 else {
            throw EngineError("\(path): no back-end connected within ten seconds")
        }
        let fd = CPlat_accept(listener.fd)
        guard fd >= 0 else { throw EngineError("\(path): accept: \(SystemError.text(errno))") }
        return MessageSocket(fd)
    }
}

/// Asks a back-end.
private struct Probe {
    let vhost: VhostNet

    init(_ backend: any VhostBackend) throws { vhost = try VhostNet(backend) }

    func offer() throws -> Offer {
        var offer = Offer(
            back_end: "\(vhost.backend.kind)", queue_pairs: vhost.maximumPairs, features: vhost.backend.offered.bitNames
        )
        if let user = vhost.backend as? UserBackend {
            offer.protocol_features = user.protocolFeatures.bitNames
            offer.memory_slots = Int(user.memorySlots)
        }
        if let vdpa = vhost.backend as? VDPABackend {
            offer.backend_features = vdpa.backendFeatureNames
            offer.virtqueues = Int(vdpa.queueCount)
            offer.ring_size = Int(try vdpa.maximumRingSize())
            offer.address_spaces = Int(vdpa.addressSpaces)
            let iova = vdpa.iovaRange
            offer.iova_range = "0x\(String(iova.lowerBound, radix: 16))-0x\(String(iova.upperBound, radix: 16))"
            if !vdpa.groups.isEmpty {
                offer.groups = vdpa.groups.sorted { $0.key < $1.key }.map { "queue \($0.key): \($0.value)" }
            }
        }
        if let kernel = vhost.backend as? KernelBackend {
            offer.net_header_bytes = kernel.tap.headerLength
            offer.features_above_63 = kernel.featuresAbove63
        }
        do throws(VhostError) { try readConfiguration(&offer) } catch {
            // Of the kernel and of back-ends without CONFIG.
            offer.configuration = error.kind == .unsupported ? "none" : "\(error)"
        }
        return offer
    }

    /// struct virtio_net_config (virtio 1.3, 5.1.4), as far as the features say that it holds something.
    private func readConfiguration(_ offer: inout Offer) throws(VhostError) {
        let bytes = try vhost.readConfiguration(offset: 0, size: 12)
        let offered = vhost.backend.offered
        func word(_ i: Int) -> Int { Int(bytes[i]) | Int(bytes[i + 1]) << 8 }
        offer.configuration = "readable"
        // A back-end that lets the driver choose has zeroes there.
        if offered.contains(.mac) || offered.contains(.ctrlMACAddr) && bytes[0..<6].contains(where: { $0 != 0 }) {
            offer.mac = bytes[0..<6].map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
        }
        if offered.contains(.status) {
            offer.link = word(NetConfig.status) & Int(NetConfig.linkUp) != 0 ? "up" : "down"
        }
        if offered.contains(.mq) { offer.max_virtqueue_pairs = word(NetConfig.maxVirtqueuePairs) }
        if offered.contains(.mtu) { offer.mtu = word(NetConfig.mtu) }
    }
}

/// What a back-end offers; nil: its kind has no such thing.
private struct Offer: Encodable {
    var back_end: String
    var queue_pairs: Int
    var features: [String]
    var features_above_63: [Int]?
    var protocol_features: [String]?
    var memory_slots: Int?
    var backend_features: [String]?
    var virtqueues: Int?
    var ring_size: Int?
    var address_spaces: Int?
    var iova_range: String?
    var groups: [String]?
    var net_header_bytes: Int?
    /// `readable`, `none`, or why it cannot be read.
    var configuration = "none"
    var mac: String?
    var link: String?
    var max_virtqueue_pairs: Int?
    var mtu: Int?

    func show() {
        let rows: [(String, [String]?)] = [
            ("back-end", [back_end]), ("queue pairs", ["\(queue_pairs)"]), ("features", features),
            ("features above 63", features_above_63.map { $0.map { "bit \($0) (not used)" } }),
            ("protocol features", protocol_features), ("memory slots", memory_slots.map { ["\($0)"] }),
            ("backend features", backend_features), ("virtqueues", virtqueues.map { ["\($0)"] }),
            ("ring size", ring_size.map { ["\($0)"] }), ("address spaces", address_spaces.map { ["\($0)"] }),
            ("IOVA range", iova_range.map { [$0] }), ("groups", groups),
            ("net header", net_header_bytes.map { ["\($0) bytes"] }), ("configuration", [configuration]),
            ("MAC", mac.map { [$0] }), ("link", link.map { [$0] }),
            ("max_virtqueue_pairs", max_virtqueue_pairs.map { ["\($0)"] }), ("MTU", mtu.map { ["\($0)"] }),
        ]
        for (name, values) in rows { if let values { print(Offer.lines(name, values)) } }
    }

    /// A name and its values, wrapped.
    private static func lines(_ name: String, _ values: [String]) -> String {
        var lines = [""]
        for value in values.isEmpty ? ["none"] : values {
            if lines[lines.count - 1].count + value.count > 88 { lines.append("") }
            lines[lines.count - 1] += (lines[lines.count - 1].isEmpty ? "" : " ") + value
        }
        let first = name + String(repeating: " ", count: max(1, 21 - name.count))
        return first + lines.joined(separator: "\n" + String(repeating: " ", count: 21))
    }
}
