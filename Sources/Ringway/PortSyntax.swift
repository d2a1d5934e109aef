import Dataplane
import VhostUser

/// Reads ports as the program's `--port` takes them: a kind and a place, as in `vhost-user:PATH`, followed by options
/// after commas, as in `queues=N`.
public enum PortSyntax {
    /// A kind of port: how it is written, and what it then is.
    private struct Kind: Sendable {
        let name: String
        /// What stands after the colon.
        let place: String
        /// Names of the options that it takes.
        let options: [String]
        /// Where an option is that the kind itself has not.
        var elsewhere: [String: String] = [:]
        let make: @Sendable (_ place: String, _ fields: Fields) -> PortKind
    }

    private static let ofInterface = [
        "mtu": "is the interface's; use `ip link set NAME mtu VALUE`",
        "mac": "is the interface's; use `ip link set NAME address VALUE`",
    ]

    private static let kinds = [
        Kind(
            name: "vhost-user", place: "PATH",
            options: ["queues", "mtu", "mac", "busyloop", "threads", "pacing", "client", "ring_reset"]
                + SocketAccess.options
        ) { .vhostUser(path: $0, isClient: $1.isClient) },
        Kind(
            name: "virtio-user", place: "PATH",
            options: [
                "queues", "mtu", "mac", "busyloop", "threads", "server", "tap", "packed", "in_order", "queue_size",
            ]
                + SocketAccess.options
        ) { .virtioUser(path: $0, isServer: $1.isServer, tap: $1.tap) },
        Kind(
            name: "tap", place: "NAME", options: ["queues", "busyloop", "threads"],
            elsewhere: PortSyntax.ofInterface
        ) { place, _ in .tap(name: place) },
        Kind(
            name: "xdp", place: "INTERFACE", options: ["queues", "busyloop", "threads", "queue_size", "busy_poll"],
            elsewhere: PortSyntax.ofInterface
        ) { .xdp(interface: $0, busyPolls: $1.busyPolls) },
        Kind(name: "null", place: "NAME", options: ["queues", "busyloop", "threads", "emit"]) {
            .null(name: $0, emit: $1.emit)
        },
    ]

    /// Options that can change while a port runs.
    package static var changeable: [String] { ["busyloop", "threads", "emit"] + SwitchSyntax.options }

    /// The port that `text` describes. Errors: one line that says what to write instead.
    public static func port(_ text: String) throws(EngineError) -> PortOptions {
        // System calls would take what stands before it.
        if text.utf8.contains(0) { throw EngineError("--port \(text): there is a NUL in it") }
        let parts = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        guard let colon = parts[0].firstIndex(of: ":") else {
            throw EngineError("--port \(text): write \(list(kinds.map { "\($0.name):\($0.place)" }, "or"))")
        }
        let name = String(parts[0][..<colon])
        let place = String(parts[0][parts[0].index(after: colon)...])
        if ["vhost-user", "virtio-user", "tap"].contains(name), place.hasPrefix("fd="),
            HandedDescriptors.number(place) == nil
        {
            throw EngineError("--port \(text): \(place): write the number of a descriptor, as in fd=3, or ./\(place)")
        }
        guard !place.isEmpty else { throw EngineError("--port \(text): nothing stands after '\(name):'") }
        guard let kind = kinds.first(where: { $0.name == name }) else {
            throw EngineError("--port \(text): '\(name)' is no kind of port; \(list(kinds.map(\.name), "and")) are")
        }
        var fields = Fields(kind: kind)
        var names = Set<String>()
        for part in parts.dropFirst() {
            let name = String(part.prefix { $0 != "=" })
            if !names.insert(name).inserted { throw EngineError("--port \(text): '\(name)' is given twice") }
            try fields.read(part, of: text)
        }
        return try fields.options(place, of: text)
    }

    private static func list(_ words: [String], _ last: String) -> String {
        words.dropLast().joined(separator: ", ") + " \(last) " + words[words.count - 1]
    }

    /// `auto`, `throughput` or `latency`.
    public static func pacing(_ text: String) throws(EngineError) -> Pacing {
        guard let pacing = Pacing(rawValue: text) else {
            throw EngineError("pacing '\(text)': write auto, throughput or latency")
        }
        return pacing
    }

    /// A budget: `poll`, `auto`, `0`, or microseconds as `50` or `50us`.
    public static func busyloop(_ text: String) throws(EngineError) -> BusyloopBudget {
        switch text {
        case "poll": return .poll
        case "auto": return .auto
        case "0": return .sleep
        default:
            let digits = text.hasSuffix("us") ? String(text.dropLast(2)) : text
            guard let us = Int(digits), us > 0, us <= 1_000_000 else {
                throw EngineError("busyloop '\(text)': write poll, auto, 0, or 1 to 1000000 microseconds as in 50us")
            }
            return .microseconds(us)
        }
    }

    /// Budgets with commas, with their names.
    public static func budgets(_ text: String) throws(EngineError) -> [(name: String, value: BusyloopBudget)] {
        var all: [(name: String, value: BusyloopBudget)] = []
        for name in text.split(separator: ",", omittingEmptySubsequences: false).map(String.init) {
            do throws(EngineError) { all.append((name, try busyloop(name))) } catch {
                throw EngineError("--budgets \(text): \(error)")
            }
        }
        return all
    }

    /// CPUs: `0,2-4`.
    public static func cpus(_ text: String) throws(EngineError) -> [Int] {
        var all: [Int] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let ends = part.split(separator: "-", omittingEmptySubsequences: false).map { Int($0) }
            guard (1...2).contains(ends.count), let first = ends[0], let last = ends[ends.count - 1], first >= 0,
                first <= last, last < 4096
            else { throw EngineError("--cpus \(text): write CPU numbers as in 1 or 0,2-4") }
            all += first...last
        }
        return all
    }

    /// Numbers of poll threads: `0+2`.
    private static func threads(_ value: String, _ text: String) throws(EngineError) -> [Int] {
        let all = value.split(separator: "+", omittingEmptySubsequences: false).map { Int($0) ?? -1 }
        guard all.allSatisfy({ (0..<64).contains($0) }), all.count <= PortOptions.maximumQueuePairs else {
            throw EngineError("--port \(text): threads=\(value): write numbers of poll threads, from 0, as in 0+2")
        }
        return all
    }

    private struct Fields {
        let kind: Kind
        var queues: Int?
        var mtu: UInt16?
        var mac: [UInt8]?
        var busyloop: BusyloopBudget?
        var threads: [Int] = []
        var pacing: Pacing?
        var isClient = false
        var isServer = false
        var offersRingReset = false
        var tap: String?
        var emit: Int?
        var isPacked = false
        var isInOrder = true
        var ringSize = 1024
        var access = SocketAccess()
        var busyPolls = false
        var switching = SwitchSyntax()

        mutating func read(_ part: String, of text: String) throws(EngineError) {
            guard let equals = part.firstIndex(of: "=") else {
                throw EngineError("--port \(text): '\(part)': options are written name=value")
            }
            let name = String(part[..<equals])
            let value = String(part[part.index(after: equals)...])
            if let place = kind.elsewhere[name] {
                throw EngineError(
                    "--port \(text): '\(name)' \(place.replacing("VALUE", with: value))")
            }
            // DPDK's name for it.
            let known = name == "packed_vq" ? "packed" : name
            if SwitchSyntax.options.contains(name) { return try switching.read(name, value, of: text) }
            guard kind.options.contains(known) else {
                throw EngineError(
                    "--port \(text): '\(name)' is no option of \(kind.name); "
                        + kind.options.joined(separator: ", ") + " are, and of a switch's port "
                        + SwitchSyntax.options.joined(separator: ", "))
            }
            switch known {
            case "queues":
                guard let n = Int(value), (1...128).contains(n) else {
                    throw EngineError("--port \(text): queues=\(value): 1 to 128 queue pairs")
                }
                queues = n
            case "mtu":
                guard let n = UInt16(value), n >= 68 else {
                    throw EngineError("--port \(text): mtu=\(value): 68 to 65535 bytes")
                }
                mtu = n
            case "mac":
                guard let m = OptionSyntax.mac(value), m[0] & 1 == 0 else {
                    throw EngineError("--port \(text): mac=\(value): write a unicast address as in 02:00:00:00:00:01")
                }
                mac = m
            case "busyloop":
                do throws(EngineError) { busyloop = try PortSyntax.busyloop(value) } catch {
                    throw EngineError("--port \(text): \(error)")
                }
            case "threads": threads = try PortSyntax.threads(value, text)
            case "pacing":
                do throws(EngineError) { pacing = try PortSyntax.pacing(value) } catch {
                    throw EngineError("--port \(text): \(error)")
                }
            case "client": isClient = try OptionSyntax.flag(name, value, text)
            case "ring_reset": offersRingReset = try OptionSyntax.flag(name, value, text)
            case "server": isServer = try OptionSyntax.flag(name, value, text)
            case "tap": tap = value
            case "emit":
                guard let n = Int(value), (14...9216).contains(n) else {
                    throw EngineError("--port \(text): emit=\(value): frames of 14 to 9216 bytes")
                }
                emit = n
            case "packed": isPacked = try OptionSyntax.flag(name, value, text)
            case "in_order": isInOrder = try OptionSyntax.flag(name, value, text)
            case "busy_poll": busyPolls = try OptionSyntax.flag(name, value, text)
            case "queue_size":
                guard let n = Int(value), (2...32768).contains(n) else {
                    throw EngineError("--port \(text): queue_size=\(value): 2 to 32768")
                }
                ringSize = n
            case "mode", "user", "group":
                do throws(VhostUserError) { try access.read(name, value) } catch {
                    throw EngineError("--port \(text): \(error)")
                }
            default: assertionFailure("an option that a kind has and nothing reads: \(name)")
            }
        }

        func options(_ place: String, of text: String) throws(EngineError) -> PortOptions {
            var o = PortOptions(kind.make(place, self))
            o.switching = try switching.finish(text)
            o.offersRingReset = offersRingReset
            o.socketAccess = access
            o.queuePairs = queues ?? 1
            o.mtu = mtu
            o.mac = mac
            o.busyloop = busyloop
            o.threads = threads
            o.pacing = pacing
            o.wantsPacked = isPacked
            o.wantsInOrder = isInOrder
            o.ringSize = ringSize
            return o
        }
    }
}
